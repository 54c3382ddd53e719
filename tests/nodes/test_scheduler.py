"""The scheduler's policy on a fake clock: no thread, no ROS, no model."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from lens_ros.nodes.perception.scheduler import Scheduler
from lens_ros.nodes.perception.tasks import (
    Errand,
    Follow,
    Idle,
    Job,
    Reason,
    Serve,
    StoppedError,
    Target,
    TooManyError,
)  # fmt: skip

REPLACED = "replaced by a newer instruction: 'red mug'"
FAILED = RuntimeError("out of memory")


class Ends:
    """Record which targets ended, and which of them without an answer."""

    def __init__(self) -> None:
        self.ended_targets: list[str] = []
        self.without_answer: list[tuple[str, str]] = []

    def ended(self, target: Target) -> None:
        self.ended_targets.append(target.instruction)

    def unanswered(self, target: Target, reason: str) -> None:
        self.without_answer.append((target.instruction, reason))


class Bench:
    """A scheduler with a clock and policies that tests set."""

    def __init__(self) -> None:
        self.now = 100.0
        self.interval = self.rate = 0.0
        self.tracks = False
        self.stale: set[str] = set()
        self.ends = Ends()
        self.scheduler = Scheduler(
            self.ends,  # type: ignore[arg-type]  # the scheduler calls these two alone
            fresh=lambda message: message not in self.stale,
            interval=lambda: self.interval,
            max_rate_hz=lambda: self.rate,
            max_targets=lambda: 3,
            tracks=lambda: self.tracks,
            clock=lambda: self.now,
        )

    def see(self, *messages: str) -> None:
        for message in messages:
            self.scheduler.set_frame(message)

    def reason(self) -> Reason:
        """Take the next task, which is to be a batch of targets."""
        task = self.scheduler.next()
        assert isinstance(task, Reason), task
        return task

    def answer(self, result: Any = "answer") -> tuple[list[str], str]:
        """Take and answer a batch; return its instructions and its image."""
        task = self.reason()
        self.scheduler.done(task, [result] * len(task.targets))
        return [target.instruction for target in task.targets], task.frame.message

    def job(self, instruction: str, message: str | None = None) -> Job:
        job = Job(instruction, message)
        self.scheduler.submit(job)
        return job

    def serve(self) -> tuple[list[str], Any]:
        task = self.scheduler.next()
        assert isinstance(task, Serve), task
        for job in task.jobs:
            job.finish("answer")
        self.scheduler.finished()
        return [job.instruction for job in task.jobs], task.frame and task.frame.message

    @property
    def idle(self) -> bool:
        return isinstance(self.scheduler.next(), Idle)


@pytest.fixture
def bench() -> Bench:
    return Bench()


# Images -----------------------------------------------------------------------------------------------------


def test_an_instruction_waits_for_the_first_image(bench: Bench) -> None:
    bench.scheduler.set_instruction("red mug")
    assert bench.idle
    bench.see("image 1")
    assert bench.answer() == (["red mug"], "image 1")
    assert bench.ends.without_answer == []


def test_an_instruction_is_answered_once_on_the_newest_image(bench: Bench) -> None:
    bench.see(*(f"image {number}" for number in range(5)))
    bench.scheduler.set_instruction("red mug")
    assert bench.answer() == (["red mug"], "image 4")
    bench.see("image 5")
    assert bench.idle


def test_an_interval_repeats_it_but_never_on_the_same_image(bench: Bench) -> None:
    bench.interval = 2.0
    bench.scheduler.set_instruction("red mug")
    bench.see("image 1")
    bench.answer()
    bench.now += 2.0
    assert bench.idle
    bench.see("image 2")
    assert bench.answer() == (["red mug"], "image 2")
    bench.see("image 3")
    bench.now += 1.9
    assert bench.scheduler.next() == Idle(pytest.approx(0.1))
    bench.now += 0.2
    assert bench.answer() == (["red mug"], "image 3")


def test_an_undecodable_image_is_dropped_and_the_next_one_is_used(bench: Bench) -> None:
    bench.scheduler.set_instruction("red mug")
    bench.see("bad")
    bench.scheduler.unusable(bench.reason())
    assert not bench.scheduler.has_frame and bench.idle
    bench.see("image 2")
    assert bench.answer() == (["red mug"], "image 2")


def test_a_target_that_ends_while_its_image_is_decoded_is_reported(bench: Bench) -> None:
    bench.scheduler.set_instruction("red mug")
    bench.see("bad")
    task = bench.reason()
    bench.scheduler.clear("cleared")
    assert bench.ends.without_answer == []  # it is in progress
    bench.scheduler.unusable(task)
    assert bench.ends.without_answer == [("red mug", "cleared")]


def test_an_image_that_is_stale_when_it_is_used_is_dropped(bench: Bench) -> None:
    bench.stale.add("image 1")
    bench.see("image 1")
    bench.scheduler.set_instruction("red mug")
    assert bench.idle and not bench.scheduler.has_frame and bench.scheduler.latest is None
    bench.see("image 2")
    assert bench.scheduler.latest == "image 2"
    assert bench.answer() == (["red mug"], "image 2")


def test_a_forgotten_image_is_not_used(bench: Bench) -> None:
    bench.see("image 1")
    bench.scheduler.forget_frame()
    bench.scheduler.set_instruction("red mug")
    assert bench.idle


def test_the_rate_of_images_is_limited(bench: Bench) -> None:
    bench.interval, bench.rate = 1e-9, 2.0
    bench.scheduler.set_instruction("red mug")
    bench.see("image 1")
    bench.answer()
    bench.now += 0.4
    bench.see("image 2")
    assert bench.scheduler.next() == Idle(pytest.approx(0.1))
    bench.now += 0.2
    bench.see("image 3")
    assert bench.scheduler.superseded == 1  # image 2 had become due by then
    assert bench.answer() == (["red mug"], "image 3")


# Targets ----------------------------------------------------------------------------------------------------


def test_a_newer_instruction_replaces_the_one_in_progress(bench: Bench) -> None:
    bench.see("image")
    first = bench.scheduler.set_instruction("slow one")
    task = bench.reason()
    second = bench.scheduler.set_instruction("red mug")
    assert second.id == first.id + 1 and bench.ends.without_answer == []
    assert bench.scheduler.done(task, [InterruptedError()]) == [REPLACED]
    assert bench.answer() == (["red mug"], "image")


def test_an_instruction_replaced_before_any_image_is_reported(bench: Bench) -> None:
    bench.scheduler.set_instruction("one")
    bench.scheduler.set_instruction("red mug")
    assert bench.ends.ended_targets == ["one"]
    assert bench.ends.without_answer == [("one", REPLACED)]


def test_the_same_text_alone_is_known(bench: Bench) -> None:
    target = bench.scheduler.set_instruction("red mug")
    assert bench.scheduler.active_alone(" red  mug ") is target
    assert bench.scheduler.active_alone("bowl") is None
    bench.scheduler.add_instruction("bowl")
    assert bench.scheduler.active_alone("red mug") is None


def test_several_targets_are_answered_as_one_batch(bench: Bench) -> None:
    for instruction in ("red mug", "bowl", "spoon"):
        bench.scheduler.add_instruction(instruction)
    bench.see("image")
    assert bench.answer() == (["red mug", "bowl", "spoon"], "image")
    assert [target.instruction for target in bench.scheduler.targets] == ["red mug", "bowl", "spoon"]


def test_an_interval_repeats_all_targets_together(bench: Bench) -> None:
    bench.interval = 1.0
    bench.scheduler.add_instruction("red mug")
    bench.see("image 1")
    bench.answer()
    bench.scheduler.add_instruction("bowl")
    bench.see("image 2")
    assert bench.answer() == (["red mug", "bowl"], "image 2")  # one due target brings the others along
    bench.now += 1.0
    bench.see("image 3")
    assert bench.answer() == (["red mug", "bowl"], "image 3")


def test_adding_and_removing_does_not_disturb_the_batch_in_progress(bench: Bench) -> None:
    bench.see("image")
    bench.scheduler.set_instruction("slow one")
    task = bench.reason()
    bench.scheduler.add_instruction("red mug")
    gone = bench.scheduler.add_instruction("bowl")
    assert bench.scheduler.remove(gone.id, "removed") is gone
    assert bench.scheduler.remove(gone.id, "removed") is None
    assert bench.ends.without_answer == [("bowl", "removed")]
    assert bench.scheduler.done(task, ["answer"]) == [""]
    assert bench.answer() == (["red mug"], "image")


def test_one_removed_from_a_running_batch_leaves_the_others_their_answers(bench: Bench) -> None:
    bench.scheduler.add_instruction("slow one")
    gone = bench.scheduler.add_instruction("bowl")
    bench.see("image")
    task = bench.reason()
    bench.scheduler.remove(gone.id, "removed")
    assert bench.ends.without_answer == []
    assert bench.scheduler.done(task, ["answer", "answer"]) == ["", "removed"]
    assert bench.ends.without_answer == []  # the inference thread publishes it with the others


def test_failures_are_retried_less_and_less_often(bench: Bench) -> None:
    target = bench.scheduler.set_instruction("red mug")
    waits = []
    for number in range(5):
        bench.see(f"image {number}")
        bench.answer(FAILED)
        waits.append(target.due - bench.now)
        bench.now = target.due
    assert waits == [5.0, 10.0, 20.0, 40.0, 40.0]
    bench.now -= 1.0
    bench.see("too early")
    assert bench.scheduler.next() == Idle(1.0)
    bench.now += 1.0
    assert bench.answer() == (["red mug"], "too early")
    assert target.failures == 0


def test_an_interval_retries_sooner(bench: Bench) -> None:
    bench.interval = 2.0
    target = bench.scheduler.set_instruction("red mug")
    bench.see("image")
    bench.answer(FAILED)
    assert target.due == bench.now + 2.0


def test_asking_again_waits_for_a_newer_image(bench: Bench) -> None:
    bench.see("image 1")
    bench.scheduler.set_instruction("red mug")
    task = bench.reason()
    assert bench.scheduler.ask_again() == 1  # while an answer is in progress
    assert bench.scheduler.done(task, ["answer"]) == [""]
    assert bench.scheduler.take_reset() and not bench.scheduler.take_reset()
    assert bench.idle
    bench.see("image 2")
    assert bench.answer() == (["red mug"], "image 2")


def test_there_is_a_limit_of_targets(bench: Bench) -> None:
    for number in range(3):
        bench.scheduler.add_instruction(str(number))
    with pytest.raises(TooManyError):
        bench.scheduler.add_instruction("one too many")
    bench.scheduler.set_instruction("alone")
    assert [target.instruction for target in bench.scheduler.targets] == ["alone"]


def test_ids_stay_in_uint16_and_skip_what_is_active_or_in_progress(bench: Bench) -> None:
    bench.scheduler._targets._last_id = 65534
    kept = bench.scheduler.set_instruction("kept")
    in_progress = bench.scheduler.add_instruction("in progress")
    assert (kept.id, in_progress.id) == (65535, 1)
    bench.see("image")
    bench.reason()
    bench.scheduler.remove(in_progress.id, "removed")
    bench.scheduler._targets._last_id = 65534
    assert bench.scheduler.add_instruction("new").id == 2


# Jobs -------------------------------------------------------------------------------------------------------


def test_jobs_with_images_are_served_in_order_without_camera_and_instruction(bench: Bench) -> None:
    bench.job("mug", "own 1")
    bench.job("bowl", "own 2")
    assert bench.scheduler.waiting_jobs == 2
    assert bench.serve() == (["mug"], None) and bench.serve() == (["bowl"], None)
    assert bench.idle and bench.scheduler.waiting_jobs == 0


def test_jobs_for_the_next_camera_image_share_a_batch(bench: Bench) -> None:
    bench.see("image 1")
    jobs = [bench.job(instruction) for instruction in ("mug", "bowl")]
    assert bench.idle  # the image was there before them
    bench.see("bad")
    task = bench.scheduler.next()
    assert isinstance(task, Serve)
    bench.scheduler.unusable(task)
    assert bench.idle and not any(job.done.is_set() for job in jobs)
    bench.see("image 3")
    assert bench.serve() == (["mug", "bowl"], "image 3")


def test_jobs_and_targets_take_turns(bench: Bench) -> None:
    bench.interval = 1e-6
    for number in range(3):
        bench.job(f"job {number}", "own")
    bench.scheduler.set_instruction("red mug")
    bench.see("image 1")
    assert bench.serve() == (["job 0"], None)
    assert bench.answer() == (["red mug"], "image 1")
    bench.see("image 2")
    bench.now += 1.0
    assert bench.serve() == (["job 1"], None)
    assert bench.answer() == (["red mug"], "image 2")
    assert bench.serve() == (["job 2"], None)


def test_a_cancelled_job_ends_at_once_wherever_it_is(bench: Bench) -> None:
    running, waiting, early = bench.job("running", "own"), bench.job("waiting", "own"), Job("early", "own")
    task = bench.scheduler.next()
    assert isinstance(task, Serve) and task.jobs == [running]
    for job in (running, waiting, early):
        bench.scheduler.cancel(job, "cancelled")
        assert job.error == "cancelled" and job.ended == "cancelled"
    bench.scheduler.submit(early)
    bench.scheduler.finished()
    assert bench.idle
    finished = bench.job("finished", "own")
    bench.serve()
    bench.scheduler.cancel(finished, "cancelled")
    assert (finished.result, finished.error) == ("answer", "")


def test_while_disabled_camera_images_are_ignored_and_jobs_with_an_image_are_served(bench: Bench) -> None:
    waiting = bench.job("bowl")
    bench.scheduler.enable(False)
    assert "disabled" in waiting.error and "~/enable" in bench.job("bowl").error
    bench.scheduler.set_instruction("red mug")
    bench.see("image 1")
    bench.job("mug", "own")
    assert bench.serve() == (["mug"], None)
    assert bench.idle and bench.scheduler.latest is None
    bench.scheduler.enable(True)
    bench.see("image 2")
    assert bench.answer() == (["red mug"], "image 2")


# Tracking ---------------------------------------------------------------------------------------------------


def tracked_to(bench: Bench) -> Any:
    task = bench.scheduler.next()
    return task.frame.message if isinstance(task, Follow) else task


def test_targets_are_tracked_once_on_every_image(bench: Bench) -> None:
    bench.scheduler.set_instruction("red mug")
    bench.see("image 1")
    bench.answer()
    bench.tracks = True
    assert bench.idle  # the image was reasoned about
    bench.see("image 2", "image 3")
    assert tracked_to(bench) == "image 3" and bench.idle
    assert bench.scheduler.superseded == 1


def test_a_lost_target_is_reasoned_about_on_a_newer_image(bench: Bench) -> None:
    target = bench.scheduler.set_instruction("red mug")
    bench.see("image 1")
    bench.answer()
    bench.tracks = True
    bench.see("image 2")
    task = bench.scheduler.next()
    assert isinstance(task, Follow)
    assert bench.scheduler.tracked(task.frame, [target], lost=[target]) == [target]
    assert bench.idle
    bench.see("image 3")
    assert bench.answer() == (["red mug"], "image 3")


def test_an_ended_target_is_not_published_by_tracking(bench: Bench) -> None:
    target = bench.scheduler.set_instruction("red mug")
    bench.see("image 1")
    bench.answer()
    bench.tracks = True
    bench.see("image 2")
    task = bench.scheduler.next()
    assert isinstance(task, Follow)
    bench.scheduler.clear("cleared")
    assert bench.scheduler.tracked(task.frame, [target], lost=[]) == []


def test_tracking_between_tokens_takes_at_most_half_of_the_time(bench: Bench) -> None:
    bench.scheduler.set_instruction("slow one")
    bench.see("image 1")
    bench.reason()
    bench.tracks = True
    assert bench.scheduler.next_between_tokens() is None  # that image is reasoned about
    bench.see("image 2")
    task = bench.scheduler.next_between_tokens()
    assert isinstance(task, Follow) and task.frame.message == "image 2"
    bench.now += 0.3
    bench.scheduler.tracking_took(0.3)
    bench.see("image 3")
    bench.now += 0.29
    assert bench.scheduler.next_between_tokens() is None
    bench.now += 0.02
    task = bench.scheduler.next_between_tokens()
    assert isinstance(task, Follow) and task.frame.message == "image 3"


def test_what_cannot_be_tracked_is_reasoned_about_later(bench: Bench) -> None:
    target = bench.scheduler.set_instruction("red mug")
    bench.see("image 1")
    bench.answer()
    bench.scheduler.retry_later([target])
    bench.see("image 2")
    assert bench.scheduler.next() == Idle(1.0)
    bench.now += 5.0
    assert bench.answer() == (["red mug"], "image 2")


# Errands and the end ----------------------------------------------------------------------------------------


def test_errands_come_first_and_in_order(bench: Bench) -> None:
    done: list[int] = []
    bench.job("mug", "own")
    for number in range(2):
        bench.scheduler.between(lambda number=number: done.append(number))
    for _ in range(2):
        task = bench.scheduler.next()
        assert isinstance(task, Errand)
        task.run()
    assert done == [0, 1] and bench.serve() == (["mug"], None)


def test_stopping_ends_jobs_and_refuses_what_comes_later(bench: Bench) -> None:
    bench.see("image")
    bench.scheduler.set_instruction("slow one")
    task = bench.reason()
    waiting = bench.job("mug", "own")
    bench.scheduler.stop("deactivated")
    assert waiting.error == bench.job("bowl", "own").error == "deactivated"
    assert bench.scheduler.wait() is None
    for start in (bench.scheduler.set_instruction, bench.scheduler.add_instruction):
        with pytest.raises(StoppedError, match="deactivated"):
            start("red mug")
    assert bench.scheduler.done(task, [InterruptedError()]) == ["deactivated"]
    bench.scheduler.clear("deactivated")
    assert bench.ends.without_answer == []  # the inference thread publishes it


def test_what_a_hanging_model_leaves_is_reported_once(bench: Bench) -> None:
    bench.see("image")
    target = bench.scheduler.set_instruction("slow one")
    task = bench.reason()
    bench.scheduler.stop("deactivated")
    bench.scheduler.clear("deactivated")
    assert bench.scheduler.abandon() == [target] and bench.scheduler.abandon() == []
    assert bench.scheduler.done(task, ["too late"]) == ["deactivated"]
    assert bench.ends.without_answer == []


class AnyOrder(RuleBasedStateMachine):
    """Whatever order things happen in, every target and every job gets exactly one first outcome."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench()
        self.created: list[Target] = []
        self.jobs: list[Job] = []
        self.running: Any = None
        self.reported: list[Target] = []
        self.bench.ends.unanswered = lambda target, reason: self.reported.append(target)  # type: ignore[method-assign]

    @rule()
    def see(self) -> None:
        self.bench.see("image")

    @rule(add=st.booleans())
    def instruct(self, add: bool) -> None:
        scheduler = self.bench.scheduler
        if add and len(scheduler.targets) < 3:
            self.created.append(scheduler.add_instruction("mug"))
        elif not add:
            self.created.append(scheduler.set_instruction("mug"))

    @rule(own=st.booleans())
    def ask(self, own: bool) -> None:
        self.jobs.append(self.bench.job("mug", "own" if own else None))

    @rule(which=st.integers(0, 5))
    def remove(self, which: int) -> None:
        self.bench.scheduler.remove(which, "removed")

    @rule(seconds=st.sampled_from([0.1, 6.0]), interval=st.sampled_from([0.0, 1.0]))
    def pass_time(self, seconds: float, interval: float) -> None:
        self.bench.now += seconds
        self.bench.interval = interval

    @rule()
    def ask_again(self) -> None:
        self.bench.scheduler.ask_again()

    @rule()
    def take(self) -> None:
        if self.running is None:
            task = self.bench.scheduler.next()
            self.running = task if isinstance(task, Reason | Serve) else None

    @rule(outcome=st.sampled_from(["answer", "failure", "unusable"]))
    def finish(self, outcome: str) -> None:
        task, self.running = self.running, None
        if task is None:
            return
        if outcome == "unusable" and task.frame is not None:
            self.bench.scheduler.unusable(task)
        elif isinstance(task, Reason):
            first = [target for target in task.targets if not target.reported]
            self.bench.scheduler.done(task, [outcome if outcome == "answer" else FAILED] * len(task.targets))
            self.reported += first
        else:
            for job in task.jobs:
                job.finish("answer")
        self.bench.scheduler.finished()

    @invariant()
    def nobody_is_reported_twice(self) -> None:
        assert len(self.reported) == len(set(map(id, self.reported)))

    @invariant()
    def ids_are_unique(self) -> None:
        ids = [target.id for target in self.bench.scheduler.targets]
        assert len(ids) == len(set(ids)) and 0 not in ids

    def teardown(self) -> None:
        if self.running is not None:
            self.finish("answer")
        self.bench.scheduler.stop("the end")
        self.bench.scheduler.clear("the end")
        assert {id(target) for target in self.created} == {id(target) for target in self.reported}
        assert all(job.done.is_set() for job in self.jobs)


AnyOrder.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestAnyOrder = AnyOrder.TestCase
