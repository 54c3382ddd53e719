"""Ask the same things about every picture of a folder, without ROS.

    python examples/segment_folder.py PICTURES "the red bottle" "all the mugs" --out out/folder

For each picture and instruction it writes an overlay, a mask (PNG, 0 or 255) and one line of `answers.jsonl`.
A file that is not a readable picture is named and skipped. The exit status is 0 if every picture was read.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from lens_ros.inputs import ImageError, InstructionError, check_instruction
from lens_ros.lens import Lens
from lens_ros.segmentation import Segmentation
from lens_ros.visualization import overlay


def row_of(picture: Path, answer: Segmentation) -> dict:
    """Return what `answers.jsonl` says of one answer; boxes are x1, y1, x2, y2 in pixels."""
    objects = [
        {
            "label": found.label,
            "box": list(found.box),
            "score": round(found.score, 4),
            "rejected": found.rejected,
        }
        for found in answer.instances
    ]
    return {
        "picture": picture.name,
        "instruction": answer.instruction,
        "reason": answer.reason,
        "reasoning": answer.reasoning,
        "objects": objects,
    }


def main() -> int:
    """Segment each picture and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("instructions", nargs="+", metavar="INSTRUCTION")
    parser.add_argument("--model", default="lens-nano", help="name or folder")
    parser.add_argument("--out", type=Path, default=Path("out/folder"))
    options = parser.parse_args()
    try:
        texts = [check_instruction(text) for text in options.instructions]
    except InstructionError as error:
        parser.error(str(error))
    if not options.folder.is_dir():
        parser.error(f"{options.folder} is no folder")
    pictures = sorted(path for path in options.folder.iterdir() if path.is_file())
    lens = Lens.from_pretrained(options.model)
    options.out.mkdir(parents=True, exist_ok=True)
    unread = 0
    with (options.out / "answers.jsonl").open("w") as lines:
        for picture in tqdm(pictures, unit="picture", disable=None):
            try:
                seen = lens.look(picture)
            except ImageError as error:
                tqdm.write(f"skipped: {error}", file=sys.stderr)
                unread += 1
                continue
            # One batch per picture: it is encoded once, and the answers are generated together.
            for number, answer in enumerate(lens.segment_all(seen, texts)):
                stem = options.out / f"{picture.name}-{number}"
                Image.fromarray(overlay(seen.rgb, answer)).save(f"{stem}-overlay.jpg")
                Image.fromarray(answer.mask.astype(np.uint8) * 255).save(f"{stem}-mask.png")
                print(json.dumps(row_of(picture, answer)), file=lines)
    print(f"{len(pictures) - unread} of {len(pictures)} pictures; {options.out / 'answers.jsonl'}")
    return 0 if pictures and not unread else 1


if __name__ == "__main__":
    sys.exit(main())
