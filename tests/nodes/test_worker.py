"""The inference thread: pre-emption, failures, tracking and its end, without ROS and without a model.

`test_scheduler.py` tests the policy without a thread.
"""

from __future__ import annotations

import gc
import threading
import time
import weakref
from types import SimpleNamespace

import numpy as np
import pytest

from lens_ros.nodes.perception.follower import TargetFollower
from lens_ros.nodes.perception.tasks import Job, StoppedError
from lens_ros.nodes.perception.worker import InferenceWorker
from lens_ros.ros.throttle import Throttle

TIMEOUT = 20.0


class Model:
    """Model that answers an instruction with itself.

    It blocks on an instruction that begins with "slow" until released or cancelled.
    """

    def __init__(self) -> None:
        self.release = threading.Event()
        self.started: list[str] = []
        self.babbles = False  # goes on to speak while it is held
        self.saw: list[weakref.ref] = []

    def __call__(self, rgb, instructions, *, on_text, on_decode, cancelled):
        self.saw.append(weakref.ref(rgb))
        self.started.append(" + ".join(instructions))
        if "broken" in instructions:
            raise RuntimeError("out of memory")
        for text in ("i", "i look"):
            for row in range(len(instructions)):
                on_text(row, text)
        while self.started[-1].startswith("slow") and not self.release.wait(0.005):
            if cancelled():
                raise InterruptedError
            if self.babbles:
                on_text(0, "i look")
        on_decode()
        return list(instructions)


class Listener:
    def __init__(self) -> None:
        self.events: list[tuple] = []
        self.changed = threading.Condition()

    def _tell(self, *event) -> None:
        with self.changed:
            self.events.append(event)
            self.changed.notify_all()

    def text(self, target, frame, text):
        self._tell("text", target.instruction, text)

    def started(self, targets, frame):
        self._tell("started", " + ".join(target.instruction for target in targets), frame.message)

    def answered(self, frame, rgb, answers):
        for answer in answers:
            if answer.result is None:
                self._tell("unanswered", answer.target.instruction, frame.message, answer.reason)
            else:
                self._tell("answered", answer.target.instruction, frame.message)
                assert answer.result == answer.target.instruction
            if answer.result == "listener fails":
                raise OSError("cannot publish")

    def followed(self, frame, rgb, answers):
        for answer in answers:
            self._tell("followed", answer.target.instruction, frame.message)

    def ended(self, target):
        self._tell("ended", target.instruction)

    def unanswered(self, target, reason):
        self._tell("unanswered", target.instruction, None, reason)

    def unusable(self, frame, error):
        self._tell("unusable", frame.message)

    def failed(self, instruction, error, target=None):
        self._tell("failed", instruction)
        return f"reason: {error}"

    def wait_for(self, *kind, count: int = 1) -> None:
        def come() -> bool:
            return sum(event[: len(kind)] == kind for event in self.events) >= count

        with self.changed:
            assert self.changed.wait_for(come, TIMEOUT), f"{kind} is not among {self.events}"

    def of(self, *kinds: str) -> list[tuple]:
        return [event for event in self.events if event[0] in kinds]


def decode(message: str) -> np.ndarray:
    if message.startswith("bad"):
        raise ValueError("undecodable")
    return np.zeros((2, 3, 3), np.uint8)


def submit(worker: InferenceWorker, instruction: str, message: str | None = None, **callbacks) -> Job:
    job = Job(instruction, message, **callbacks)
    worker.scheduler.submit(job)
    return job


@pytest.fixture
def setting():
    model, listener = Model(), Listener()
    interval = [0.0]
    worker = InferenceWorker(model, decode, listener, interval=lambda: interval[0])
    worker.start()
    yield worker, model, listener, interval
    model.release.set()
    worker.stop("end of test", grace_s=TIMEOUT)


def test_an_instruction_waits_for_the_first_image(setting):
    worker, _, listener, _ = setting
    worker.scheduler.set_instruction("red mug")
    time.sleep(0.05)
    assert listener.events == []
    worker.scheduler.set_frame("image 1")
    listener.wait_for("answered")
    assert listener.events == [
        ("started", "red mug", "image 1"),
        ("text", "red mug", "i"),
        ("text", "red mug", "i look"),
        ("answered", "red mug", "image 1"),
    ]


def test_what_failed_or_was_cancelled_lets_its_image_go_at_once(setting):
    worker, model, listener, _ = setting
    gc.collect()
    gc.disable()
    try:
        worker.scheduler.set_frame("image 1")
        worker.scheduler.set_instruction("broken")
        listener.wait_for("unanswered", "broken")
        assert submit(worker, "broken", "image 2").done.wait(TIMEOUT)
        job = submit(worker, "slow", "image 3")
        while model.started[-1] != "slow":
            time.sleep(0.01)
        worker.scheduler.cancel(job, "changed my mind")
        assert job.done.wait(TIMEOUT) and job.error == "changed my mind"
        worker.scheduler.set_instruction("slow mug")
        listener.wait_for("started", "slow mug")
        worker.scheduler.set_instruction("mug")
        listener.wait_for("answered", "mug")
        deadline = time.monotonic() + TIMEOUT
        while any(image() is not None for image in model.saw):
            assert time.monotonic() < deadline, [image() is not None for image in model.saw]
            time.sleep(0.01)
    finally:
        gc.enable()
    assert len(model.saw) == 5


def test_a_newer_instruction_pre_empts_the_one_in_progress(setting):
    worker, _, listener, _ = setting
    worker.scheduler.set_frame("image")
    first = worker.scheduler.set_instruction("slow one")
    listener.wait_for("text")
    second = worker.scheduler.set_instruction("red mug")
    listener.wait_for("answered", "red mug")
    assert second.id == first.id + 1
    assert listener.of("answered", "unanswered") == [
        ("unanswered", "slow one", "image", "replaced by a newer instruction: 'red mug'"),
        ("answered", "red mug", "image"),
    ]


def test_no_instruction_of_a_flood_vanishes(setting):
    worker, _, listener, _ = setting
    worker.scheduler.set_frame("image")
    for number in range(200):
        worker.scheduler.set_instruction(f"slow {number}")
    worker.scheduler.set_instruction("last")
    listener.wait_for("answered", "last")
    told = [event[1] for event in listener.of("answered", "unanswered")]
    assert told == [*(f"slow {number}" for number in range(200)), "last"]


def test_clearing_ends_the_one_in_progress(setting):
    worker, _, listener, _ = setting
    worker.scheduler.set_frame("image")
    worker.scheduler.set_instruction("slow one")
    listener.wait_for("text")
    worker.scheduler.clear("cleared")
    listener.wait_for("unanswered", "slow one", "image", "cleared")
    assert worker.scheduler.targets == []


def test_an_undecodable_image_is_reported_and_the_next_one_is_used(setting):
    worker, _, listener, _ = setting
    worker.scheduler.set_instruction("red mug")
    worker.scheduler.set_frame("bad image")
    listener.wait_for("unusable", "bad image")
    assert not worker.scheduler.has_frame
    worker.scheduler.set_frame("image 2")
    listener.wait_for("answered", "red mug", "image 2")


def test_a_failing_model_is_reported_and_the_next_instruction_works(setting):
    worker, _, listener, _ = setting
    worker.scheduler.set_frame("image")
    worker.scheduler.set_instruction("broken")
    listener.wait_for("unanswered", "broken", "image", "reason: out of memory")
    worker.scheduler.set_instruction("red mug")
    listener.wait_for("answered", "red mug")


def test_a_failing_listener_does_not_end_the_thread(setting):
    worker, _, listener, _ = setting
    worker.scheduler.set_frame("image")
    worker.scheduler.set_instruction("listener fails")
    listener.wait_for("failed", "listener fails")
    worker.scheduler.set_instruction("red mug")
    listener.wait_for("answered", "red mug")


def test_single_requests_are_served_without_camera_and_instruction(setting):
    worker, _, listener, _ = setting
    good, bad, broken = (
        submit(worker, *each) for each in (("mug", "own"), ("mug", "bad"), ("broken", "own"))
    )
    for request in (good, bad, broken):
        assert request.done.wait(TIMEOUT)
    assert (good.result, good.error) == ("mug", "")
    assert (bad.result, bad.error) == (None, "undecodable")
    assert (broken.result, broken.error) == (None, "reason: out of memory")
    assert not listener.of("started", "text", "answered", "unanswered")


def test_stopping_answers_everything_that_is_pending():
    model, listener = Model(), Listener()
    worker = InferenceWorker(model, decode, listener)
    worker.start()
    worker.scheduler.set_frame("image")
    worker.scheduler.set_instruction("slow one")
    listener.wait_for("text")
    waiting = submit(worker, "mug", "own")
    worker.stop("deactivated", grace_s=TIMEOUT)
    assert waiting.done.is_set() and waiting.error == "deactivated"
    assert listener.of("answered", "unanswered") == [("unanswered", "slow one", "image", "deactivated")]
    assert submit(worker, "mug", "own").error == "deactivated"


def test_who_comes_after_the_end_hears_of_it():
    listener = Listener()
    worker = InferenceWorker(Model(), decode, listener)
    worker.start()
    worker.stop("the node was deactivated", grace_s=TIMEOUT)
    for start in (worker.scheduler.set_instruction, worker.scheduler.add_instruction):
        with pytest.raises(StoppedError, match="the node was deactivated"):
            start("red mug")
    assert worker.scheduler.targets == [] and listener.events == []


def test_a_running_request_is_interrupted_by_stopping():
    model, listener = Model(), Listener()
    worker = InferenceWorker(model, decode, listener)
    worker.start()
    request = submit(worker, "slow one", "own")
    while not model.started:
        time.sleep(0.001)
    worker.stop("deactivated", grace_s=TIMEOUT)
    assert request.error == "deactivated"


def test_several_targets_are_answered_as_one_batch(setting):
    worker, model, listener, _ = setting
    for instruction in ("red mug", "bowl", "spoon"):
        worker.scheduler.add_instruction(instruction)
    worker.scheduler.set_frame("image")
    listener.wait_for("answered", count=3)
    assert model.started == ["red mug + bowl + spoon"]
    assert [target.instruction for target in worker.scheduler.targets] == ["red mug", "bowl", "spoon"]


def test_setting_pre_empts_a_whole_batch_and_reports_each(setting):
    worker, _, listener, _ = setting
    worker.scheduler.add_instruction("slow one")
    worker.scheduler.add_instruction("bowl")
    worker.scheduler.set_frame("image")
    listener.wait_for("text", "bowl")
    worker.scheduler.set_instruction("red mug")
    listener.wait_for("answered", "red mug")
    reason = "replaced by a newer instruction: 'red mug'"
    assert listener.of("answered", "unanswered") == [
        ("unanswered", "slow one", "image", reason),
        ("unanswered", "bowl", "image", reason),
        ("answered", "red mug", "image"),
    ]


def test_one_that_the_model_cannot_bear_costs_the_others_nothing(setting):
    worker, model, listener, _ = setting
    for instruction in ("red mug", "broken", "bowl"):
        worker.scheduler.add_instruction(instruction)
    worker.scheduler.set_frame("image")
    listener.wait_for("answered", "bowl")
    assert listener.of("answered", "unanswered") == [
        ("answered", "red mug", "image"),
        ("unanswered", "broken", "image", "reason: out of memory"),
        ("answered", "bowl", "image"),
    ]
    assert model.started == ["red mug + broken + bowl", "red mug", "broken", "bowl"]


@pytest.fixture
def hanging():
    """Yield a worker whose model ignores cancellation, that model, and its listener."""
    model, listener = Model(), Listener()
    worker = InferenceWorker(
        lambda *asked, cancelled, **told: model(*asked, cancelled=lambda: False, **told), decode, listener
    )
    worker.start()
    yield worker, model, listener
    model.release.set()
    worker.stop("end of test", grace_s=TIMEOUT)


def test_a_model_that_does_not_let_go_is_left_and_everything_answered_once(hanging):
    worker, model, listener = hanging
    worker.scheduler.set_frame("image")
    worker.scheduler.set_instruction("slow one")
    listener.wait_for("text", "slow one", "i look")
    waiting = submit(worker, "mug", "own")
    assert not worker.stop("deactivated", grace_s=0.05)
    assert waiting.error == "deactivated"
    told = list(listener.events)
    assert [event for event in told if event[0] == "unanswered"] == [
        ("unanswered", "slow one", None, "deactivated")
    ]
    assert worker.alive and worker.whereabouts.startswith("threading, line ")
    model.release.set()
    worker._thread.join(TIMEOUT)
    assert not worker.alive and listener.events == told  # nobody listens any more
    assert worker.whereabouts == "not running"


def test_the_job_of_a_model_that_does_not_let_go_ends(hanging):
    worker, _, _ = hanging
    job = submit(worker, "slow one", "own")
    while not worker.silent_s:
        time.sleep(0.001)
    assert not worker.stop("deactivated", grace_s=0.05)
    assert job.error == "deactivated"


def test_a_model_that_lets_go_late_is_not_kept(hanging):
    other, model, listener = hanging
    follower = TargetFollower(Carrier())
    kept = weakref.ref(follower)
    worker = InferenceWorker(other._infer, decode, listener, follower=follower)
    del follower
    worker.start()
    worker.scheduler.set_instruction("slow one")
    worker.scheduler.set_frame("image")
    listener.wait_for("started", "slow one", "image")
    assert not worker.stop("deactivated", grace_s=0.05)
    model.release.set()
    worker._thread.join(TIMEOUT)
    assert not worker.alive and kept() is None  # the worker itself is still there


def test_signs_of_life_are_tokens():
    now, tokens = [100.0], threading.Semaphore(0)
    told = threading.Event()

    def infer(rgb, instructions, *, on_text, on_decode, cancelled):
        for step in (lambda: on_text(0, "i"), on_decode, lambda: None):
            assert tokens.acquire(timeout=TIMEOUT)
            step()
            told.set()
        return list(instructions)

    worker = InferenceWorker(infer, decode, Listener(), clock=lambda: now[0])
    worker.start()
    assert worker.silent_s == 0.0
    job = submit(worker, "mug", "own")
    for _ in range(2):
        now[0] += 5.0
        told.clear()
        tokens.release()
        assert told.wait(TIMEOUT)
        assert worker.silent_s == 0.0
        now[0] += 7.0
        assert worker.silent_s == 7.0
    tokens.release()
    assert job.done.wait(TIMEOUT)
    assert worker.stop("end of test", grace_s=TIMEOUT)
    assert worker.silent_s == 0.0


def test_jobs_for_the_next_camera_image_share_a_batch(setting):
    worker, model, _, _ = setting
    worker.scheduler.set_frame("image 1")
    jobs = [submit(worker, instruction) for instruction in ("mug", "bowl")]
    time.sleep(0.02)
    assert not model.started  # the image was there before them
    worker.scheduler.set_frame("bad image")
    time.sleep(0.02)
    assert not any(job.done.is_set() for job in jobs)
    worker.scheduler.set_frame("image 3")
    for job in jobs:
        assert job.done.wait(TIMEOUT) and job.message == "image 3" and job.result == job.instruction
    assert model.started == ["mug + bowl"]


def test_a_job_is_told_of_its_progress(setting):
    worker, _, _, _ = setting
    told: list[str] = []
    job = submit(
        worker, "mug", "own", on_start=lambda: told.append("start"), on_text=told.append,
        on_decode=lambda: told.append("decode"), on_done=lambda job: told.append(f"done {job.result}"),
    )  # fmt: skip
    assert job.done.wait(TIMEOUT)
    assert told == ["start", "i", "i look", "decode", "done mug"]


def test_cancelling_ends_a_job_at_once_wherever_it_is(setting):
    worker, model, _, _ = setting
    finished: list[Job] = []
    running = submit(worker, "slow one", "own", on_done=finished.append)
    while not model.started:
        time.sleep(0.001)
    waiting = submit(worker, "bowl", "own", on_done=finished.append)
    third = submit(worker, "mug", "own", on_done=finished.append)
    worker.scheduler.cancel(waiting, "cancelled")
    worker.scheduler.cancel(running, "cancelled")
    assert running.error == waiting.error == "cancelled"
    assert third.done.wait(TIMEOUT) and third.result == "mug"
    worker.scheduler.cancel(third, "cancelled")  # too late
    assert finished == [waiting, running, third] and third.error == ""
    assert model.started == ["slow one", "mug"]


class Carrier:
    """Stand-in for a tracker that keeps tracking everything.

    It loses what `lost` names, fails while `broken`, and fails at the first start of what `hard` names.
    """

    def __init__(self) -> None:
        self.started: list[str] = []
        self.names: dict[str, object] = {}
        self.lost: set[str] = set()
        self.hard: set[str] = set()
        self.broken = False

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(self.names)

    def start(self, target, image, answer):
        self.started.append(target)
        if target in self.hard:
            self.hard.remove(target)
            raise RuntimeError("out of memory")
        self.names[target] = answer

    def stop(self, target):
        del self.names[target]

    def update(self, image):
        if self.broken:
            raise RuntimeError("out of memory")
        return {
            name: SimpleNamespace(segmentation=answer, tracked=name not in self.lost)
            for name, answer in self.names.items()
        }


class Found(str):
    """An answer of the model that also looks like a `Segmentation` with one accepted object."""

    instances = (SimpleNamespace(rejected=""),)


@pytest.fixture
def following():
    """Yield a worker that tracks, its parts, and its clock."""
    model, listener, carrier, now = Model(), Listener(), Carrier(), [0.0]
    model.babbles = True

    def infer(*arguments, **options):
        return [Found(answer) for answer in model(*arguments, **options)]

    follower = TargetFollower(carrier, clock=lambda: now[0])
    worker = InferenceWorker(infer, decode, listener, follower=follower, clock=lambda: now[0])
    worker.start()
    yield worker, model, listener, carrier, now
    model.release.set()
    worker.stop("end of test", grace_s=TIMEOUT)


def test_what_was_found_is_followed_on_every_image_without_reasoning(following):
    worker, model, listener, _, _ = following
    worker.scheduler.set_instruction("red mug")
    worker.scheduler.set_frame("image 1")
    listener.wait_for("answered", "red mug", "image 1")
    for number in (2, 3):
        worker.scheduler.set_frame(f"image {number}")
        listener.wait_for("followed", "red mug", f"image {number}")
    assert model.started == ["red mug"]


def test_what_is_lost_is_reasoned_about_again_but_not_at_once(following):
    worker, model, listener, carrier, now = following
    target = worker.scheduler.set_instruction("red mug")
    worker.scheduler.set_frame("image 1")
    listener.wait_for("answered", "red mug", "image 1")
    carrier.lost.add(str(target.id))
    worker.scheduler.set_frame("image 2")
    listener.wait_for("followed", "red mug", "image 2")
    assert len(model.started) == 1
    now[0] = 0.5
    worker.scheduler.set_frame("image 3")
    listener.wait_for("followed", "red mug", "image 3")
    worker.scheduler.set_frame("image 4")
    listener.wait_for("answered", "red mug", "image 4")
    worker.scheduler.set_frame("image 5")
    listener.wait_for("followed", "red mug", "image 5")
    assert len(model.started) == 2  # the next question has to wait
    assert ("followed", "red mug", "image 4") not in listener.events  # one segmentation of each image


def test_others_are_followed_between_two_tokens(following):
    worker, model, listener, _, _ = following
    worker.scheduler.set_instruction("red mug")
    worker.scheduler.set_frame("image 1")
    listener.wait_for("answered", "red mug")
    worker.scheduler.add_instruction("slow one")
    worker.scheduler.set_frame("image 2")
    listener.wait_for("started", "slow one", "image 2")
    assert ("followed", "red mug", "image 2") in listener.events  # also on the image that is reasoned about
    worker.scheduler.set_frame("image 3")
    listener.wait_for("followed", "red mug", "image 3")
    assert not listener.events.count(("answered", "slow one", "image 2"))
    model.release.set()
    listener.wait_for("answered", "slow one", "image 2")


def test_ended_targets_are_followed_no_more(following):
    worker, _, listener, carrier, _ = following
    gone = worker.scheduler.add_instruction("red mug")
    worker.scheduler.add_instruction("bowl")
    worker.scheduler.set_frame("image 1")
    listener.wait_for("answered", "bowl")
    worker.scheduler.remove(gone.id, "removed")
    worker.scheduler.set_frame("image 2")
    listener.wait_for("followed", "bowl", "image 2")
    assert ("followed", "red mug", "image 2") not in listener.events
    assert str(gone.id) not in carrier.targets


def test_a_reset_forgets_what_was_followed(following):
    worker, _, listener, carrier, _ = following
    worker.scheduler.set_instruction("red mug")
    worker.scheduler.set_frame("image 1")
    listener.wait_for("answered", "red mug", "image 1")
    worker.scheduler.ask_again()
    worker.scheduler.set_frame("image 2")
    listener.wait_for("answered", "red mug", "image 2")
    worker.scheduler.set_frame("image 3")
    listener.wait_for("followed", "red mug", "image 3")
    assert len(carrier.started) == 2


def test_a_failure_to_follow_is_told_and_reasoned_about_later(following):
    worker, model, listener, carrier, now = following
    target = worker.scheduler.set_instruction("red mug")
    worker.scheduler.set_frame("image 1")
    listener.wait_for("answered", "red mug", "image 1")
    carrier.broken = True
    worker.scheduler.set_frame("image 2")
    listener.wait_for("failed", "following")
    assert carrier.targets == () and target.waiting and target.due == 5.0
    carrier.broken = False
    worker.scheduler.set_frame("image 3")
    time.sleep(0.02)
    now[0] = 5.0
    worker.scheduler.set_frame("image 4")
    listener.wait_for("answered", "red mug", "image 4")
    worker.scheduler.set_frame("image 5")
    listener.wait_for("followed", "red mug", "image 5")
    assert len(model.started) == 2


def test_what_cannot_be_followed_is_asked_again_and_the_others_are_followed(following):
    worker, model, listener, carrier, now = following
    hard, _ = worker.scheduler.add_instruction("red mug"), worker.scheduler.add_instruction("bowl")
    carrier.hard.add(str(hard.id))
    worker.scheduler.set_frame("image 1")
    listener.wait_for("failed", "following")
    worker.scheduler.set_frame("image 2")
    listener.wait_for("followed", "bowl", "image 2")
    assert ("followed", "red mug", "image 2") not in listener.events
    now[0] = 5.0
    worker.scheduler.set_frame("image 3")
    listener.wait_for("answered", "red mug", "image 3")
    worker.scheduler.set_frame("image 4")
    listener.wait_for("followed", "red mug", "image 4")
    assert model.started == ["red mug + bowl", "red mug"]


def test_what_is_rejected_for_its_score_is_not_followed_and_asked_about_ever_more_rarely():
    carrier, now = Carrier(), [0.0]
    follower = TargetFollower(carrier, clock=lambda: now[0])
    mug = SimpleNamespace(id=1, ended="")
    unsure, sure = (
        SimpleNamespace(instances=(SimpleNamespace(rejected=why),), reason=why)
        for why in ("its score 0.78 is below 0.84", "")
    )
    asked: list[float] = []

    def reason(answer) -> None:
        asked.append(now[0])
        follower.asked([mug])
        follower.start(mug, None, answer)

    reason(unsure)
    while len(asked) < 5:
        now[0] += 0.1
        (followed,) = follower.follow(None)
        assert followed.result is unsure
        if followed.ask_again:
            reason(unsure)
    waits = np.diff(asked)
    assert (np.diff(waits) > 0).all() and waits[-1] > 2
    # The newest reason is told as long as nothing is followed; then an unsure answer changes nothing.
    other = SimpleNamespace(instances=(), reason="nothing fits")
    follower.start(mug, None, other)
    assert follower.follow(None)[0].result is other
    follower.start(mug, None, sure)
    follower.start(mug, None, unsure)
    (followed,) = follower.follow(None)
    assert followed.result is sure and not followed.ask_again


def test_throttle_passes_each_kind_once_and_counts_the_rest():
    now = [0.0]
    throttle = Throttle(5.0, clock=lambda: now[0])
    assert throttle("a", "first") == "first"
    assert throttle("a", "second") is None
    assert throttle("b", "other") == "other"
    now[0] = 4.9
    assert throttle("a", "third") is None
    now[0] = 5.0
    assert throttle("a", "fourth") == "fourth (and 2 more like this in between)"


def test_throttle_passes_a_burst_and_counts_the_rest():
    now = [0.0]
    throttle = Throttle(5.0, burst=3, clock=lambda: now[0])
    assert [throttle("a", str(number)) for number in range(5)] == ["0", "1", "2", None, None]
    now[0] = 5.0
    told = "5 (and 2 more like this in between)"
    assert [throttle("a", str(number)) for number in range(5, 9)] == [told, "6", "7", None]
