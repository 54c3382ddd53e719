import os
import subprocess
import sys

import numpy as np
import pytest

from lens_ros.simulation.renderer import TabletopSimulator
from lens_ros.simulation.scene import Camera, Frame, mirror

SEED = 11
INDICES = range(6)


@pytest.fixture(scope="module")
def frames(simulator: TabletopSimulator) -> list[Frame]:
    return [simulator.frame(SEED, index) for index in INDICES]


def world_points(frame: Frame) -> np.ndarray:
    """Return world coordinates (H, W, 3) of every pixel, from depth, intrinsics and pose."""
    rows, columns = np.indices(frame.depth.shape)
    pixels = np.stack([columns + 0.5, rows + 0.5, np.ones_like(rows)], axis=-1)
    rays = pixels @ np.linalg.inv(frame.intrinsics).T
    return rays * frame.depth[..., None] @ frame.camera_pose[:3, :3].T + frame.camera_pose[:3, 3]


def test_shapes_and_types(frames: list[Frame]) -> None:
    for frame in frames:
        height, width = frame.depth.shape
        assert (width, height) in {(320, 240), (256, 256), (384, 216)}
        assert frame.rgb.shape == (height, width, 3) and frame.rgb.dtype == np.uint8
        assert frame.instances.shape == (height, width) and frame.instances.dtype == np.uint8
        assert frame.depth.dtype == np.float32 and 0.2 < frame.depth.min() and frame.depth.max() <= 9.01
        assert frame.rgb.std() > 5


def test_frames_depend_on_seed_and_index_alone(
    simulator: TabletopSimulator, second_simulator: TabletopSimulator, frames: list[Frame]
) -> None:
    second_simulator.frame(SEED, 5)  # another history
    again = second_simulator.frame(SEED, 2)
    assert np.array_equal(again.rgb, frames[2].rgb)
    assert np.array_equal(again.instances, frames[2].instances)
    assert again.objects == frames[2].objects
    assert not np.array_equal(simulator.frame(SEED, 3).rgb, frames[2].rgb)


def test_objects_describe_the_instance_map(frames: list[Frame]) -> None:
    for frame in frames:
        assert [item.index for item in frame.objects] == list(range(1, len(frame.objects) + 1))
        assert set(np.unique(frame.instances)) <= set(range(len(frame.objects) + 1))
        for item in frame.objects:
            rows, columns = np.nonzero(frame.instances == item.index)
            assert item.area == len(rows)
            if item.area:
                assert item.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
                assert 0 < item.visible_fraction <= 1


def test_table_pixels_lie_on_the_table(frames: list[Frame]) -> None:
    for frame in frames:
        points = world_points(frame)
        on_table = (np.abs(points[..., 0]) < 0.54) & (np.abs(points[..., 1]) < 0.44) & (frame.instances == 0)
        assert on_table.mean() > 0.1
        assert np.abs(points[on_table][:, 2]).max() < 0.002


def test_object_pixels_lie_on_the_objects(frames: list[Frame]) -> None:
    for frame in frames:
        points = world_points(frame)
        for item in frame.objects:
            surface = points[frame.instances == item.index]
            reach = np.linalg.norm(surface[:, :2] - item.position[:2], axis=1)
            assert (reach < item.extent * 0.75).all()
            assert (surface[:, 2] > -0.002).all()


def test_positions_project_into_the_boxes(frames: list[Frame]) -> None:
    for frame in frames:
        world_to_camera = np.linalg.inv(frame.camera_pose)
        for item in frame.objects:
            if item.visible_fraction < 0.97:
                continue
            x, y, z = frame.intrinsics @ (world_to_camera @ [*item.position, 1])[:3]
            x1, y1, x2, y2 = item.box
            assert x1 - 2 <= x / z <= x2 + 2 and y1 - 2 <= y / z <= y2 + 2
            offset = np.array(item.position) - frame.camera_pose[:3, 3]
            assert item.lateral == pytest.approx(offset @ frame.camera_pose[:3, 0])
            assert item.forward == pytest.approx(np.sqrt(max(offset[:2] @ offset[:2] - item.lateral**2, 0)))


def test_visible_fraction_tells_how_much_is_hidden(simulator: TabletopSimulator) -> None:
    layout = simulator.layout(SEED, 0, count=(1, 1))
    alone = simulator.render(SEED, 0, layout).objects[0]
    near = simulator.render(SEED, 0, layout, camera=shifted(layout.camera, alone.box, 0.5)).objects[0]
    assert alone.visible_fraction > 0.9
    assert near.visible_fraction < alone.visible_fraction - 0.2


def shifted(camera: Camera, box: tuple[int, int, int, int], share: float) -> Camera:
    """Pan the camera until about `share` of the box has left the image to the right."""
    pose = camera.pose.copy()
    degrees = camera.fovy / 2 + 2
    angle = np.radians(-degrees)
    turn = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    pose[:3, :3] = pose[:3, :3] @ turn
    return Camera(pose, camera.fovy)


def test_mirrored_objects_describe_the_flipped_image(frames: list[Frame]) -> None:
    frame = frames[0]
    flipped = frame.instances[:, ::-1]
    for item in mirror(frame.objects, flipped.shape[1]):
        if item.area:
            columns = np.flatnonzero((flipped == item.index).any(0))
            assert (item.box[0], item.box[2]) == (columns[0], columns[-1] + 1)


def test_the_same_scene_from_another_camera(simulator: TabletopSimulator, frames: list[Frame]) -> None:
    camera = Camera.looking_at((0.3, -0.7, 0.6), (0, 0, 0), 42)
    frame = simulator.frame(SEED, 0, camera=camera, size=(640, 480))
    assert frame.rgb.shape == (480, 640, 3)
    assert [item.position for item in frame.objects] == [item.position for item in frames[0].objects]
    again = simulator.frame(SEED, 0)
    assert np.array_equal(again.rgb, frames[0].rgb)


def test_depth_can_be_left_out(simulator: TabletopSimulator, frames: list[Frame]) -> None:
    frame = simulator.frame(SEED, 1, depth=False)
    assert frame.depth.size == 0
    assert np.array_equal(frame.rgb, frames[1].rgb)


def test_unseen_textures_are_under_the_same_objects(opengl: None, frames: list[Frame]) -> None:
    with TabletopSimulator(unseen_textures=True) as other:
        frame = other.frame(SEED, 1)
    assert frame.objects == frames[1].objects
    assert np.array_equal(frame.instances, frames[1].instances)
    changed = np.abs(frame.rgb.astype(int) - frames[1].rgb).max(-1) > 5
    assert changed[frame.instances == 0].mean() > 0.5
    assert changed[frame.instances > 0].mean() < 0.1


def test_a_vertical_camera_is_refused() -> None:
    with pytest.raises(ValueError, match="straight"):
        Camera.looking_at((0, 0, 1), (0, 0, 0), 45)


def test_misuse_is_explained(second_simulator: TabletopSimulator) -> None:
    with pytest.raises(ValueError, match="0 or more"):
        second_simulator.frame(1, -1)
    second_simulator.close()
    with pytest.raises(RuntimeError, match="closed"):
        second_simulator.frame(1, 0)


def test_missing_opengl_gives_one_clear_line() -> None:
    pytest.importorskip("mujoco")
    program = (
        "from lens_ros.simulation.renderer import SimulatorUnavailable, TabletopSimulator\n"
        "try:\n    TabletopSimulator()\n"
        "except SimulatorUnavailable as error:\n    print(error)\n"
    )
    environment = {**os.environ, "MUJOCO_GL": "no-such-backend"}
    environment.pop("PYOPENGL_PLATFORM", None)
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=60
    )
    message = run.stdout.strip()
    assert run.returncode == 0, run.stderr
    assert len(message.splitlines()) == 1
    assert "libegl1" in message and "MUJOCO_GL" in message
