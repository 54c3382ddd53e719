"""Write an evaluation as one self-contained HTML file with numbers, tables and pictures.

It needs no network and no script: style and pictures are inside. What it shows is what
:mod:`lens_ros.evaluation.metrics` computes.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import cv2
import numpy as np

from lens_ros.evaluation.metrics import (
    PRECISION_THRESHOLDS,
    Score,
    summarize,
    summarize_by_kind,
    summarize_nothing,
)

PER_SECTION = 12  # answers shown of the worst, of the best, and at random

_COLUMNS = {
    "n": "n",
    "ciou": "cIoU",
    "giou": "gIoU",
    **{f"pr{round(100 * t)}": f"Pr@{t}" for t in PRECISION_THRESHOLDS},
    "right_object": "right object",
    "box_acc50": "box > 0.5",
    "format_rate": "well-formed",
    "accepted_rate": "accepted",
    "median_seconds": "median s",
}
_WITH_BAR = ("ciou", "giou", "right_object")
_HEADLINE = {
    "ciou": ("cIoU", "overlap of masks, all pixels together"),
    "giou": ("gIoU", "overlap of masks, mean per answer"),
    "right_object": ("right object", "of all in view, the box fits the asked one best"),
    "box_acc50": ("box > 0.5", "IoU with the true box"),
    "accepted_rate": ("accepted", "answers with a mask to act upon"),
}

_STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --text: #1c2330; --quiet: #667085;
  --line: #e2e6ec; --bar: #cfe3fb; --accent: #3b7dd8; --good: #14804a; --fair: #a15c07; --bad: #b42318; }
@media (prefers-color-scheme: dark) { :root { --page: #12161c; --card: #1b212a; --text: #e6e9ee;
  --quiet: #98a2b3; --line: #2c3440; --bar: #24456b; --accent: #5b9bf0; --good: #4cc38a;
  --fair: #e5a04b; --bad: #f2796b; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text);
  font: 15px/1.45 system-ui, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 26px; margin: 0 0 6px; }
h2 { font-size: 19px; margin: 36px 0 4px; }
.about, .what { color: var(--quiet); margin: 0 0 14px; }
.about b { color: var(--text); font-weight: 600; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); gap: 12px;
  margin: 20px 0; }
.card, figure, .wide { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.card { padding: 12px 14px; }
.card strong { display: block; font-size: 28px; line-height: 1.2; }
.card span { display: block; font-weight: 600; }
.card small { color: var(--quiet); }
.wide { overflow-x: auto; padding: 8px 12px; margin-bottom: 12px; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px;
  font-variant-numeric: tabular-nums; }
th, td { padding: 5px 7px; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { color: var(--quiet); font-weight: 600; white-space: normal; vertical-align: bottom; }
tr:last-child td { font-weight: 700; border-bottom: 0; }
svg text { fill: var(--quiet); font-size: 11px; }
svg rect { fill: var(--accent); }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(280px, 1fr)); gap: 14px; }
figure { margin: 0; overflow: hidden; }
figure img { display: block; width: 100%; }
figcaption { padding: 9px 12px 12px; }
.said { font-weight: 600; margin: 0 0 4px; }
.thought { color: var(--quiet); font-size: 13px; margin: 6px 0 0; overflow-wrap: anywhere; }
.tag { display: inline-block; border: 1px solid var(--line); border-radius: 99px; padding: 0 8px;
  font-size: 12px; margin: 0 3px 3px 0; }
.good { color: var(--good); } .fair { color: var(--fair); } .bad { color: var(--bad); }
"""


@dataclass(frozen=True)
class Example:
    """One answer, as the report shows it.

    Attributes:
        jpeg: the picture with what was answered drawn into it, see :func:`jpeg`.
        instruction: what was asked.
        reasoning: what was thought.
        remark: what else there is to say, such as why the answer was rejected; "" for nothing.
        score: how good the answer is.
    """

    jpeg: bytes
    instruction: str
    reasoning: str
    remark: str
    score: Score


def jpeg(picture: np.ndarray, quality: int = 85) -> bytes:
    """Return a picture ``(H, W, 3)`` uint8 RGB as a JPEG file."""
    written, data = cv2.imencode(
        ".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    if not written:
        raise ValueError(f"cannot write a picture of shape {picture.shape} as JPEG")
    return data.tobytes()


def html_report(title: str, about: Mapping[str, object], examples: Sequence[Example]) -> str:
    """Return the whole page.

    Args:
        title: its heading.
        about: what was evaluated and how: names and values, shown below the heading.
        examples: every answer; the numbers are over all of them, the pictures of the worst, the best and some
            at random, none of them twice. The same answers give the same page.

    Raises:
        ValueError: no examples.
    """
    scores = [example.score for example in examples]
    overall = summarize(scores)
    facts = " · ".join(f"{escape(name)} <b>{escape(str(value))}</b>" for name, value in about.items())
    body = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="about">{facts}</p>',
        _cards(overall, scores),
        "<h2>By kind of expression</h2>",
        '<p class="what">Percent, but for n and the seconds from instruction to mask.</p>',
        _table(summarize_by_kind(scores), overall),
        "<h2>How the overlaps are spread</h2>",
        '<p class="what">Answers by the IoU of their mask and the true one.</p>',
        _histogram([score.iou for score in scores]),
    ]
    for heading, what, shown in _sections(examples):
        if shown:
            figures = "\n".join(_figure(example) for example in shown)
            body.append(
                f'<h2>{heading}</h2>\n<p class="what">{what}</p>\n<div class="grid">\n{figures}\n</div>'
            )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def _sections(examples: Sequence[Example]) -> Iterable[tuple[str, str, list[Example]]]:
    """Return headings, explanations and what to show below them."""
    ranked = sorted(examples, key=lambda example: (example.score.iou, example.score.box_iou))
    legend = "Filled: the mask, green where accepted, red where not, with its box; white: the true box."
    if len(ranked) <= 3 * PER_SECTION:
        return [("All answers", f"The worst first. {legend}", ranked)]
    rest = ranked[PER_SECTION:-PER_SECTION]
    picked = sorted(np.random.default_rng(0).choice(len(rest), PER_SECTION, replace=False))
    return [
        ("The worst", legend, ranked[:PER_SECTION]),
        ("At random", f"Of those that are neither below nor above. {legend}", [rest[k] for k in picked]),
        ("The best", legend, ranked[: -PER_SECTION - 1 : -1]),
    ]


def _cards(overall: Mapping[str, float], scores: Sequence[Score]) -> str:
    cards = [(f"{overall[key]:.1f} %", name, what) for key, (name, what) in _HEADLINE.items()]
    seconds = f"95 % within {overall['p95_seconds']:.2f} s"
    cards.append((f"{overall['median_seconds']:.2f} s", "median time", seconds))
    if any(score.nothing_there for score in scores):
        nothing = summarize_nothing(scores)
        precision, recall = (
            "none" if nothing[key] is None else f"{nothing[key]:.1f} %" for key in ("precision", "recall")
        )
        asked = f"recall, of {nothing['questions']} questions; precision {precision}"
        cards.append((recall, "nothing there", asked))
    return (
        '<div class="cards">\n'
        + "\n".join(
            f'<div class="card"><strong>{value}</strong><span>{escape(name)}</span>'
            f"<small>{escape(what)}</small></div>"
            for value, name, what in cards
        )
        + "\n</div>"
    )


def _table(by_kind: Mapping[str, Mapping[str, float]], overall: Mapping[str, float]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in ("kind", *_COLUMNS.values()))
    rows = [
        f"<tr><td>{escape(kind)}</td>" + "".join(_cell(key, row[key]) for key in _COLUMNS) + "</tr>"
        for kind, row in [*by_kind.items(), ("all", overall)]
    ]
    return (
        f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n'
        + "\n".join(rows)
        + "\n</tbody></table></div>"
    )


def _cell(key: str, value: float) -> str:
    text = f"{value:.0f}" if key == "n" else f"{value:.2f}" if key.endswith("seconds") else f"{value:.1f}"
    if key not in _WITH_BAR:
        return f"<td>{text}</td>"
    bar = f"linear-gradient(to right, var(--bar) {value:.1f}%, transparent {value:.1f}%)"
    return f'<td style="background: {bar}">{text}</td>'


def _histogram(overlaps: Sequence[float]) -> str:
    """Return ten bars, IoU 0 to 1, each with its count."""
    counts, _ = np.histogram(overlaps, bins=10, range=(0, 1))
    parts = []
    for k, count in enumerate(counts):
        x, height = 8 + 58 * k, 120 * count / counts.max()
        parts.append(f'<rect x="{x}" y="{140 - height:.1f}" width="50" height="{height:.1f}" rx="2"></rect>')
        parts.append(f'<text x="{x + 25}" y="{134 - height:.1f}" text-anchor="middle">{count}</text>')
        parts.append(f'<text x="{x}" y="156">{k / 10:.1f}</text>')
    parts.append('<text x="588" y="156">1.0</text>')
    return (
        '<div class="wide"><svg viewBox="0 0 612 162" style="max-width: 720px; width: 100%" role="img" '
        f'aria-label="histogram of mask IoU">{"".join(parts)}</svg></div>'
    )


def _figure(example: Example) -> str:
    score = example.score
    tone = "good" if score.iou > 0.8 else "fair" if score.iou > 0.5 else "bad"
    tags = [
        f'<span class="tag {tone}">IoU {score.iou:.2f}</span>',
        f'<span class="tag">{escape(score.kind)}</span>',
    ]
    if not score.right_object:
        tags.append('<span class="tag bad">not what was asked for</span>')
    if not score.well_formed:
        tags.append('<span class="tag bad">malformed</span>')
    if example.remark:
        tags.append(f'<span class="tag">{escape(example.remark)}</span>')
    picture = base64.b64encode(example.jpeg).decode("ascii")
    said = escape(example.instruction, quote=True)
    return (
        f'<figure><img src="data:image/jpeg;base64,{picture}" alt="answer to: {said}">'
        f'<figcaption><p class="said">{said}</p>{"".join(tags)}'
        f'<p class="thought">{escape(example.reasoning)}</p></figcaption></figure>'
    )
