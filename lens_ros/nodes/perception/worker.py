"""Run the model in a thread: take tasks from the scheduler, call back with what there is to publish.

Model calls take hundreds of milliseconds and more, so they never run in an executor's callback. Neither ROS
nor the model is known here: both come in as functions. `scheduler` describes the policy.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from lens_ros.codes import Code, Coded
from lens_ros.nodes.perception.follower import TargetFollower
from lens_ros.nodes.perception.scheduler import Scheduler
from lens_ros.nodes.perception.tasks import (
    Errand,
    Follow,
    Frame,
    Infer,
    Job,
    Listener,
    Outcome,
    Reason,
    Serve,
    Target,
    Task,
)
from lens_ros.ros.texts import SENTENCE, shortened


class InferenceWorker:
    """Execute the tasks of a `Scheduler` in a thread.

    Args:
        infer: the model.
        decode: `decode(message) -> (H, W, 3) uint8 RGB`; may raise.
        listener: receives results and failures.
        follower: tracks targets between reasoning passes; None tracks nothing.
        clock: seconds; monotonic.
        policy: further arguments of `Scheduler`.
    """

    def __init__(
        self,
        infer: Infer,
        decode: Callable[[Any], np.ndarray],
        listener: Listener,
        *,
        follower: TargetFollower | None = None,
        clock: Callable[[], float] = time.monotonic,
        **policy: Any,
    ) -> None:
        self._infer = infer
        self._decode = decode
        self._listener = listener
        self._follower = follower
        self._clock = clock
        self.scheduler = Scheduler(listener, tracks=self._tracks, clock=clock, **policy)
        self._busy_since: float | None = None  # last sign of life of the task in progress
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, reason: str, *, grace_s: float) -> bool:
        """Interrupt the task in progress, end all targets and jobs for `reason`, end the thread.

        Returns whether the thread has ended. If the model does not return within `grace_s`, the thread is
        abandoned: its targets are reported here, and the listener is not called any more.
        """
        self.scheduler.stop(reason)
        if self._thread.is_alive():
            self._thread.join(grace_s)
        self.scheduler.clear(reason)
        if self._thread.is_alive():
            self._abandon(reason)
        self._follower = None  # its tracker holds the model
        return not self._thread.is_alive()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    @property
    def silent_s(self) -> float:
        """Seconds since the last sign of life of the task in progress: start, token, end of the text.

        0 if no task is in progress.
        """
        since = self._busy_since
        return 0.0 if since is None else self._clock() - since

    @property
    def whereabouts(self) -> str:
        """What the thread executes, such as `lens_ros.lens, line 257, in segment_all`."""
        frame = sys._current_frames().get(self._thread.ident or 0)
        if frame is None:
            return "not running"
        return f"{frame.f_globals.get('__name__')}, line {frame.f_lineno}, in {frame.f_code.co_name}"

    # The thread: task, decode, track, ask, answer -----------------------------------------------------------

    def _run(self) -> None:
        while (task := self.scheduler.wait()) is not None:
            self._busy_since = self._clock()
            try:
                self._execute(task)
            except Exception as error:  # such as one of the listener: it must not end the thread
                self._report_internal_error(task, error)
            finally:
                self._busy_since = None
                self.scheduler.finished()

    def _execute(self, task: Task) -> None:
        if isinstance(task, Errand):
            task.run()
        elif isinstance(task, Serve):
            self._serve(task)
        elif isinstance(task, Reason):
            self._reason(task)
        else:
            self._track(task)

    def _reason(self, task: Reason) -> None:
        rgb = self._decoded(task, task.frame)
        if rgb is None:
            return
        if self._follower is not None:
            self._follow(self._follower, task.frame, rgb, others_than=task.targets)
            self._follower.asked(task.targets)
        self._listener.started(task.targets, task.frame)
        self._answer(
            task,
            rgb,
            self._ask(
                rgb, task.targets, on_text=lambda target, text: self._listener.text(target, task.frame, text)
            ),
        )

    def _track(self, task: Follow) -> None:
        started = self._clock()
        rgb = self._decoded(task, task.frame)
        if rgb is not None and self._follower is not None:
            self._follow(self._follower, task.frame, rgb)
        self.scheduler.tracking_took(self._clock() - started)

    def _serve(self, task: Serve) -> None:
        for job in task.jobs:
            if job.on_start is not None:
                job.on_start()
        rgb = self._image_of(task)
        if rgb is None:
            return

        def decoding() -> None:
            for job in task.jobs:
                if job.on_decode is not None and not job.ended:
                    job.on_decode()

        self._finish(
            task.jobs,
            self._ask(
                rgb,
                task.jobs,
                on_text=lambda job, text: job.on_text(text) if job.on_text is not None else None,
                on_decode=decoding,
            ),
        )

    def _image_of(self, task: Serve) -> np.ndarray | None:
        """Return the image of jobs; None if it is unusable, which has been reported then."""
        if task.frame is None:
            (job,) = task.jobs
            try:
                return self._decode(job.message)
            except Exception as error:
                job.finish(error=Coded(shortened(str(error), SENTENCE), Code.BAD_IMAGE))
                return None
        for job in task.jobs:
            job.after = task.frame.number
        rgb = self._decoded(task, task.frame)
        if rgb is not None:
            for job in task.jobs:
                job.message = task.frame.message
        return rgb

    def _decoded(self, task: Reason | Serve | Follow, frame: Frame) -> np.ndarray | None:
        try:
            return self._decode(frame.message)
        except Exception as error:
            self._listener.unusable(frame, error)
            self.scheduler.unusable(task)
            return None

    def _ask(
        self,
        rgb: np.ndarray,
        asked: Sequence[Any],  # all targets, or all jobs
        *,
        on_text: Callable[[Any, str], None],
        on_decode: Callable[[], None] = lambda: None,
    ) -> list[Any]:
        """Return a result or an exception for each target or job.

        If a batch fails, each instruction is tried alone: one that the model cannot answer costs the others
        nothing.
        """

        def cancelled() -> bool:
            return bool(self.scheduler.stop_reason) or all(each.ended for each in asked)

        def text_written(row: int, text: str) -> None:
            self._busy_since = self._clock()
            if not asked[row].ended:
                on_text(asked[row], text)
            if row == 0:
                self._track_between_tokens()

        def all_written() -> None:
            self._busy_since = self._clock()
            on_decode()

        try:
            instructions = [each.instruction for each in asked]
            return list(
                self._infer(
                    rgb, instructions, on_text=text_written, on_decode=all_written, cancelled=cancelled
                )
            )
        except Exception as error:
            if len(asked) == 1 or cancelled():
                return [error] * len(asked)
        return [self._ask(rgb, [each], on_text=on_text, on_decode=on_decode)[0] for each in asked]

    def _track_between_tokens(self) -> None:
        task = self.scheduler.next_between_tokens()
        if task is not None:
            self._track(task)

    # An exception among the results refers to the frames that raised it. If one of these referred to the
    # results, images and tensors would stay in memory until the cycle is collected: hence separate methods.

    def _answer(self, task: Reason, rgb: np.ndarray, results: list[Any]) -> None:
        reasons = self.scheduler.done(task, results)
        answers = []
        for target, result, reason in zip(task.targets, results, reasons, strict=True):
            if not reason and isinstance(result, Exception):
                reason = self._listener.failed(target.instruction, result, target)
            answers.append(Outcome(target, None if reason else result, reason))
        self._listener.answered(task.frame, rgb, answers)
        follower = self._follower
        if follower is not None:
            for answer in answers:
                if answer.result is not None:
                    self._start_tracking(follower, answer, rgb)

    def _finish(self, jobs: list[Job], results: list[Any]) -> None:
        for job, result in zip(jobs, results, strict=True):
            if isinstance(result, Exception):
                job.finish(error=job.ended or self._listener.failed(job.instruction, result))
            else:
                job.finish(result)

    # Tracking -----------------------------------------------------------------------------------------------

    def _tracks(self) -> bool:
        follower = self._follower
        return follower is not None and follower.active

    def _start_tracking(self, follower: TargetFollower, answer: Outcome, rgb: np.ndarray) -> None:
        try:
            follower.start(answer.target, rgb, answer.result)
        except Exception as error:
            self._listener.failed("following", error)
            self.scheduler.retry_later([answer.target])

    def _follow(
        self,
        follower: TargetFollower,
        frame: Frame,
        rgb: np.ndarray,
        *,
        others_than: Sequence[Target] = (),  # the reasoner answers those about this image
    ) -> None:
        if self.scheduler.take_reset():
            follower.clear()
        if not follower.follows_others(others_than):
            return
        try:
            followed = [each for each in follower.follow(rgb) if each.target not in others_than]
        except Exception as error:
            follower.clear()
            self.scheduler.retry_later([t for t in self.scheduler.targets if t not in others_than])
            self._listener.failed("following", error)
            return
        lost = [each.target for each in followed if each.ask_again]
        active = self.scheduler.tracked(frame, [each.target for each in followed], lost)
        answers = [Outcome(each.target, each.result) for each in followed if each.target in active]
        if answers:
            self._listener.followed(frame, rgb, answers)

    # The end ------------------------------------------------------------------------------------------------

    def _report_internal_error(self, task: Task, error: Exception) -> None:
        targets = task.targets if isinstance(task, Reason) else []
        jobs = task.jobs if isinstance(task, Serve) else []
        instructions = [*(target.instruction for target in targets), *(job.instruction for job in jobs)]
        self._listener.failed(" + ".join(instructions), error)
        for job in jobs:
            internal = Coded(f"internal error: {type(error).__name__}: {error}", Code.INTERNAL_ERROR)
            job.finish(error=internal)

    def _abandon(self, reason: str) -> None:
        left = self.scheduler.abandon()
        listener, self._listener = self._listener, cast(Listener, _Nobody())
        for target in left:
            listener.unanswered(target, target.ended or reason)


class _Nobody:
    """Listener that ignores every call."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: ""
