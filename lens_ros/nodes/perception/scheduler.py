"""What there is to do, and what of it comes next: camera images, targets and jobs, as callbacks hand them in.

The policy is described in `worker`, which does the work.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from lens_ros.nodes.perception.follower import TargetFollower
from lens_ros.nodes.perception.tasks import Frame, Job, Listener, Target
from lens_ros.ros.texts import shortened

LAST_ID = 65535  # ids are uint16, and 0 means "no target"


class TooManyError(Exception):
    """There are as many targets as may be."""


class StoppedError(Exception):
    """Nothing is taken on any more; the text says why."""


class Agenda:
    """The newest camera image, the active targets, the waiting jobs. All public methods are thread-safe.

    `fresh(message)` says whether a camera image may still be used. `interval()` gives the seconds between
    answers (0: once), `max_rate_hz()` the most images per second (0: no limit), `max_targets()` how many
    targets there may be. Without a `follower`, nothing happens between two acts of reasoning.
    """

    def __init__(
        self,
        listener: Listener,
        *,
        fresh: Callable[[Any], bool] = lambda message: True,
        interval: Callable[[], float] = lambda: 0.0,
        max_rate_hz: Callable[[], float] = lambda: 0.0,
        max_targets: Callable[[], int] = lambda: LAST_ID,
        follower: TargetFollower | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._listener = listener
        self._fresh = fresh
        self._interval = interval
        self._max_rate_hz = max_rate_hz
        self._max_targets = max_targets
        self._follower = follower
        self._clock = clock
        self._changed = threading.Condition()
        self._frame: Frame | None = None
        self._frames = 0
        self._superseded = 0
        self._seen_number = 0  # Frame.number of the last one that was reasoned about or followed on
        self._targets: dict[int, Target] = {}
        self._last_id = 0
        self._jobs: list[Job] = []
        self._running: Sequence[Target | Job] = ()
        self._not_before = 0.0
        self._enabled = True
        self._reset = False
        self._stop_reason = ""

    # Camera images ------------------------------------------------------------------------------------------

    def set_frame(self, message: Any) -> None:
        """Offers a newer camera image."""
        with self._changed:
            if self._frame is not None and self._wanted(self._frame):
                self._superseded += 1
            self._frames += 1
            self._frame = Frame(message, self._frames)
            self._changed.notify_all()

    def forget_frame(self) -> None:
        """The camera fell silent: its last image is not used any more."""
        with self._changed:
            self._frame = None

    def enable(self, enabled: bool) -> None:
        """Whether camera images are looked at. Targets stay; jobs that wait for a camera image end."""
        with self._changed:
            self._enabled = enabled
            if not enabled:
                self._frame = None
            self._changed.notify_all()
        if not enabled:
            self._end_jobs(lambda job: job.message is None, "the camera stream was disabled (~/enable)")

    @property
    def enabled(self) -> bool:
        with self._changed:
            return self._enabled

    @property
    def has_frame(self) -> bool:
        """Whether a camera image has come that was not found unusable."""
        with self._changed:
            return self._frame is not None

    @property
    def latest(self) -> Any:
        """The newest camera image that may still be used; None without one."""
        with self._changed:
            frame = self._frame if self._enabled else None
        return frame.message if frame is not None and self._fresh(frame.message) else None

    @property
    def superseded(self) -> int:
        """How many camera images were replaced by newer ones although somebody waited for an image."""
        with self._changed:
            return self._superseded

    # Targets ------------------------------------------------------------------------------------------------

    def set_instruction(self, instruction: str) -> Target:
        """Makes `instruction` the only active one, in place of the present ones. Raises `StoppedError`."""
        with self._changed:
            self._refuse_when_stopped()
            self.clear(f"replaced by a newer instruction: '{shortened(instruction)}'")
            return self._new_target(instruction)

    def active_alone(self, instruction: str) -> Target | None:
        """Return the only active target where it has this text, blanks aside."""
        with self._changed:
            if self._stop_reason or len(self._targets) != 1:
                return None
            (target,) = self._targets.values()
            return target if target.instruction.split() == instruction.split() else None

    def add_instruction(self, instruction: str) -> Target:
        """Makes `instruction` active beside the others. Raises `TooManyError`, `StoppedError`."""
        with self._changed:
            self._refuse_when_stopped()
            if len(self._targets) >= self._max_targets():
                raise TooManyError
            return self._new_target(instruction)

    def remove(self, target_id: int, reason: str) -> Target | None:
        """Ends one target; None when there is none of that id. `reason` is given when it has no answer."""
        with self._changed:
            target = self._targets.pop(target_id, None)
            if target is not None:
                self._end(target, reason)
                self._changed.notify_all()
            return target

    def clear(self, reason: str) -> None:
        """Ends all targets; `reason` is given to those that have no answer yet."""
        with self._changed:
            for target_id in list(self._targets):
                self.remove(target_id, reason)

    def ask_again(self) -> int:
        """Every target is answered anew, about the next image at the earliest; how many they are."""
        with self._changed:
            self._reset = True
            for target in self._targets.values():
                target.waiting, target.due = True, 0.0
                target.after = self._frames
            self._changed.notify_all()
            return len(self._targets)

    @property
    def targets(self) -> list[Target]:
        """The active targets, the oldest first."""
        with self._changed:
            return list(self._targets.values())

    def _refuse_when_stopped(self) -> None:
        # A callback may have got hold of us before a transition, in another thread, put an end to us.
        if self._stop_reason:
            raise StoppedError(self._stop_reason)

    def _new_target(self, instruction: str) -> Target:
        while True:
            self._last_id = self._last_id % LAST_ID + 1
            if self._last_id not in self._targets and all(
                not isinstance(each, Target) or each.id != self._last_id for each in self._running
            ):
                break
        target = self._targets[self._last_id] = Target(self._last_id, instruction)
        self._changed.notify_all()
        return target

    def _end(self, target: Target, reason: str) -> None:
        target.ended = reason
        self._listener.ended(target)
        # A target in progress is reported by the worker's thread as soon as the model lets go of it.
        if not target.reported and target not in self._running:
            self._listener.unanswered(target, reason)

    # Jobs ---------------------------------------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        """Asks for one answer. A job that cannot be served is finished at once, with the reason."""
        refused = ""
        with self._changed:
            if job.ended:  # cancelled before it came here: who cancelled it finishes it
                return
            if self._stop_reason:
                refused = self._stop_reason
            elif job.message is None and not self._enabled:
                refused = "the camera stream is disabled; enable it by ~/enable, or send an image along"
            else:
                job.after = self._frames
                self._jobs.append(job)
                self._changed.notify_all()
        if refused:
            job.finish(error=refused)

    def cancel(self, job: Job, reason: str) -> None:
        """Ends a job at once, also one that is yet to be submitted; the model lets go of it at its next
        token."""
        with self._changed:
            job.ended = reason
        self._end_jobs(lambda each: each is job, reason)
        job.finish(error=reason)

    @property
    def waiting_jobs(self) -> int:
        """How many jobs have not been started."""
        with self._changed:
            return len(self._jobs)

    def _end_jobs(self, concerned: Callable[[Job], bool], reason: str) -> None:
        with self._changed:
            jobs = [j for j in (*self._jobs, *self._running) if isinstance(j, Job) and concerned(j)]
            self._jobs = [job for job in self._jobs if job not in jobs]
            for job in jobs:
                job.ended = reason
            self._changed.notify_all()
        for job in jobs:
            job.finish(error=reason)

    # What comes next; with the lock held --------------------------------------------------------------------

    def _drop_stale_frame(self) -> None:
        frame = self._frame
        if frame is not None and self._wanted(frame) and not self._fresh(frame.message):
            self._frame = None

    def _wanted(self, frame: Frame) -> bool:
        """Whether a job or a target would use this image as soon as the model is free."""
        return self._enabled and (
            any(job.message is None and frame.number > job.after for job in self._jobs)
            or bool(self._due_targets()[0])
            or self._may_follow(frame)
        )

    def _ready_jobs(self) -> list[Job]:
        frame = self._frame
        for job in self._jobs:
            if job.message is not None:
                return [job]
            if frame is not None and frame.number > job.after:
                return [j for j in self._jobs if j.message is None and frame.number > j.after]
        return []

    def _due_targets(self) -> tuple[list[Target], float | None]:
        """Targets to be answered about the present image now; otherwise how many seconds to wait for that,
        None being until something changes."""
        frame = self._frame
        if frame is None or not self._enabled:
            return [], None
        repeated = self._interval() > 0
        asking = [
            target
            for target in self._targets.values()
            if frame.number > target.after and (target.waiting or repeated)
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
        self._seen_number = max(self._seen_number, frame.number)

    def _may_follow(self, frame: Frame) -> bool:
        follower = self._follower
        return (
            self._enabled
            and follower is not None
            and follower.active
            and frame.number > self._seen_number
            and self._clock() >= self._not_before
        )
