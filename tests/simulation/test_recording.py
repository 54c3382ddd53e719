import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from lens_ros.recordings import Recording
from lens_ros.simulation import catalog, recording
from lens_ros.simulation.recording import camera_at, compressed_depth, record
from lens_ros.simulation.renderer import TabletopSimulator

SEED = 20006
DEMO = Path(__file__).parents[2] / "demo"


def messages_of(bag: Path) -> dict[str, list]:
    """Return topic -> deserialized messages, in order of time."""
    found: dict[str, list] = {}
    with Recording(bag) as opened:
        for message in opened.messages(opened.topics):
            found.setdefault(message.topic, []).append(message.content)
    return found


def stamps(messages: list) -> list[int]:
    return [message.header.stamp.sec * 10**9 + message.header.stamp.nanosec for message in messages]


@pytest.fixture(scope="module")
def bag(simulator: TabletopSimulator, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Record half a second of the demo; `simulator` is requested only to skip without OpenGL."""
    out = tmp_path_factory.mktemp("demo") / "tabletop"
    record(out, SEED, duration=0.5)
    return out


def test_topics_types_and_stamps(bag: Path) -> None:
    found = messages_of(bag)
    color, info, depth = (
        found[topic] for topic in (recording.COLOR_TOPIC, recording.CAMERA_INFO_TOPIC, recording.DEPTH_TOPIC)
    )
    assert (len(color), len(info), len(depth)) == (5, 5, 3)
    assert stamps(color) == stamps(info)
    assert stamps(depth) == stamps(color)[::2]
    assert {message.header.frame_id for message in color + info + depth} == {"camera_color_optical_frame"}
    assert np.diff(stamps(color)).tolist() == [10**8] * 4


def test_images_are_those_of_the_simulator(bag: Path, simulator: TabletopSimulator) -> None:
    found = messages_of(bag)
    layout = recording._arrange(simulator, SEED)
    frame = simulator.render(SEED, 0, layout, camera=camera_at(0), size=recording.IMAGE_SIZE)
    jpeg = cv2.imdecode(found[recording.COLOR_TOPIC][0].data, cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(jpeg.astype(int) - frame.rgb).mean() < 4
    content = found[recording.DEPTH_TOPIC][0]
    depth = cv2.imdecode(content.data[12:], cv2.IMREAD_UNCHANGED)
    assert content.format == "16UC1; compressedDepth png" and depth.dtype == np.uint16
    assert np.abs(depth / 1000 - frame.depth).max() < 0.00051
    matrix = found[recording.CAMERA_INFO_TOPIC][0].k.reshape(3, 3)
    assert np.allclose(matrix, frame.intrinsics)


def test_the_same_seed_gives_the_same_bytes(bag: Path, tmp_path: Path) -> None:
    again = tmp_path / "tabletop"
    record(again, SEED, duration=0.5)
    assert [path.name for path in sorted(bag.iterdir())] == ["metadata.yaml", "tabletop.mcap"]
    for path in bag.iterdir():
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name


def test_camera_moves_smoothly_and_starts_at_rest() -> None:
    eyes = np.array([camera_at(t).pose[:3, 3] for t in np.linspace(0, 1, 241)])
    steps = np.linalg.norm(np.diff(eyes, axis=0), axis=1)
    assert steps[0] < 0.0006 and steps[-1] < 0.0006
    assert steps.max() < 0.01
    assert np.abs(np.diff(steps)).max() < 0.0005


def test_depth_without_measurement_is_zero() -> None:
    content = compressed_depth(np.array([[1.2344, 100.0]], np.float32))
    assert cv2.imdecode(content[12:], cv2.IMREAD_UNCHANGED).tolist() == [[1234, 0]]


def test_the_demo_shows_only_what_training_may_show() -> None:
    assert not {(category, color) for category, color, _ in recording.TABLE} & catalog.HELD_OUT_PAIRS
    assert all(color in catalog.natural_colors(category) for category, color, _ in recording.TABLE)


def test_the_recorded_demo_is_whole() -> None:
    found = messages_of(DEMO / "tabletop")
    assert len(found[recording.COLOR_TOPIC]) == len(found[recording.CAMERA_INFO_TOPIC]) == 240
    assert len(found[recording.DEPTH_TOPIC]) == 120
    scene = json.loads((DEMO / "scene.json").read_text())
    assert [(item["category"], item["color"]) for item in scene["objects"]] == [
        (category, color) for category, color, _ in recording.TABLE
    ]
