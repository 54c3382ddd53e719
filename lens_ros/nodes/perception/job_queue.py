"""Queue the jobs that wait for the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lens_ros.nodes.perception.tasks import Frame, Job


class JobQueue:
    """Waiting jobs in order of arrival. Not thread-safe: the scheduler's lock protects it."""

    def __init__(self) -> None:
        self._jobs: list[Job] = []

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, job: Job) -> None:
        """Append a job."""
        self._jobs.append(job)

    def put_back(self, jobs: Sequence[Job]) -> None:
        """Queue jobs before all others, except those that have ended."""
        self._jobs[:0] = [job for job in jobs if not job.ended]

    def take(self, jobs: Sequence[Job]) -> None:
        """Remove these jobs."""
        self._jobs = [job for job in self._jobs if job not in jobs]

    def matching(self, concerned: Callable[[Job], bool]) -> list[Job]:
        """Return the jobs for which `concerned` is true."""
        return [job for job in self._jobs if concerned(job)]

    def ready(self, frame: Frame | None) -> list[Job]:
        """Return the jobs to serve next, given the newest camera image.

        One with an image is served alone, those that wait for the same camera image together.
        """
        for job in self._jobs:
            if job.message is not None:
                return [job]
            if _takes(job, frame):
                return self.matching(lambda each: _takes(each, frame))
        return []

    def waits_for(self, frame: Frame) -> bool:
        """Return whether a job would use this camera image."""
        return any(_takes(job, frame) for job in self._jobs)


def _takes(job: Job, frame: Frame | None) -> bool:
    return job.message is None and frame is not None and frame.number > job.after
