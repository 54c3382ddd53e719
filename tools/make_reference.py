"""Write `docs/reference/` from the sources: messages, codes, parameters, `lens`, the Python API.

    python tools/make_reference.py           # rewrites the pages
    python tools/make_reference.py --check   # names the pages that are out of date; exit status 1

Needs the environment of `make setup`. The pages are committed, so that they can be read in the repository.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import inspect
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "reference"
GENERATED = "<!-- Written by tools/make_reference.py. Do not edit. -->\n\n"
# The modules whose public names are the Python API, with these names.
API = {
    "lens_ros.lens": ("Lens", "SeenImage", "Cancelled"),
    "lens_ros.segmentation": ("Segmentation",),
    "lens_ros.instances": ("Instance",),
    "lens_ros.codes": ("Code",),
    "lens_ros.geometry.cameras": ("Camera",),
    "lens_ros.geometry.depth_views": ("DepthView",),
    "lens_ros.geometry.objects": ("locate", "Located", "Box"),
    "lens_ros.geometry.gripper": ("Gripper",),
    "lens_ros.geometry.grasps": ("plan_grasps", "GraspPlan", "Grasp", "Clearances"),
    "lens_ros.client": (
        "BlockingLensClient", "LensClient", "Answer", "Found", "Question", "Subscription", "LensError",
        "LensUnavailableError", "LensTimeoutError", "LensRefusedError", "LensInputError",
        "LensCancelledError",
    ),
}  # fmt: skip


def messages() -> str:
    """Return the page of messages, services and actions."""
    text = (
        "# Messages, services and actions\n\nPixel coordinates, units and frames are those of the comments."
    )
    text += " Codes have [their own page](codes.md).\n"
    for folder in ("msg", "srv", "action"):
        for path in sorted((ROOT / folder).glob("*.*")):
            if path.name != "Code.msg":
                text += f"\n## {path.stem}\n\n`lens_ros/{folder}/{path.stem}`. {interface(path, folder)}"
    return text


def interface(path: Path, folder: str) -> str:
    """Return the description and tables of one interface file."""
    parts = re.split(r"^---\n", path.read_text(), flags=re.MULTILINE)
    titles = {"msg": [""], "srv": ["Request", "Response"], "action": ["Goal", "Result", "Feedback"]}[folder]
    lines, text = parts[0].splitlines(), ""
    while lines and lines[0].startswith("#"):
        text += lines.pop(0).lstrip("# ") + "\n"
    parts[0] = "\n".join(lines)
    for title, part in zip(titles, parts, strict=True):
        text += (f"\n**{title}**\n" if title else "") + f"\n{fields(part)}"
    return text


def fields(part: str) -> str:
    """Return the table of the fields and constants of one part of an interface file."""
    rows = ["| type | name | meaning |", "|---|---|---|"]
    for line in part.splitlines():
        declaration, _, comment = line.partition("#")
        if declaration.strip():
            kind, name = declaration.split(maxsplit=1)
            rows.append(f"| `{kind}` | `{name.strip()}` | {cell(comment)} |")
    return "\n".join(rows) + "\n"


def codes() -> str:
    """Return the page of codes, with the sections and comments of `msg/Code.msg`."""
    text = (
        "# Codes\n\n"
        "Every sentence for people (`reason`, `rejected`, `message`) has a code for machines. Compare\n"
        "codes and show sentences: sentences may change between versions, codes are never renumbered.\n"
        "Expect codes that you do not know; treat them as UNSPECIFIED.\n\n"
        "- [`Segmentation`](messages.md#segmentation)`.code` and [`Reasoning`](messages.md#reasoning)\n"
        "  `.code`: why there is no accepted object.\n"
        "- [`Instance`](messages.md#instance)`.rejected_code`: why an object must not be acted upon.\n"
        "- `code` in the responses of the services and in the result of the action: why a request failed.\n"
        "- `LensError.code` and `Answer.code` of the [clients](../guides/client.md): the same.\n\n"
        "In Python: `from lens_ros.codes import Code`. In C++: `lens_ros::msg::Code::LOW_SCORE`.\n"
    )
    for block in (ROOT / "msg" / "Code.msg").read_text().split("\n\n")[1:]:
        rows, title = [], ""
        for line in block.splitlines():
            if line.startswith("#"):
                title = line.lstrip("# ")
                continue
            declaration, _, comment = line.partition("#")
            name, value = declaration.split()[1].split("=")
            rows.append(f"| {value} | `{name}` | {cell(comment)} |")
        heading = f"\n**{title}**\n" if title else ""
        text += f"{heading}\n| code | name | meaning |\n|---|---|---|\n" + "\n".join(rows) + "\n"
    return text


def parameters() -> str:
    """Return the page of the nodes' parameters."""
    from lens_ros.nodes.camera.parameters import CameraParameters
    from lens_ros.nodes.perception.parameters import PerceptionParameters
    from lens_ros.ros.parameters import specifications

    when = {
        "start": "at start only",
        "configure": "while unconfigured",
        "now": "at any time",
    }
    text = (
        "# Parameters\n\n"
        "`config/perception.yaml` and `config/camera.yaml` hold the same as files to copy. The last column\n"
        "says when `ros2 param set` may change a parameter.\n"
    )
    for node, table in (("perception", PerceptionParameters), ("camera", CameraParameters)):
        text += f"\n## {node}\n\n| name | type | default | range or choices | meaning | may change |\n"
        text += "|---|---|---|---|---|---|\n"
        for name, row in specifications(table).items():
            allowed = ", ".join(f"`{choice}`" for choice in row.choices)
            if row.bounds is not None:
                allowed = f"{row.bounds[0]:g} to {row.bounds[1]:g}"
            default = str(row.default).lower() if isinstance(row.default, bool) else repr(row.default)
            text += f"| `{name}` | {type(row.default).__name__} | `{default}` | {allowed} "
            text += f"| {cell(row.description)} | {when[row.when]} |\n"
    return text


def command_line() -> str:
    """Return the page of `lens` and its commands."""
    from lens_ros.cli import COMMANDS

    os.environ["COLUMNS"] = "100"
    text = "# The command `lens`\n\nOn a ROS 2 machine: `ros2 run lens_ros lens ...`.\n\n"
    text += "\n".join(f"- [`lens {name}`](#lens-{name}): {summary}" for name, summary in COMMANDS.items())
    for name in COMMANDS:
        parser = argparse.ArgumentParser(prog=f"lens {name}")
        importlib.import_module(f"lens_ros.commands.{name.replace('-', '_')}").add_parser(parser)
        text += f"\n\n## lens {name}\n\n```text\n{parser.format_help().rstrip()}\n```"
    return text + "\n"


def python_api() -> str:
    """Return the page of the Python API, from signatures and docstrings."""
    text = (
        "# Python API\n\n"
        "The modules below are public. Everything else may change without notice. Only `lens_ros.client`\n"
        "needs ROS.\n"
    )
    for module_name, names in API.items():
        module = importlib.import_module(module_name)
        text += f"\n## {module_name}\n\n{prose(inspect.getdoc(module))}"
        for name in names:
            text += described(name, getattr(module, name))
    return text


def described(name: str, kind: Any) -> str:
    """Return the entry of a public function or class: signature, docstring, and public methods."""
    text = f"\n### {name}\n\n"
    if inspect.isfunction(kind):
        return f"{text}```python\n{signature(name, kind)}\n```\n\n{prose(inspect.getdoc(kind))}"
    if "__init__" in vars(kind) or dataclasses.is_dataclass(kind):
        text += f"```python\n{signature(name, kind.__init__)}\n```\n\n"
    text += prose(kind.__dict__.get("__doc__"))
    for member, raw in vars(kind).items():
        target = raw.__func__ if isinstance(raw, classmethod | staticmethod) else raw
        if member.startswith("_"):
            continue
        if isinstance(target, property):
            text += f"\n**`{name}.{member}`** {prose(inspect.getdoc(target))}"
        elif inspect.isfunction(target):
            text += f"\n#### {name}.{member}\n\n```python\n{signature(member, target)}\n```\n\n"
            text += prose(inspect.getdoc(target))
    return text


def signature(name: str, function: object) -> str:
    """Return a call's signature as source; one parameter per line if it is long."""
    found = inspect.signature(function)  # type: ignore[arg-type]
    parameters = [p for p in found.parameters.values() if p.name not in ("self", "cls")]
    shown = found.replace(parameters=parameters, return_annotation=found.return_annotation)
    # Annotations are strings, because modules import `annotations` from the future.
    text = re.sub(r"(: |-> )'([^']*)'", r"\1\2", f"{name}{shown}").replace(" -> None", "")
    if len(text) <= 100:
        return text
    body, _, result = text[len(name) + 1 :].rpartition(")")
    return f"{name}(\n" + "".join(f"    {each},\n" for each in split_arguments(body)) + f"){result}"


def split_arguments(body: str) -> Iterator[str]:
    """Yield the arguments of a signature, split at the commas outside of brackets."""
    depth, start = 0, 0
    for position, character in enumerate(body):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            yield body[start:position].strip()
            start = position + 1
    if body[start:].strip():
        yield body[start:].strip()


def prose(docstring: str | None) -> str:
    """Return a Google-style docstring as Markdown: sections in bold, entries as lists, roles as code."""
    text = inspect.cleandoc(docstring or "")
    text = re.sub(r":\w+:`~?([^`]+)`", lambda role: f"`{role[1].removeprefix('~').split('.')[-1]}`", text)
    text = text.replace("``", "`")
    lines, section = [], ""
    for line in text.splitlines():
        if heading := re.fullmatch(r"(Args|Attributes|Returns|Raises|Example):", line):
            section = heading[1]
            title = {"Args": "Arguments"}.get(section, section)
            lines += [f"**{title}**", ""] + (["```python"] if section == "Example" else [])
        elif section and line and not line.startswith(" "):
            lines += ["```", ""] if section == "Example" else []
            section = ""
            lines.append(line)
        elif section in ("Args", "Attributes", "Raises") and re.match(r"    \S.*?: ", line):
            names, _, rest = line.strip().partition(": ")
            lines.append(
                "- " + ", ".join(f"`{each}`" for each in names.replace("`", "").split(", ")) + f": {rest}"
            )
        elif section:
            lines.append(line.removeprefix("    ") if section in ("Example", "Returns") else line[2:])
        else:
            lines.append(line)
    if section == "Example":
        lines.append("```")
    return "\n".join(line.rstrip() for line in lines) + "\n"


def cell(text: str) -> str:
    """Return text for a cell of a Markdown table."""
    return text.strip().replace("|", "\\|").replace("<", "&lt;")


def written() -> dict[Path, str]:
    """Return the text of every page of the reference."""
    pages = {
        "messages": messages(),
        "codes": codes(),
        "parameters": parameters(),
        "command_line": command_line(),
        "python_api": python_api(),
    }
    return {PAGES / f"{name}.md": GENERATED + text for name, text in pages.items()}


def main() -> int:
    """Write or check the pages; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    stale = [path for path, text in written().items() if not path.exists() or path.read_text() != text]
    if options.check:
        for path in stale:
            print(
                f"{path.relative_to(ROOT)} is out of date: run python tools/make_reference.py",
                file=sys.stderr,
            )
        return 1 if stale else 0
    PAGES.mkdir(parents=True, exist_ok=True)
    for path, text in written().items():
        path.write_text(text)
    print(f"{len(stale)} pages of docs/reference changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
