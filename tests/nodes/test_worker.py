"""The policy of the inference thread, without ROS and without a model."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from lens_ros.nodes.throttle import Throttle
from lens_ros.nodes.worker import InferenceWorker

TIMEOUT = 20.0


class Model:
    """Answers an instruction with itself; holds one that begins with "slow" until released or cancelled."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.started: list[str] = []

    def __call__(self, rgb, instruction, *, on_text, cancelled):
        self.started.append(instruction)
        if instruction == "broken":
            raise RuntimeError("out of memory")
        if on_text is not None:
            on_text("i")
            on_text("i look")
        while instruction.startswith("slow") and not self.release.wait(0.005):
            if cancelled():
                raise InterruptedError
        return instruction


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

    def answered(self, target, frame, rgb, result):
        self._tell("answered", target.instruction, frame.message)
        if result == "listener fails":
            raise OSError("cannot publish")

    def unanswered(self, target, frame, rgb, reason):
        self._tell("unanswered", target.instruction, frame.message if frame else None, reason)

    def unusable(self, frame, error):
        self._tell("unusable", frame.message)

    def failed(self, instruction, error):
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


@pytest.fixture
def setting():
    model, listener = Model(), Listener()
    interval = [0.0]
    worker = InferenceWorker(model, decode, listener, interval=lambda: interval[0])
    worker.start()
    yield worker, model, listener, interval
    model.release.set()
    worker.stop("end of test")


def test_an_instruction_waits_for_the_first_image(setting):
    worker, _, listener, _ = setting
    worker.set_instruction("red mug")
    time.sleep(0.05)
    assert listener.events == []
    worker.set_frame("image 1")
    listener.wait_for("answered")
    assert listener.events == [
        ("text", "red mug", "i"),
        ("text", "red mug", "i look"),
        ("answered", "red mug", "image 1"),
    ]


def test_an_instruction_is_answered_once_on_the_newest_image(setting):
    worker, model, listener, _ = setting
    for number in range(5):
        worker.set_frame(f"image {number}")
    worker.set_instruction("red mug")
    listener.wait_for("answered", "red mug", "image 4")
    worker.set_frame("image 5")
    time.sleep(0.05)
    assert model.started == ["red mug"]


def test_an_interval_repeats_it_but_never_on_the_same_image(setting):
    worker, model, listener, interval = setting
    interval[0] = 0.01
    worker.set_instruction("red mug")
    worker.set_frame("image 1")
    listener.wait_for("answered")
    time.sleep(0.1)
    assert len(model.started) == 1
    worker.set_frame("image 2")
    listener.wait_for("answered", "red mug", "image 2")


def test_a_newer_instruction_pre_empts_the_one_in_progress(setting):
    worker, _, listener, _ = setting
    worker.set_frame("image")
    first = worker.set_instruction("slow one")
    listener.wait_for("text")
    second = worker.set_instruction("red mug")
    listener.wait_for("answered", "red mug")
    assert second.id == first.id + 1
    assert listener.of("answered", "unanswered") == [
        ("unanswered", "slow one", "image", "replaced by a newer instruction: 'red mug'"),
        ("answered", "red mug", "image"),
    ]


def test_an_instruction_replaced_before_any_image_is_not_lost(setting):
    worker, _, listener, _ = setting
    worker.set_instruction("one")
    worker.set_instruction("two")
    assert listener.events == [("unanswered", "one", None, "replaced by a newer instruction: 'two'")]


def test_no_instruction_of_a_flood_vanishes(setting):
    worker, _, listener, _ = setting
    worker.set_frame("image")
    for number in range(200):
        worker.set_instruction(f"slow {number}")
    worker.set_instruction("last")
    listener.wait_for("answered", "last")
    told = [event[1] for event in listener.of("answered", "unanswered")]
    assert told == [*(f"slow {number}" for number in range(200)), "last"]


def test_clearing_ends_the_one_in_progress(setting):
    worker, _, listener, _ = setting
    worker.set_frame("image")
    worker.set_instruction("slow one")
    listener.wait_for("text")
    worker.clear("cleared")
    listener.wait_for("unanswered", "slow one", "image", "cleared")
    assert worker.target is None


def test_an_undecodable_image_is_reported_and_the_next_one_is_used(setting):
    worker, _, listener, _ = setting
    worker.set_instruction("red mug")
    worker.set_frame("bad image")
    listener.wait_for("unusable", "bad image")
    assert not worker.has_frame
    worker.set_frame("image 2")
    listener.wait_for("answered", "red mug", "image 2")


def test_a_failing_model_is_reported_and_the_next_instruction_works(setting):
    worker, _, listener, _ = setting
    worker.set_frame("image")
    worker.set_instruction("broken")
    listener.wait_for("unanswered", "broken", "image", "reason: out of memory")
    worker.set_instruction("red mug")
    listener.wait_for("answered", "red mug")


def test_a_failing_listener_does_not_end_the_thread(setting):
    worker, _, listener, _ = setting
    worker.set_frame("image")
    worker.set_instruction("listener fails")
    listener.wait_for("failed", "listener fails")
    worker.set_instruction("red mug")
    listener.wait_for("answered", "red mug")


def test_single_requests_are_served_without_camera_and_instruction(setting):
    worker, _, listener, _ = setting
    good, bad, broken = (
        worker.submit("own", "mug"),
        worker.submit("bad", "mug"),
        worker.submit("own", "broken"),
    )
    for request in (good, bad, broken):
        assert request.done.wait(TIMEOUT)
    assert (good.result, good.error) == ("mug", "")
    assert (bad.result, bad.error) == (None, "undecodable")
    assert (broken.result, broken.error) == (None, "reason: out of memory")
    assert not listener.of("text", "answered", "unanswered")


def test_stopping_answers_everything_that_is_pending():
    model, listener = Model(), Listener()
    worker = InferenceWorker(model, decode, listener)
    worker.start()
    worker.set_frame("image")
    worker.set_instruction("slow one")
    listener.wait_for("text")
    waiting = worker.submit("own", "mug")
    worker.stop("deactivated")
    assert waiting.done.is_set() and waiting.error == "deactivated"
    assert listener.of("answered", "unanswered") == [("unanswered", "slow one", "image", "deactivated")]
    assert worker.submit("own", "mug").error == "deactivated"


def test_a_running_request_is_interrupted_by_stopping():
    model, listener = Model(), Listener()
    worker = InferenceWorker(model, decode, listener)
    worker.start()
    request = worker.submit("own", "slow one")
    while not model.started:
        time.sleep(0.001)
    worker.stop("deactivated")
    assert request.error == "deactivated"


def test_target_ids_stay_in_uint16(setting):
    worker, _, _, _ = setting
    worker._targets = 65534
    assert [worker.set_instruction("a").id, worker.set_instruction("b").id] == [65535, 1]


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
    throttle.reset()
    assert throttle("a", "fifth") == "fifth"
