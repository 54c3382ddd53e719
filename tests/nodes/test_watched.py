"""Lines of `lens watch`: which are kept, and that texts from others cannot control the terminal."""

from __future__ import annotations

import io
import re

from diagnostic_msgs.msg import DiagnosticStatus

from lens_ros.commands.watch_view import _show
from lens_ros.commands.watched_node import KEPT_VERDICTS, Watched, rendered
from lens_ros.msg import Instance, Reasoning, Segmentation
from lens_ros.nodes.perception.measurements import Measurements, Series


def heard() -> Watched:
    watched = Watched("/eye", Measurements(), clock=lambda: 7.0, state="active", targets={3: "the mug"})
    watched.reasoning = Reasoning(target_id=3, instruction="the mug", text="so " * 90 + "\033[2J", tokens=9)
    mug = Instance(label="mug", score=0.25, rejected="box and mask disagree")
    message = Segmentation(target_id=3, instruction="the mug", instances=[mug], reason="none is sure enough")
    message.reason_ms = 80.0
    watched.hear_segmentation(message, age_s=0.2)
    watched.diagnostics["images"] = DiagnosticStatus(level=DiagnosticStatus.WARN, message="no image for 5 s")
    return watched


def test_verdicts_and_trouble_come_with_their_reasons():
    shown = "\n".join(rendered(heard(), "12:00:00"))
    assert (
        "3: 'the mug' 0 s ago: nothing: none is sure enough; mug 0.25 rejected: box and mask disagree"
        in shown
    )
    assert "reason 80/80" in shown and "image age 200/200" in shown
    assert re.search(r"^trouble +WARN images: no image for 5 s$", shown, re.MULTILINE)


def test_what_was_not_told_is_not_taken_for_nothing():
    watched = Watched("/eye", Measurements(), state="active")

    def targets() -> str:
        (line,) = [line for line in rendered(watched, "12:00:00") if line.startswith("targets")]
        return line.removeprefix("targets").strip()

    assert targets() == "unknown" and not watched.told
    watched.targets = {}
    assert targets() == "none" and not watched.told
    watched.diagnostics["model"] = DiagnosticStatus()
    assert watched.told


def test_lines_fit_and_carry_no_control_characters():
    lines = rendered(heard(), "12:00:00", width=60)
    assert max(map(len, lines)) <= 60
    assert all(line.isprintable() for line in lines) and any("x1b[2J" in line for line in lines)


def test_only_the_latest_answer_to_each_of_the_latest_instructions_is_kept():
    watched = heard()
    for number in range(2 * KEPT_VERDICTS):
        for _ in range(2):
            watched.hear_segmentation(Segmentation(target_id=number, instruction="x"), age_s=None)
    latest = range(KEPT_VERDICTS, 2 * KEPT_VERDICTS)
    assert list(watched.verdicts) == [(number, "x") for number in latest]
    assert watched.measured.quantiles(Series.AGE_PUBLISHED).count == 1  # what was never asked has no age


def test_a_terminal_is_redrawn_in_place():
    out = io.StringIO()
    _show(heard(), out, in_place=True)
    assert out.getvalue().startswith("\033[H/eye is active") and out.getvalue().endswith("\033[J")
    assert "\033[2J" not in out.getvalue()
