"""Collect the results of the fault-injection suite as rows, and write them as JSON and Markdown.

The rows go to `out/faults.json`, and from there to `docs/results/faults.md`:

python -m faults.report out/faults.json docs/results/faults.md     (in tests/; `make faults` does it)
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

LOG_INTERVAL_S = 0.1  # in which the node logs a complaint of a kind once: short, tests follow each other fast

# What differs from run to run or from machine to machine, and what stands in its place.
_VARYING = (
    (r"^\[\w+\] \[[\d.]+\] \[[\w.]+\]: ", ""),  # rclpy's prefix of a line of the log
    (r" \(and \d+ more like this in between\)", ""),
    (r"(?<![\w.])/(?:[\w.~+-]+/)+(?=[\w.~+-])", "…/"),  # folders of absolute paths with more than one part
    (r"\.making-[\w-]+", ".making-…"),
    (r"-?\b\d+(?:\.\d+)?(?= (?:ms|s|Hz|MiB|MB|GB)\b)", "N"),
)

HEAD = """# Faults

`make faults` writes this page from `tests/faults`: {count} faults, each provoked in real processes over real
DDS with the shipped model. {shared} of them meet the same `perception` process, one after another; a fault
that ends a process gets its own.

A row is written only if its test saw all of this: the message, the entry in `/diagnostics` (— if there is
none, as after the process has ended), then a good image and an instruction answered with the same box as
before, and one answer for every instruction and goal sent until then. Where the process ends, "afterwards"
only says how.

Messages are quoted. Durations and folders are replaced by N and "…"; long messages are cut. How long each
recovery took is in `out/faults.json`.
"""


@dataclass
class Row:
    """One fault. `recovery_s` is the time in seconds from the first good image after it to a right answer."""

    area: str
    fault: str
    said: str = ""
    diagnostics: str = ""
    restored: str = ""
    verdict: str = "failed"
    recovery_s: float | None = None
    own_process: bool = False

    def held(self, restored: str) -> None:
        """Record that the node survived the fault, and how it came to work again."""
        self.restored, self.verdict = restored, "held"


def write_json(rows: Iterable[Row], path: Path) -> None:
    """Write all rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(row) for row in rows], indent=1, ensure_ascii=False) + "\n", "utf-8")


def read_json(path: Path) -> list[Row]:
    """Read the rows that `write_json` wrote."""
    return [Row(**row) for row in json.loads(path.read_text("utf-8"))]


def as_markdown(rows: Sequence[Row]) -> str:
    """Format the rows as a page with a table for each area, in the order of the rows.

    The page is identical for all runs with identical findings.
    """
    text = HEAD.format(count=len(rows), shared=sum(not row.own_process for row in rows))
    for area in dict.fromkeys(row.area for row in rows):
        text += f"\n## {area}\n\n| fault | what the node says | `/diagnostics` | afterwards |\n"
        text += "|---|---|---|---|\n"
        for row in rows:
            if row.area == area:
                cells = (row.fault, normalised(row.said), normalised(row.diagnostics), row.restored)
                text += f"| {' | '.join(map(_cell, cells))} |\n"
    return text


def normalised(text: str, limit: int = 330) -> str:
    """Remove parts of a text that differ from run to run."""
    for pattern, instead in _VARYING:
        text = re.sub(pattern, instead, text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;") or "—"


def main(arguments: Sequence[str]) -> int:
    """Write the page and return 0. If a fault was not survived, write nothing and return 1."""
    source, page = map(Path, arguments)
    rows = read_json(source)
    failed = [row.fault for row in rows if row.verdict != "held"]
    if failed or not rows:
        print(f"{page} stays as it is; not borne: {', '.join(failed) or 'nothing was run'}", file=sys.stderr)
        return 1
    page.write_text(as_markdown(rows), "utf-8")
    print(f"{page}: {len(rows)} faults")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
