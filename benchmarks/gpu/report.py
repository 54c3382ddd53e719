"""Write the results to ``gpu_check.json`` and ``gpu_check.txt``, atomically, and format the table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.gpu.runner import Number, Result
from lens_ros.whole import whole_file

JSON, TABLE, LOG = "gpu_check.json", "gpu_check.txt", "gpu_check.log"


def write(folder: Path, settings: dict[str, Any], results: Sequence[Result]) -> None:
    """Write both files."""
    content = {"settings": settings, "parts": [asdict(result) for result in results]}
    for name, text in ((JSON, json.dumps(content, indent=1)), (TABLE, table(results))):
        with whole_file(folder / name) as partial:
            partial.write_text(text + "\n", encoding="utf-8")


def table(results: Sequence[Result]) -> str:
    """Format measurements, forecasts and their reasons, part by part."""
    lines = [f"{'':46s} {'measured':>10s} {'forecast':>10s}  {'unit':10s} {'ratio':>6s}  forecast from"]
    for result in results:
        lines.append(f"{result.part}: {result.status} after {result.seconds:.0f} s")
        lines += [_row(number) for number in result.numbers]
        lines += [f"  {note}" for note in result.notes]
        if result.error:
            lines.append(f"  {result.error}")
    lines.append("The formula of the forecasts is explained in benchmarks/gpu/forecast.py.")
    return "\n".join(lines)


def _row(number: Number) -> str:
    ratio = f"{number.value / number.forecast:6.2f}" if number.forecast else "      "
    return (
        f"  {number.what:44s} {number.value:10.4g} {number.forecast:10.4g}  {number.unit:10s} {ratio}  "
        f"{number.why}"
    )
