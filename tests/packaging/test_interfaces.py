"""The messages are documented field by field, generated, and transmitted unchanged."""

from __future__ import annotations

import array
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
INTERFACES = sorted(path for kind in ("msg", "srv", "action") for path in (ROOT / kind).glob(f"*.{kind}"))
FIELD = re.compile(
    r"^(?P<type>[\w/]+(\[\d*\])?)\s+(?P<name>\w+)\s*(=\s*(?P<value>\S+))?\s*(?P<comment>#.*)?$"
)
# What a number means is said by its unit or range.
NUMBER = re.compile(r"^(float|u?int)(8|16|32|64)(\[\])?$")
MEANING = re.compile(
    r"metre|millisecond|pixel|0\.\.1|tokens|\bids?\b|instruction|request|bytes|mask|operation|replaces|active|ends?\b|Code.msg"
)


def fields(path: Path) -> list[re.Match[str]]:
    lines = (line.strip() for line in path.read_text().splitlines())
    matches = []
    for line in lines:
        if line and not line.startswith("#") and line != "---":
            match = FIELD.match(line)
            assert match, f"{path.name}: not a field: {line}"
            matches.append(match)
    return matches


def test_all_interfaces_are_there() -> None:
    assert [path.name for path in INTERFACES] == [
        "SegmentInstruction.action",
        "Code.msg",
        "Instance.msg",
        "Mask.msg",
        "Reasoning.msg",
        "Segmentation.msg",
        "Segment.srv",
        "SetInstruction.srv",
    ]


@pytest.mark.parametrize("path", INTERFACES, ids=lambda path: path.stem)
def test_every_field_is_explained(path: Path) -> None:
    assert path.read_text().startswith("# "), "what it is for comes first"
    for field in fields(path):
        comment = (field["comment"] or "").lstrip("# ")
        assert len(comment) >= 10, f"{path.name}: {field['name']} needs a comment"
        if NUMBER.match(field["type"]) and field["value"] is None:
            assert MEANING.search(comment), f"{path.name}: {field['name']} needs a unit or a range"


@pytest.mark.parametrize("path", INTERFACES, ids=lambda path: path.stem)
def test_built_from_these_files(path: Path) -> None:
    pytest.importorskip("rclpy")
    module = pytest.importorskip(f"lens_ros.{path.suffix[1:]}")
    interface = getattr(module, path.stem)
    parts = {".msg": [interface], ".srv": [], ".action": []}[path.suffix]
    if path.suffix == ".srv":
        parts = [interface.Request, interface.Response]
    if path.suffix == ".action":
        parts = [interface.Goal, interface.Result, interface.Feedback]
    built = [name for part in parts for name in part.get_fields_and_field_types()]
    written = [field["name"] for field in fields(path) if field["value"] is None]
    assert built == written, "run `make setup`: the interfaces were changed after they were built"


def test_segmentation_survives_the_wire() -> None:
    serialization = pytest.importorskip("rclpy.serialization")
    from geometry_msgs.msg import Point, Pose, Quaternion, Vector3
    from sensor_msgs.msg import RegionOfInterest
    from std_msgs.msg import Header

    from lens_ros.msg import Instance, Mask, Segmentation

    instance = Instance(
        id=7,
        label="blue mug",
        score=0.75,
        consistency=0.5,
        rejected="the answer's box and the mask disagree",
        box=RegionOfInterest(x_offset=10, y_offset=20, width=30, height=40),
        mask=Mask(height=2, width=3, encoding=Mask.RLE, data=array.array("B", [1, 0, 0, 0, 5, 0, 0, 0])),
        has_pose=True,
        pose=Pose(position=Point(x=0.1, y=-0.2, z=0.9), orientation=Quaternion(w=1.0)),
        size=Vector3(x=0.08, y=0.08, z=0.1),
        depth_median=0.875,
    )
    sent = Segmentation(
        header=Header(frame_id="camera_optical_frame"),
        target_id=2,
        instruction="the blue mug, s'il vous plaît",
        instances=[instance, Instance(id=8)],
        reasoning="the mug ( 136 66 ) is blue",
        answer="<answer>…</answer>",
        reason="",
        pose_frame_id="camera_optical_frame",
        score_threshold=0.25,
        tokens=41,
        preprocess_ms=1.5,
        reason_ms=640.0,
        decode_ms=32.0,
        model="lens-nano",
    )
    sent.header.stamp.sec, sent.header.stamp.nanosec = 12, 345
    sent.reasoned_stamp = sent.header.stamp

    received = serialization.deserialize_message(serialization.serialize_message(sent), Segmentation)

    assert received == sent
    assert bytes(received.instances[0].mask.data) == bytes(instance.mask.data)


def test_wrong_types_are_refused_in_tests() -> None:
    pytest.importorskip("rclpy")
    from lens_ros.msg import Reasoning

    with pytest.raises(AssertionError, match="tokens"):
        Reasoning(tokens=-1)
