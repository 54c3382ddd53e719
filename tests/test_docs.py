"""The documentation: links, commands, the generated reference, and the site."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "models" / "lens-nano" / "README.md",
    ROOT / "demo" / "README.md", *sorted((ROOT / "docs").rglob("*.md")),
]  # fmt: skip
COMMANDS: dict[str, str] = yaml.safe_load((ROOT / "tests" / "documented_commands.yaml").read_text())
NOT_RUN = {
    "needs a GPU", "needs the network", "needs a quiet machine", "needs a system's ROS 2",
    "needs the ROS 2 command line", "needs a container runtime", "takes hours", "runs the tests",
    "runs the tests of tests/faults and writes their table", "copies a folder", "CI begins with it",
}  # fmt: skip


def commands() -> Iterator[tuple[Path, str]]:
    """Yield each command of a `sh` block with its page, without its comment."""
    for page in PAGES:
        for block in re.findall(
            r"^ *```(?:sh|bash)\n(.*?)^ *```", page.read_text(), re.MULTILINE | re.DOTALL
        ):
            for line in block.replace("\\\n", " ").splitlines():
                command = " ".join(re.sub(r"\s#.*$", "", line).split())
                if command:
                    yield page, command


def entry(command: str) -> str:
    """Return the longest beginning in the table that fits a command, or an empty string."""
    return max((known for known in COMMANDS if (command + " ").startswith(known + " ")), key=len, default="")


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and MkDocs make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    return set(plain)


def test_every_link_leads_somewhere() -> None:
    dead = []
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", text)):
            if target.startswith(("http://", "https://", "mailto:")):
                continue
            path, _, anchor = target.partition("#")
            other = (page.parent / path).resolve() if path else page
            if not other.exists() or (anchor and other.suffix == ".md" and anchor not in anchors(other)):
                dead.append(f"{page.relative_to(ROOT)}: {target}")
    assert dead == []


def test_every_command_is_run_by_a_test_or_marked() -> None:
    unknown = [f"{page.relative_to(ROOT)}: {each}" for page, each in commands() if not entry(each)]
    assert unknown == [], "add these to tests/documented_commands.yaml"
    stale = COMMANDS.keys() - {entry(each) for _, each in commands()}
    assert stale == set(), "no page has these commands; remove them from tests/documented_commands.yaml"


@pytest.mark.parametrize("command", COMMANDS)
def test_the_table_of_commands_is_true(command: str) -> None:
    claim = COMMANDS[command]
    if claim.startswith("not run, "):
        assert claim.removeprefix("not run, ") in NOT_RUN
    else:
        file, _, test = claim.partition("::")
        assert re.search(rf"^(async )?def {test}\(", (ROOT / file).read_text(), re.MULTILINE), claim


def test_documented_modules_files_and_goals_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for page, command in commands():
        if module := re.match(r"python -m ([\w.]+)", command):
            assert importlib.util.find_spec(module[1]), f"{page}: {command}"
        elif file := re.match(r"python (\S+\.py)", command):
            assert (ROOT / file[1]).exists(), f"{page}: {command}"
        elif goal := re.match(r"(?:\w+=\w+ )?make ([\w-]+)", command):
            assert re.search(rf"^{goal[1]}:", makefile, re.MULTILINE), f"{page}: {command}"


def test_documented_options_of_lens_exist() -> None:
    for page, command in commands():
        if found := re.match(r"(?:ros2 run lens_ros )?lens ([\w-]+) ?(.*)", command):
            parser = argparse.ArgumentParser(prog=f"{page.name}: lens {found[1]}")
            module = importlib.import_module(f"lens_ros.commands.{found[1].replace('-', '_')}")
            module.add_parser(parser)
            parser.parse_args(shlex.split(found[2]))  # exits if an option is unknown


def test_a_dead_link_is_an_error(tmp_path: Path) -> None:
    """The options of the build do make a warning fail."""
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    index = tmp_path / "docs" / "index.md"
    index.write_text(index.read_text() + "\n[outside](../config/perception.yaml)\n")
    assert built(tmp_path, tmp_path / "site").returncode == 1


def test_the_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_reference_is_up_to_date() -> None:
    """If this fails, run `make docs`."""
    ran = subprocess.run(
        [sys.executable, ROOT / "tools" / "make_reference.py", "--check"], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr


def built(root: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """Build the site of a checkout."""
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", site],
        cwd=root, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True,
    )  # fmt: skip


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    ran = built(ROOT, tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "reference" / "codes.html").exists()
