"""The published page covers exactly the faults that are tested."""

from __future__ import annotations

from pathlib import Path

from .report import Row, as_markdown, normalised, read_json, write_json

PAGE = Path(__file__).resolve().parents[2] / "docs" / "results" / "faults.md"


def test_the_page_has_a_row_for_every_fault(request):
    """If this fails, run `make faults`."""
    page = PAGE.read_text("utf-8")
    markers = [item.get_closest_marker("fault") for item in request.session.items]
    faults = {marker.args for marker in markers if marker is not None}
    missing = [
        fault for area, fault in faults if f"\n## {area}\n" not in page or f"\n| {fault} |" not in page
    ]
    assert not missing


def test_a_page_says_the_same_after_every_run(tmp_path):
    line = (
        "[WARN] [1795552891.474] [left.perception]: '/tmp/x/y.json' is {} ms old "
        "(and {} more like this in between)"
    )
    pages = []
    for run in (1, 2.5):
        row = Row("Time", "late | slow", said=line.format(run, int(run)), diagnostics="OK state: active")
        row.recovery_s = run
        row.held("goes on")
        write_json([row], tmp_path / "faults.json")
        pages.append(as_markdown(read_json(tmp_path / "faults.json")))
    assert pages[0] == pages[1]
    assert "| late \\| slow | '…/y.json' is N ms old | OK state: active | goes on |" in pages[0]


def test_texts_are_cut():
    assert normalised("x" * 1000).endswith("x…") and len(normalised("x" * 1000)) < 400
