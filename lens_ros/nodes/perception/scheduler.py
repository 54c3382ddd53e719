"""Decide what the inference thread does next: reason, serve jobs, track, or run an errand.

Callbacks hand in images, instructions and jobs. The inference thread takes tasks and reports their outcomes.
Neither ROS nor the model nor a thread is known here. The package's docstring describes the policy.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from lens_ros.codes import Code, Coded
from lens_ros.nodes.perception.job_queue import JobQueue
from lens_ros.nodes.perception.targets import LAST_ID, ActiveTargets
from lens_ros.nodes.perception.tasks import (  # fmt: skip
    DISABLED,
    Errand,
    Follow,
    Frame,
    Idle,
    Job,
    Listener,
    Reason,
    Serve,
    StoppedError,
    Target,
    Task,
    TooManyError,
)
from lens_ros.ros.texts import shortened


class Scheduler:
    """Newest camera image, active targets, waiting jobs; see the package's policy. Thread-safe.

    Args:
        listener: its `ended` and `unanswered` are called from the thread that ends a target.
        fresh: `fresh(message)` says whether a camera image may still be used.
        interval: seconds between answers to one instruction; 0 answers once.
        max_rate_hz: most images per second that are used; 0 sets no limit.
        max_targets: most targets that may be active.
        tracks: whether there is anything to track.
        clock: seconds; monotonic.
    """

    def __init__(
        self,
        listener: Listener,
        *,
        fresh: Callable[[Any], bool] = lambda message: True,
        interval: Callable[[], float] = lambda: 0.0,
        max_rate_hz: Callable[[], float] = lambda: 0.0,
        max_targets: Callable[[], int] = lambda: LAST_ID,
        tracks: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._listener = listener
        self._fresh = fresh
        self._interval = interval
        self._max_rate_hz = max_rate_hz
        self._max_targets = max_targets
        self._tracks = tracks
        self._clock = clock
        self._changed = threading.Condition()
        self._frame: Frame | None = None
        self._frames = 0
        self._superseded = 0
        self._used_number = 0  # Frame.number of the last image that was reasoned about or tracked on
        self._targets = ActiveTargets()
        self._jobs = JobQueue()
        self._errands: list[Callable[[], None]] = []
        self._running: Sequence[Target | Job] = ()
        self._jobs_first = True
        self._not_before = 0.0  # earliest use of the next image, by max_rate_hz
        self._track_at = 0.0  # earliest time to track between tokens
        self._enabled = True
        self._reset = False
        self.stop_reason = ""  # why it has stopped; empty while it runs

    # Camera images ------------------------------------------------------------------------------------------

    def set_frame(self, message: Any) -> None:
        """Offer a newer camera image."""
        with self._changed:
            if self._frame is not None and self._wanted(self._frame):
                self._superseded += 1
            self._frames += 1
            self._frame = Frame(message, self._frames)
            self._changed.notify_all()

    def forget_frame(self) -> None:
        """Drop the newest image: the camera has stopped publishing."""
        with self._changed:
            self._frame = None

    def enable(self, enabled: bool) -> None:
        """Use camera images or ignore them. Targets stay; jobs that wait for a camera image end."""
        with self._changed:
            self._enabled = enabled
            if not enabled:
                self._frame = None
            self._changed.notify_all()
        if not enabled:
            disabled = Coded("the camera stream was disabled (~/enable)", Code.DISABLED)
            self._end_jobs(lambda job: job.message is None, disabled)

    @property
    def enabled(self) -> bool:
        """Whether camera images are used."""
        with self._changed:
            return self._enabled

    @property
    def has_frame(self) -> bool:
        """Whether there is a camera image that was not found unusable."""
        with self._changed:
            return self._frame is not None

    @property
    def latest(self) -> Any:
        """Newest camera image that may still be used; None without one."""
        with self._changed:
            frame = self._frame if self._enabled else None
        return frame.message if frame is not None and self._fresh(frame.message) else None

    @property
    def superseded(self) -> int:
        """Number of camera images that a newer one replaced although a target or job waited for an image."""
        with self._changed:
            return self._superseded

    # Targets ------------------------------------------------------------------------------------------------

    def set_instruction(self, instruction: str) -> Target:
        """Replace all targets by a new one; raise `StoppedError` once stopped."""
        with self._changed:
            self._refuse_when_stopped()
            replaced = f"replaced by a newer instruction: '{shortened(instruction)}'"
            self.clear(Coded(replaced, Code.REPLACED))
            return self._new_target(instruction)

    def active_alone(self, instruction: str) -> Target | None:
        """Return the only active target if it has this text, apart from blanks."""
        with self._changed:
            return None if self.stop_reason else self._targets.alone(instruction)

    def add_instruction(self, instruction: str) -> Target:
        """Add a target to the active ones.

        Raises:
            TooManyError: `max_targets` are active.
            StoppedError: the scheduler has stopped.
        """
        with self._changed:
            self._refuse_when_stopped()
            if len(self._targets) >= self._max_targets():
                raise TooManyError
            return self._new_target(instruction)

    def remove(self, target_id: int, reason: str) -> Target | None:
        """End one target and return it; None if there is none with that id.

        `reason` is reported if the target has had no answer.
        """
        with self._changed:
            target = self._targets.pop(target_id)
            if target is not None:
                self._end(target, reason)
                self._changed.notify_all()
            return target

    def clear(self, reason: str) -> None:
        """End all targets; `reason` is reported for those that have had no answer."""
        with self._changed:
            for target in self._targets:
                self.remove(target.id, reason)

    def ask_again(self) -> int:
        """Schedule a reasoning pass for every target, on the next image; return their number."""
        with self._changed:
            self._reset = True
            for target in self._targets:
                target.waiting, target.due = True, 0.0
                target.after = self._frames
            self._changed.notify_all()
            return len(self._targets)

    @property
    def targets(self) -> list[Target]:
        """Active targets, the oldest first."""
        with self._changed:
            return list(self._targets)

    # Jobs and errands ---------------------------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        """Queue a job. One that cannot be served is finished at once, with the reason."""
        refused = ""
        with self._changed:
            if job.ended:  # cancelled before it was submitted; `cancel` finishes it
                return
            if self.stop_reason:
                refused = self.stop_reason
            elif job.message is None and not self._enabled:
                refused = DISABLED
            else:
                job.after = self._frames
                self._jobs.add(job)
                self._changed.notify_all()
        if refused:
            job.finish(error=refused)

    def cancel(self, job: Job, reason: str) -> None:
        """End a job at once, even before it is submitted; the model stops at its next token."""
        with self._changed:
            job.ended = reason
        self._end_jobs(lambda each: each is job, reason)
        job.finish(error=reason)

    @property
    def waiting_jobs(self) -> int:
        """Number of jobs that have not started."""
        with self._changed:
            return len(self._jobs)

    def between(self, errand: Callable[[], None]) -> None:
        """Let the inference thread call `errand` between two uses of the model."""
        with self._changed:
            self._errands.append(errand)
            self._changed.notify_all()

    # The end ------------------------------------------------------------------------------------------------

    def stop(self, reason: str) -> None:
        """Accept nothing more: end all jobs for `reason` and let `wait` return None. Targets stay."""
        with self._changed:
            self.stop_reason = reason
            self._changed.notify_all()
        self._end_jobs(lambda job: True, reason)

    def abandon(self) -> list[Target]:
        """Return the targets in progress that have had no answer, and count them as reported.

        For a model that does not return. Its frame is dropped, so that nothing keeps it in memory.
        """
        with self._changed:
            left = [each for each in self._running if isinstance(each, Target) and not each.reported]
            for target in left:
                target.reported = True
            self._running, self._frame = (), None
            return left

    # The inference thread -----------------------------------------------------------------------------------

    def wait(self) -> Task | None:
        """Block until there is a task and return it; None once the scheduler has stopped."""
        with self._changed:
            while not self.stop_reason:
                task = self.next()
                if not isinstance(task, Idle):
                    return task
                self._changed.wait(task.wait_s)
            return None

    def next(self) -> Task | Idle:
        """Return the next task without blocking, or how long nothing can become due.

        A `Reason` or `Serve` is in progress from then on, until `done` or `unusable`.
        """
        with self._changed:
            if self._errands:
                return Errand(self._errands.pop(0))
            self._drop_stale_frame()
            jobs = self._jobs.ready(self._frame)
            targets, wait_s = self._due_targets()
            frame = self._frame
            if jobs and (self._jobs_first or not targets):
                self._jobs.take(jobs)
                self._running, self._jobs_first = jobs, False
                return Serve(jobs, frame if jobs[0].message is None else None)
            if targets and frame is not None:
                self._running, self._jobs_first = targets, True
                self._schedule(targets, frame)
                return Reason(targets, frame)
            if frame is not None and self._may_track(frame):
                return self._follow(frame)
            return Idle(wait_s)

    def next_between_tokens(self) -> Follow | None:
        """Return a tracking task while a batch is in progress; None if none is due."""
        with self._changed:
            self._drop_stale_frame()
            frame = self._frame
            if frame is None or self._clock() < self._track_at or not self._may_track(frame):
                return None
            return self._follow(frame)

    def unusable(self, task: Reason | Serve | Follow) -> None:
        """Report that the image of a task cannot be decoded: targets and jobs wait for the next one."""
        frame = task.frame
        abandoned: list[Target] = []
        with self._changed:
            if self._frame is frame:
                self._frame = None
            if isinstance(task, Serve):
                self._jobs.put_back(task.jobs)
            elif isinstance(task, Reason):
                for target in task.targets:
                    target.waiting, target.due = True, 0.0
                self._not_before = 0.0
                # Must be atomic with the check; otherwise a target that ends in between is never reported.
                self._running = ()
                abandoned = [target for target in task.targets if target.ended and not target.reported]
        for target in abandoned:
            self._listener.unanswered(target, target.ended)

    def done(self, task: Reason, results: Sequence[Any]) -> list[str]:
        """Take the results of a batch, exceptions included; return for each target why it has ended.

        The reason is empty for an active target. A failed one is scheduled again.
        """
        with self._changed:
            reasons = [target.ended or self.stop_reason for target in task.targets]
            self._running = ()
            for target, result, reason in zip(task.targets, results, reasons, strict=True):
                target.reported = True
                if reason:
                    continue
                if isinstance(result, Exception):
                    target.retry(self._clock(), repeated=self._interval() > 0)
                else:
                    target.failures = 0
            return reasons

    def finished(self) -> None:
        """Report that nothing is in progress."""
        with self._changed:
            self._running = ()

    def tracked(self, frame: Frame, targets: Sequence[Target], lost: Sequence[Target]) -> list[Target]:
        """Take the targets that were tracked to an image; return those that are still active.

        `lost`: those whose reasoner is to be asked again.
        """
        with self._changed:
            active = [target for target in targets if not target.ended]
            for target in active:
                target.after = max(target.after, frame.number)
                target.waiting |= target in lost
            return active

    def tracking_took(self, seconds: float) -> None:
        """Leave the reasoner at least as much time as tracking took."""
        with self._changed:
            self._track_at = self._clock() + seconds

    def retry_later(self, targets: Sequence[Target]) -> None:
        """Schedule another reasoning pass for targets that could not be tracked."""
        with self._changed:
            for target in targets:
                target.retry(self._clock(), repeated=self._interval() > 0)

    def take_reset(self) -> bool:
        """Return whether `ask_again` was called since the last call: what is tracked is to be forgotten."""
        with self._changed:
            reset, self._reset = self._reset, False
            return reset

    # With the lock held -------------------------------------------------------------------------------------

    def _refuse_when_stopped(self) -> None:
        # A callback may hold a reference from before a transition that another thread made.
        if self.stop_reason:
            raise StoppedError(self.stop_reason)

    def _new_target(self, instruction: str) -> Target:
        in_progress = [each.id for each in self._running if isinstance(each, Target)]
        target = self._targets.add(instruction, in_progress)
        self._changed.notify_all()
        return target

    def _end(self, target: Target, reason: str) -> None:
        target.ended = reason
        self._listener.ended(target)
        # The inference thread reports a target in progress as soon as the model returns.
        if not target.reported and target not in self._running:
            self._listener.unanswered(target, reason)

    def _end_jobs(self, concerned: Callable[[Job], bool], reason: str) -> None:
        with self._changed:
            running = [each for each in self._running if isinstance(each, Job) and concerned(each)]
            jobs = [*self._jobs.matching(concerned), *running]
            self._jobs.take(jobs)
            for job in jobs:
                job.ended = reason
            self._changed.notify_all()
        for job in jobs:
            job.finish(error=reason)

    def _drop_stale_frame(self) -> None:
        frame = self._frame
        if frame is not None and self._wanted(frame) and not self._fresh(frame.message):
            self._frame = None

    def _wanted(self, frame: Frame) -> bool:
        """Return whether a job or a target would use this image as soon as the model is free."""
        return self._enabled and (
            self._jobs.waits_for(frame) or bool(self._due_targets()[0]) or self._may_track(frame)
        )

    def _due_targets(self) -> tuple[list[Target], float | None]:
        """Return the targets that are due on the present image, else the seconds until some may be.

        None waits until something changes.
        """
        frame = self._frame
        if frame is None or not self._enabled:
            return [], None
        repeated = self._interval() > 0
        asking = [
            target for target in self._targets if frame.number > target.after and (target.waiting or repeated)
        ]
        if not asking:
            return [], None
        wait = max(min(target.due for target in asking), self._not_before) - self._clock()
        return ([], min(wait, 1.0)) if wait > 0 else (asking, None)  # the interval may change while we wait

    def _schedule(self, targets: list[Target], frame: Frame) -> None:
        now, interval, rate = self._clock(), self._interval(), self._max_rate_hz()
        self._not_before = now + (1.0 / rate if rate > 0 else 0.0)
        for target in targets:
            target.after, target.waiting, target.due = frame.number, False, now + interval
        self._used_number = max(self._used_number, frame.number)

    def _may_track(self, frame: Frame) -> bool:
        return (
            self._enabled
            and self._tracks()
            and frame.number > self._used_number
            and self._clock() >= self._not_before
        )

    def _follow(self, frame: Frame) -> Follow:
        rate = self._max_rate_hz()
        self._used_number = frame.number
        self._not_before = self._clock() + (1.0 / rate if rate > 0 else 0.0)
        return Follow(frame)
