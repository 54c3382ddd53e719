"""The report is one valid HTML file that shows the measurements and loads nothing."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from lens_ros.evaluation.metrics import Score
from lens_ros.evaluation.report import PER_SECTION, Example, html_report, jpeg

EMPTY = {"img", "meta", "br", "link"}


class Page(HTMLParser):
    """HTML parser that asserts that every element is closed where it must be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()
        assert self.open == [], f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if data.strip() and self.open[-1] != "style":
            self.text.append(data.strip())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for found, attributes in self.found if found == tag]


def example(overlap: int, kind: str = "relation", text: str = "the mug", **values: object) -> Example:
    picture = np.full((24, 32, 3), (overlap * 2, 100, 50), np.uint8)
    defaults = {"box_iou": overlap / 100, "right_object": True, "well_formed": True, "accepted": True}
    score = Score(kind, overlap, 100, seconds=0.25, **{**defaults, **values})  # type: ignore[arg-type]
    return Example(jpeg(picture), text, f"looking for a mug, {overlap}", "", score)


def test_numbers_by_kind_and_overall() -> None:
    examples = [example(100, "color"), example(50, "color"), example(0, "between", right_object=False)]
    page = Page(html_report("lens-nano: crowded", {"seed": 9105, "scenes": 50}, examples))
    assert page.text.count("lens-nano: crowded") == 2  # the window's title and the heading
    assert "9105" in page.text
    rows = re.findall(r"<tr><td>(\w+)</td>(.*?)</tr>", html_report("t", {}, examples))
    cells = {kind: re.findall(r">([\d.]+)</td>", row) for kind, row in rows}
    assert list(cells) == ["between", "color", "all"]
    # n, cIoU, gIoU, Pr@0.5 ... Pr@0.9, right object
    assert cells["color"][:9] == ["2", "75.0", "75.0", "50.0", "50.0", "50.0", "50.0", "50.0", "100.0"]
    assert cells["all"][:4] == ["3", "50.0", "50.0", "33.3"]
    assert "nothing there" not in page.text


def test_nothing_there_has_its_numbers_where_it_was_asked_for() -> None:
    there = {"nothing_there": True, "nothing_said": True}
    page = Page(html_report("t", {}, [example(90), example(100, "none", **there)]))
    assert page.text[page.text.index("nothing there") - 1] == "100.0 %"


def test_pictures_are_inside_and_nothing_is_loaded() -> None:
    examples = [example(overlap) for overlap in range(60)]
    text = html_report("t", {}, examples)
    page = Page(text)
    pictures = page.all("img")
    assert len(pictures) == 3 * PER_SECTION
    for attributes in pictures:
        kind, data = (attributes["src"] or "").split(",")
        assert kind == "data:image/jpeg;base64"
        decoded = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
        assert decoded.shape == (24, 32, 3)
    assert len({attributes["src"] for attributes in pictures}) == 3 * PER_SECTION, "shown twice"
    assert not page.all("script") and not page.all("link")
    assert not re.search(r"https?:|url\(|@import", text)


def test_the_worst_come_first_and_the_best_last() -> None:
    examples = [example(overlap) for overlap in np.random.default_rng(1).permutation(60).tolist()]
    page = Page(html_report("t", {}, examples))
    shown = [float(text.removeprefix("IoU ")) for text in page.text if re.fullmatch(r"IoU [\d.]+", text)]
    assert shown[:PER_SECTION] == [k / 100 for k in range(PER_SECTION)]
    assert shown[-PER_SECTION:] == [(59 - k) / 100 for k in range(PER_SECTION)]
    assert html_report("t", {}, examples) == html_report("t", {}, examples)


def test_few_answers_are_all_shown() -> None:
    page = Page(html_report("t", {}, [example(overlap) for overlap in (80, 20)]))
    assert len(page.all("img")) == 2 and "All answers" in page.text


def test_whatever_people_type_stays_text() -> None:
    typed = '"><script>alert(1)</script> & <b>'
    asked = example(50, text=typed, right_object=False, well_formed=False)
    page = Page(html_report(typed, {typed: typed}, [asked]))
    assert not page.all("script")
    assert page.all("img")[0]["alt"] == f"answer to: {typed}"
    assert typed in page.text and "malformed" in page.text and "not what was asked for" in page.text


def test_no_answers_make_no_report() -> None:
    with pytest.raises(ValueError, match="nothing to summarise"):
        html_report("t", {}, [])
