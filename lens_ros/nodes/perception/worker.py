"""The thread that thinks: newest image, active instructions, one act of reasoning at a time.

Model calls take hundreds of milliseconds and more, so they never run in an executor's callback. Callbacks
hand images, instructions and jobs to an `InferenceWorker`, which calls back when there is something to
publish. Nothing in here knows ROS or the model: both come in as functions, which is what makes the policy
testable.

Policy
- Between two acts of reasoning, targets are followed from image to image (`TargetFollower`), also between two
  tokens, where following gets at most half of the time. What is lost is reasoned about anew.
- Only the newest image is kept; an image is decoded when it is used, not when it arrives.
- All targets that are due are answered about the same image, as one batch; the others are followed to it
  first. Where a batch fails, each of its instructions is tried alone, so that one that the model cannot bear
  costs the others nothing.
- Setting an instruction pre-empts the batch in progress, at its next token; adding or removing one does not
  disturb the others. No instruction vanishes: one that ends before its answer is reported as unanswered, with
  the reason.
- An instruction that comes before any usable image waits for one.
- One that the model fails at is asked about again, after 5 s at first and ever more seldom.
- Every instruction is answered once, or every `interval()` seconds where that is above 0, all together, each
  time on a newer image, and at most `max_rate_hz()` times a second.
- Jobs (an image of their own, or the next camera image) are served in the order in which they came, those
  that wait for the same camera image as one batch; they are not pre-empted. Where jobs and targets wait, they
  take turns.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from lens_ros.nodes.perception.follower import TargetFollower
from lens_ros.nodes.perception.scheduler import Agenda
from lens_ros.nodes.perception.tasks import Answer, Frame, Infer, Job, Listener, Target
from lens_ros.ros.texts import SENTENCE, shortened

AFTER_FAILURE_S = 5.0  # from a failure to the next act of reasoning, doubled with each further one
MOST_DOUBLINGS = 3


class InferenceWorker(Agenda):
    """Runs `infer` in a thread of its own; see the module's policy. All public methods are thread-safe.

    `decode(message) -> (H, W, 3) uint8 RGB` may raise. Everything else is an `Agenda`'s.
    """

    def __init__(
        self, infer: Infer, decode: Callable[[Any], np.ndarray], listener: Listener, **agenda: Any
    ) -> None:
        super().__init__(listener, **agenda)
        self._infer = infer
        self._decode = decode
        self._jobs_first = True
        self._follow_at = 0.0  # earliest time to follow between tokens
        self._errands: list[Callable[[], None]] = []
        self._sign_of_life: float | None = None  # when the work in progress gave the last one
        self._thread = threading.Thread(target=self._run, name="inference", daemon=True)

    def start(self) -> None:
        """Begins to work."""
        self._thread.start()

    def stop(self, reason: str, *, grace_s: float) -> bool:
        """Interrupts what is in progress, ends everything pending for `reason`, ends the thread.

        Returns whether the thread has ended. One that does not within `grace_s`, because the model does not
        let go, is left to itself: what it was about is ended here, and the listener hears no more of it.
        """
        with self._changed:
            self._stop_reason = reason
            self._changed.notify_all()
        self._end_jobs(lambda job: True, reason)
        if self._thread.is_alive():
            self._thread.join(grace_s)
        self.clear(reason)
        if self._thread.is_alive():
            self._abandon(reason)
        return not self._thread.is_alive()

    @property
    def alive(self) -> bool:
        """Whether the thread has begun and not ended."""
        return self._thread.is_alive()

    @property
    def silent_s(self) -> float:
        """Seconds since the work in progress last gave a sign of life: it began, a token was written, all
        was written. 0 without any.
        """
        since = self._sign_of_life
        return 0.0 if since is None else self._clock() - since

    @property
    def whereabouts(self) -> str:
        """What the thread is executing, such as `lens_ros.lens, line 257, in segment_all`."""
        frame = sys._current_frames().get(self._thread.ident or 0)
        if frame is None:
            return "not running"
        return f"{frame.f_globals.get('__name__')}, line {frame.f_lineno}, in {frame.f_code.co_name}"

    def between(self, errand: Callable[[], None]) -> None:
        """Has the thread do something between two acts of inference."""
        with self._changed:
            self._errands.append(errand)
            self._changed.notify_all()

    # The thread ---------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while (task := self._next()) is not None:
            asked = list(self._running)
            self._sign_of_life = self._clock()
            try:
                task()
            except Exception as error:  # a listener that fails must not end the thread
                self._listener.failed(" + ".join(each.instruction for each in asked), error)
                for each in asked:
                    if isinstance(each, Job):
                        each.finish(error=f"internal error: {type(error).__name__}: {error}")
            finally:
                self._sign_of_life = None
                with self._changed:
                    self._running = ()

    def _abandon(self, reason: str) -> None:
        with self._changed:
            left = [each for each in self._running if isinstance(each, Target) and not each.reported]
            self._running = ()
            for target in left:
                target.reported = True
            listener, self._listener = self._listener, cast(Listener, _Nobody())
            # The thread may stay for good; what it does not hold itself need not stay with it.
            self._follower = self._frame = None
        for target in left:
            listener.unanswered(target, target.ended or reason)

    def _next(self) -> Callable[[], None] | None:
        """Blocks until there is work; None at the end."""
        with self._changed:
            while not self._stop_reason:
                if self._errands:
                    return self._errands.pop(0)
                self._drop_stale_frame()
                jobs = self._ready_jobs()
                targets, wait = self._due_targets()
                frame = self._frame
                if jobs and (self._jobs_first or not targets):
                    self._jobs = [job for job in self._jobs if job not in jobs]
                    self._running, self._jobs_first = jobs, False
                    taken = frame if jobs[0].message is None else None
                    return lambda: self._serve(jobs, taken)  # noqa: B023  # returned at once
                if targets and frame is not None:
                    self._running, self._jobs_first = targets, True
                    self._schedule(targets, frame)
                    return lambda: self._reason(targets, frame)  # noqa: B023
                if frame is not None and self._may_follow(frame):
                    return lambda: self._carry_on(frame)  # noqa: B023
                self._changed.wait(wait)
            return None

    def _reason(self, targets: list[Target], frame: Frame) -> None:
        rgb = self._decoded(frame)
        if rgb is None:
            with self._changed:
                for target in targets:
                    target.waiting, target.due = True, 0.0
                self._not_before = 0.0
                # In the same breath as the test, else an end in between would go unreported.
                self._running = ()
                abandoned = [target for target in targets if target.ended and not target.reported]
            for target in abandoned:
                self._listener.unanswered(target, target.ended)
            return
        follower = self._follower
        if follower is not None:
            self._follow(follower, frame, rgb, others_than=targets)
            follower.asked(targets)
        self._listener.started(targets, frame)
        self._answer(
            targets,
            frame,
            rgb,
            self._ask(rgb, targets, on_text=lambda target, text: self._listener.text(target, frame, text)),
        )

    # What follows has methods of its own. An exception among the results knows the frames that asked; if one
    # of these knew the results, the images and tensors in them would stay until Python looks for cycles.

    def _answer(self, targets: list[Target], frame: Frame, rgb: np.ndarray, results: list[Any]) -> None:
        with self._changed:
            reasons = [target.ended or self._stop_reason for target in targets]
            for target in targets:
                target.reported = True
            self._running = ()
        answers = []
        for target, result, reason in zip(targets, results, reasons, strict=True):
            if not reason and isinstance(result, Exception):
                reason = self._listener.failed(target.instruction, result, target)
                self._ask_again_later(target)
            elif not reason:
                target.failures = 0
            answers.append(Answer(target, None if reason else result, reason))
        self._listener.answered(frame, rgb, answers)
        follower = self._follower
        if follower is not None:
            for answer in answers:
                if answer.result is not None:
                    self._start_following(follower, answer, rgb)

    def _start_following(self, follower: TargetFollower, answer: Answer, rgb: np.ndarray) -> None:
        try:
            follower.start(answer.target, rgb, answer.result)
        except Exception as error:
            self._listener.failed("following", error)
            self._ask_again_later(answer.target)

    def _ask_again_later(self, target: Target) -> None:
        with self._changed:
            seconds = AFTER_FAILURE_S * 2 ** min(target.failures, MOST_DOUBLINGS)
            target.failures += 1
            at = self._clock() + seconds
            target.waiting, target.due = True, min(target.due, at) if self._interval() > 0 else at

    def _finish(self, jobs: list[Job], results: list[Any]) -> None:
        for job, result in zip(jobs, results, strict=True):
            if isinstance(result, Exception):
                job.finish(error=job.ended or self._listener.failed(job.instruction, result))
            else:
                job.finish(result)

    def _carry_on(self, frame: Frame) -> None:
        """Follows all targets to a newer image."""
        follower = self._follower
        assert follower is not None
        started = self._clock()
        with self._changed:
            self._seen_number = frame.number
            rate = self._max_rate_hz()
            self._not_before = started + (1.0 / rate if rate > 0 else 0.0)
        rgb = self._decoded(frame)
        if rgb is not None:
            self._follow(follower, frame, rgb)
        ended = self._clock()
        self._follow_at = ended + (ended - started)

    def _follow(
        self,
        follower: TargetFollower,
        frame: Frame,
        rgb: np.ndarray,
        *,
        others_than: Sequence[Target] = (),  # those get an answer about this image from the reasoner
    ) -> None:
        self._forget_followed(follower)
        if not follower.follows_others(others_than):
            return
        try:
            followed = follower.follow(rgb)
        except Exception as error:
            follower.clear()
            for target in self.targets:
                if target not in others_than:
                    self._ask_again_later(target)
            self._listener.failed("following", error)
            return
        with self._changed:
            followed = [f for f in followed if not f.target.ended and f.target not in others_than]
            for each in followed:
                each.target.after = max(each.target.after, frame.number)
                each.target.waiting |= each.ask_again
        if followed:
            self._listener.followed(frame, rgb, [Answer(each.target, each.result) for each in followed])

    def _forget_followed(self, follower: TargetFollower) -> None:
        with self._changed:
            reset, self._reset = self._reset, False
        if reset:
            follower.clear()

    def _carry_on_between_tokens(self) -> None:
        with self._changed:
            self._drop_stale_frame()
            frame = self._frame
            wanted = frame is not None and self._clock() >= self._follow_at and self._may_follow(frame)
        if wanted and frame is not None:
            self._carry_on(frame)

    def _serve(self, jobs: list[Job], frame: Frame | None) -> None:
        for job in jobs:
            if job.on_start is not None:
                job.on_start()
        if frame is None:
            try:
                rgb: np.ndarray | None = self._decode(jobs[0].message)
            except Exception as error:
                jobs[0].finish(error=shortened(str(error), SENTENCE))
                return
        else:
            rgb = self._decoded(frame)
            for job in jobs:
                job.after = frame.number
            if rgb is None:  # they wait for a usable one
                with self._changed:
                    self._jobs[:0] = [job for job in jobs if not job.ended]
                return
            for job in jobs:
                job.message = frame.message
        assert rgb is not None

        def decoding() -> None:
            for job in jobs:
                if job.on_decode is not None and not job.ended:
                    job.on_decode()

        self._finish(
            jobs,
            self._ask(
                rgb,
                jobs,
                on_text=lambda job, text: job.on_text(text) if job.on_text is not None else None,
                on_decode=decoding,
            ),
        )

    def _decoded(self, frame: Frame) -> np.ndarray | None:
        try:
            return self._decode(frame.message)
        except Exception as error:
            self._listener.unusable(frame, error)
            with self._changed:
                if self._frame is frame:
                    self._frame = None
            return None

    def _ask(
        self,
        rgb: np.ndarray,
        asked: Sequence[Any],  # all targets, or all jobs
        *,
        on_text: Callable[[Any, str], None],
        on_decode: Callable[[], None] = lambda: None,
    ) -> list[Any]:
        """A result or an exception for each target or job."""

        def cancelled() -> bool:
            return bool(self._stop_reason) or all(each.ended for each in asked)

        def told(row: int, text: str) -> None:
            self._sign_of_life = self._clock()
            if not asked[row].ended:
                on_text(asked[row], text)
            if row == 0:
                self._carry_on_between_tokens()

        def written() -> None:
            self._sign_of_life = self._clock()
            on_decode()

        try:
            instructions = [each.instruction for each in asked]
            return list(self._infer(rgb, instructions, on_text=told, on_decode=written, cancelled=cancelled))
        except Exception as error:
            if len(asked) == 1 or cancelled():
                return [error] * len(asked)
        return [self._ask(rgb, [each], on_text=on_text, on_decode=on_decode)[0] for each in asked]


class _Nobody:
    """In the place of a `Listener` that does not listen any more."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: ""
