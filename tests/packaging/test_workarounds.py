"""Each workaround says what it is for and when it may go, and names a test that fails without it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "lens_ros" / "ros" / "workarounds"
FILES = [path for path in sorted(FOLDER.glob("*.py")) if path.name != "__init__.py"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_workaround_has_a_head(path: Path) -> None:
    head = ast.get_docstring(ast.parse(path.read_text())) or ""
    said = re.findall(r"^(Symptom|Upstream|Versions|Test|May go): (.+)$", head, re.MULTILINE)
    assert [name for name, _ in dict(said).items()] == ["Symptom", "Upstream", "Versions", "Test", "May go"]
    for name, text in said:
        if name == "Test":
            file, _, test = text.partition("::")
            assert f"def {test}(" in (ROOT / file).read_text(), text


def test_the_story_links_each_of_them() -> None:
    story = (ROOT / "docs" / "internals" / "middleware.md").read_text()
    assert [path.name for path in FILES if path.name not in story] == []
