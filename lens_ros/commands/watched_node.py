"""Hold what `lens watch` knows of a node, and format it as lines."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticStatus

from lens_ros.msg import Reasoning, Segmentation
from lens_ros.nodes.perception.measurements import Measurements, Series
from lens_ros.ros.texts import escaped

KEPT_VERDICTS = 8  # instructions whose latest answers are shown
STAGES = (Series.PREPROCESS, Series.REASON, Series.DECODE)
MARGIN = 11  # columns of the titles
LEVELS = {DiagnosticStatus.WARN: "WARN", DiagnosticStatus.ERROR: "ERROR", DiagnosticStatus.STALE: "STALE"}


@dataclass
class Watched:
    """What was received so far from the node with the full name `node`."""

    node: str
    measured: Measurements
    clock: Callable[[], float] = time.monotonic
    state: str = "unknown"
    targets: dict[int, str] | None = None  # active instructions by id; None as long as they are unknown
    reasoning: Reasoning | None = None
    verdicts: dict[tuple[int, str], tuple[float, Segmentation]] = field(default_factory=dict)  # oldest first
    diagnostics: dict[str, DiagnosticStatus] = field(default_factory=dict)  # by part, as the node names them

    def hear_segmentation(self, message: Segmentation, age_s: float | None) -> None:
        """Keep the latest answer to each instruction; `age_s` is that of its image, if it has one."""
        key = message.target_id, message.instruction
        self.verdicts.pop(key, None)
        self.verdicts[key] = self.clock(), message
        while len(self.verdicts) > KEPT_VERDICTS:
            del self.verdicts[next(iter(self.verdicts))]
        if age_s is None:
            return  # an instruction that was refused or ended unanswered
        self.measured.add(Series.AGE_PUBLISHED, 1e3 * age_s)
        stages = (message.preprocess_ms, message.reason_ms, message.decode_ms)
        for series, milliseconds in zip(STAGES, stages, strict=True):
            self.measured.add(series, milliseconds)
        self.measured.add(Series.TOTAL, sum(stages))

    @property
    def told(self) -> bool:
        """Whether the node has sent its instructions and its diagnostics."""
        return self.targets is not None and "model" in self.diagnostics


def rendered(watched: Watched, clock: str, width: int | None = None) -> list[str]:
    """Return the lines to show, at most `width` columns wide; None sets no limit."""
    lines = [f"{watched.node} is {watched.state}  {clock}"]
    for title, texts in (
        ("model", _model(watched)),
        ("images", _images(watched)),
        ("answers", _answers(watched)),
        ("targets", _targets(watched)),
        ("reasoning", _reasoning(watched)),
        ("verdicts", _verdicts(watched)),
        ("trouble", _trouble(watched)),
    ):
        first = True
        for text in texts:
            for line in _wrapped(escaped(" ".join(text.split())), width):
                lines.append(f"{title if first else '':<{MARGIN}}{line}")
                first = False
    return lines


def _model(watched: Watched) -> list[str]:
    values = _values(watched, "model")
    if not values:
        return ["no /diagnostics heard"]
    shown = [values[key] for key in ("model", "device", "backend") if values.get(key)]
    shown += [f"{key} {value}" for key, value in values.items() if key.endswith(", MB")]
    return [", ".join(shown)]


def _images(watched: Watched) -> list[str]:
    values = _values(watched, "images")
    return [", ".join(f"{key} {value}" for key, value in values.items())] if values else []


def _answers(watched: Watched) -> list[str]:
    parts = [f"{watched.measured.rate(Series.TOTAL):.1f} Hz"]
    for stage in STAGES:
        quantiles = watched.measured.quantiles(stage)
        if quantiles is not None:
            parts.append(f"{stage.value} {quantiles.p50:.0f}/{quantiles.p95:.0f}")
    age = watched.measured.quantiles(Series.AGE_PUBLISHED)
    if age is not None:
        parts.append(f"image age {age.p50:.0f}/{age.p95:.0f}")
    return [", ".join(parts) + ("  (ms, p50/p95 of the last 10 s)" if len(parts) > 1 else "")]


def _targets(watched: Watched) -> list[str]:
    if watched.targets is None:
        return ["unknown"]
    return [f"{number}: {text}" for number, text in watched.targets.items()] or ["none"]


def _reasoning(watched: Watched) -> list[str]:
    message = watched.reasoning
    if message is None:
        return ["none heard"]
    how = "finished" if message.finished else "being written"
    end = f"  [{message.reason}]" if message.reason else ""
    return [f"{_target(message)} ({how}, {message.tokens} tokens): {message.text}{end}"]


def _verdicts(watched: Watched) -> list[str]:
    lines = []
    for at, message in reversed(watched.verdicts.values()):
        found = [
            f"{each.label or 'object'} {each.score:.2f} "
            + (f"rejected: {each.rejected}" if each.rejected else "accepted")
            for each in message.instances
        ]
        if message.reason:
            found.insert(0, f"nothing: {message.reason}")
        lines.append(f"{_target(message)} {watched.clock() - at:.0f} s ago: {'; '.join(found)}")
    return lines or ["none heard"]


def _trouble(watched: Watched) -> list[str]:
    return [
        f"{LEVELS[status.level]} {part}: {status.message}"
        for part, status in watched.diagnostics.items()
        if status.level in LEVELS
    ]


def _values(watched: Watched, part: str) -> dict[str, str]:
    status = watched.diagnostics.get(part)
    return {each.key: each.value for each in status.values} if status is not None else {}


def _target(message: Reasoning | Segmentation) -> str:
    return f"{message.target_id}: '{message.instruction}'"


def _wrapped(text: str, width: int | None) -> list[str]:
    return [text] if width is None else textwrap.wrap(text, max(width - MARGIN, 20)) or [""]
