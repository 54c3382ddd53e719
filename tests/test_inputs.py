"""Pictures of every kind are read as people see them, or refused with one message."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from lens_ros.cli import main
from lens_ros.inputs import (
    DeviceError,
    ImageError,
    InstructionError,
    PathError,
    as_rgb,
    check_device,
    check_instruction,
    expand_path,
    read_picture,
    writable_folder,
)
from lens_ros.lens import Lens

ORIENTATION = 0x0112
# How a picture must be stored so that a viewer, following the orientation, shows it upright.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}
per_example = settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    """Return a smooth picture ``(40, 64, 3)`` uint8 that differs at each corner."""
    x, y = np.meshgrid(np.linspace(0, 255, 64), np.linspace(0, 255, 40))
    return np.stack([x, y, 255 - (x + y) / 2], axis=2).astype(np.uint8)


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_a_photograph_is_upright(scene: np.ndarray, tmp_path: Path, suffix: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = tmp_path / f"a.{suffix}"
    stored = np.ascontiguousarray(STORED[orientation](scene))
    Image.fromarray(stored).save(path, exif=exif, quality=98)
    for given_as in (path, str(path), Image.open(path)):
        rgb = as_rgb(given_as)
        assert rgb.shape == scene.shape
        assert np.abs(rgb.astype(int) - scene).mean() < 3


@pytest.mark.parametrize("orientation", [0, 9, 255])
def test_an_impossible_orientation_is_ignored(scene: np.ndarray, tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(scene).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(as_rgb(tmp_path / "a.png"), scene)


@per_example
@given(data=st.binary(max_size=60))
def test_damaged_exif_data_do_not_spoil_a_picture(scene: np.ndarray, data: bytes) -> None:
    file = io.BytesIO()
    Image.fromarray(scene).save(file, "PNG", exif=b"Exif\x00\x00MM\x00*" + data)
    assert sorted(as_rgb(Image.open(io.BytesIO(file.getvalue()))).shape) == [3, 40, 64]


@per_example
@given(
    gray=arrays(np.uint8, (20, 24)),
    bits=st.sampled_from([8, 10, 12, 14, 16]),
    mode=st.sampled_from(["I;16", "I;16B", "I"]),
    file=st.booleans(),
)
def test_gray_keeps_its_tones(tmp_path: Path, gray: np.ndarray, bits: int, mode: str, file: bool) -> None:
    gray[0, 0] = 255  # somewhere it is white, which tells the bits
    values = gray.astype(np.uint16) << (bits - 8)
    dtype = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}[mode]
    picture: Image.Image | Path = Image.frombuffer(
        mode, (24, 20), values.astype(dtype).tobytes(), "raw", mode, 0, 1
    )
    if file:
        picture.save(tmp_path / "a.tif")
        picture = tmp_path / "a.tif"
    np.testing.assert_array_equal(as_rgb(picture), np.repeat(gray[..., None], 3, axis=2))


@pytest.mark.parametrize("brightest", [255, 100, 3])
def test_8_bits_spread_over_16_are_not_brightened(tmp_path: Path, brightest: int) -> None:
    gray = np.linspace(0, brightest, 24 * 20).astype(np.uint16).reshape(20, 24)
    Image.fromarray(gray * 257).save(tmp_path / "a.png")
    np.testing.assert_array_equal(as_rgb(tmp_path / "a.png")[..., 0], gray)


@pytest.mark.parametrize("scale", [1.0, 1 / 255])
def test_floats_are_shares_or_levels(tmp_path: Path, scale: float) -> None:
    gray = np.arange(480).reshape(20, 24) % 256
    values = (gray * scale).astype(np.float32)
    values[0, 1], values[0, 2] = np.nan, -np.inf
    Image.fromarray(values).save(tmp_path / "a.tif")
    gray[0, 1:3] = 0
    np.testing.assert_array_equal(as_rgb(tmp_path / "a.tif")[..., 0], gray)


@per_example
@given(
    colors=arrays(np.uint8, (16, 16, 3)),
    alpha=arrays(np.uint8, (16, 16)),
    mode=st.sampled_from(["RGBA", "LA", "RGBa", "La"]),
)
def test_what_is_transparent_shows_white(colors: np.ndarray, alpha: np.ndarray, mode: str) -> None:
    picture = Image.fromarray(np.dstack([colors, alpha]), "RGBA")
    if mode[0] == "L":
        picture = picture.convert("LA")
        colors = np.asarray(picture.convert("L"))[..., None]
    rgb = as_rgb(picture.convert(mode))
    share = alpha[..., None] / 255
    expected = colors * share + 255 * (1 - share)
    np.testing.assert_allclose(rgb, np.broadcast_to(expected, rgb.shape), atol=2)
    assert (rgb[alpha == 0] == 255).all()


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_a_palette_with_a_transparent_color(tmp_path: Path, suffix: str) -> None:
    picture = Image.new("P", (20, 20), 1)
    picture.putpalette([0, 0, 0, 200, 30, 40])
    picture.paste(0, (0, 0, 10, 20))
    picture.save(tmp_path / f"a.{suffix}", transparency=0)
    rgb = as_rgb(tmp_path / f"a.{suffix}")
    assert (rgb[:, :10] == 255).all() and (rgb[:, 10:] == [200, 30, 40]).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "RGB", "HSV", "LAB"])
def test_other_modes_keep_their_colors(scene: np.ndarray, mode: str) -> None:
    plain = Image.fromarray(scene)
    picture = plain.convert("LAB") if mode == "LAB" else plain.convert(mode)
    rgb = as_rgb(picture)
    assert rgb.dtype == np.uint8 and rgb.shape == scene.shape
    if mode in ("CMYK", "YCbCr", "RGB", "HSV"):
        assert np.abs(rgb.astype(int) - scene).mean() < 4


def test_a_cmyk_photograph(scene: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(scene).convert("CMYK").save(tmp_path / "a.jpg", quality=98)
    assert np.abs(as_rgb(tmp_path / "a.jpg").astype(int) - scene).mean() < 6


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_the_first_frame_counts(tmp_path: Path, suffix: str) -> None:
    first, *more = (Image.new("RGB", (20, 20), color) for color in ("red", "lime", "blue"))
    first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=more)
    rgb = as_rgb(tmp_path / f"a.{suffix}").astype(int)
    assert np.abs(rgb - [255, 0, 0]).max() < 12


def enormous(width: int, height: int) -> bytes:
    """Return a PNG that claims a size, without the pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return len(data).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([1, 0, 0, 0, 0])
    pixels = chunk(b"IDAT", zlib.compress(b""))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(14000, 14000), (2**31 - 1, 2), (60000, 60000)])
def test_a_picture_beyond_pillows_limit_is_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    (tmp_path / "a.png").write_bytes(enormous(*size))
    with pytest.raises(ImageError, match=r"a\.png has too many pixels"):
        as_rgb(tmp_path / "a.png")


def test_a_large_picture_is_read_without_a_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    Image.new("1", (16000, 5700), 1).save(tmp_path / "a.png")
    assert as_rgb(tmp_path / "a.png")[0, 0].tolist() == [255] * 3
    assert not recwarn.list


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), format=st.sampled_from(["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM"]))
def test_damaged_files_are_read_or_refused(
    scene: np.ndarray, tmp_path: Path, data: st.DataObject, format: str
) -> None:
    file = io.BytesIO()
    Image.fromarray(scene).save(file, format)
    whole = bytearray(file.getvalue())
    if data.draw(st.booleans()):
        del whole[data.draw(st.integers(0, len(whole) - 1)) :]
    else:
        for _ in range(data.draw(st.integers(1, 8))):
            whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "a").write_bytes(whole)
    try:
        rgb = as_rgb(tmp_path / "a")
    except ImageError as error:
        assert "\n" not in str(error)
    else:
        assert rgb.dtype == np.uint8 and rgb.shape[2] == 3


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp"])
def test_a_truncated_file_is_refused(scene: np.ndarray, tmp_path: Path, suffix: str, share: float) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(scene).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ImageError, match=rf"a\.{suffix} is not a readable picture"):
        as_rgb(path)


def test_a_folder_is_no_picture(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="not a readable picture"):
        read_picture(tmp_path)


@given(
    before=st.text(max_size=20),
    lone=st.integers(0xD800, 0xDFFF).map(chr),
    after=st.text(max_size=20),
)
def test_text_that_is_not_utf8_is_refused(before: str, lone: str, after: str) -> None:
    with pytest.raises(InstructionError, match="not UTF-8 at character") as caught:
        check_instruction(f"the {before}{lone}{after} bottle")
    str(caught.value).encode()


NO_DEVICE = ["gpu", "cuda:99", "meta", "", "cpu:7", "cuda:-1", "cuda:x", "CPU ", "m\udcffps", "nonsense:0"]
if not torch.cuda.is_available():
    NO_DEVICE += ["cuda", "cuda:0", "cuda:7"]


@pytest.mark.parametrize("name", NO_DEVICE)
def test_a_device_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(DeviceError, match="is not available here; expected one of cpu") as caught:
        check_device(name)
    assert "\n" not in str(caught.value)
    with pytest.raises(DeviceError):
        Lens.from_pretrained("lens-nano", device=name)


@pytest.mark.parametrize("name", ["cpu", "cpu:0"])
def test_the_cpu_is_always_there(name: str) -> None:
    assert check_device(name).type == "cpu"


@pytest.mark.parametrize(
    "command",
    [["segment", "PICTURE", "the mug"], ["quantize", "lens-nano"], ["doctor"]],
    ids=lambda command: command[0],
)
def test_commands_say_it_in_one_line(
    scene: np.ndarray, tmp_path: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    Image.fromarray(scene).save(tmp_path / "a.png")
    arguments = [str(tmp_path / "a.png") if word == "PICTURE" else word for word in command]
    assert main([*arguments, "--device", "gpu"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_command_with_text_and_a_file_name_that_are_not_utf8(scene: np.ndarray, tmp_path: Path) -> None:
    picture = os.fsencode(tmp_path) + b"/gr\xfcn.png"
    Image.fromarray(scene).save(os.fsdecode(picture))
    lens = [sys.executable, "-m", "lens_ros.cli", "segment"]
    run = subprocess.run([*lens, picture, b"the gr\xfcn bottle"], capture_output=True, text=True)
    assert run.returncode == 2 and run.stderr.count("\n") == 1 and "not UTF-8" in run.stderr
    run = subprocess.run([*lens, picture, "the mug", "--out", tmp_path], capture_output=True, text=True)
    assert run.returncode in (0, 1) and "Traceback" not in run.stderr
    assert (tmp_path / os.fsdecode(b"gr\xfcn_mask.png")).exists()


# Paths -----------------------------------------------------------------------------------------------------


def test_paths_are_expanded_or_refused_with_the_name_of_their_setting(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expand_path("~/models", "parameter model") == tmp_path / "models"
    assert writable_folder("~/new/engines", "x") == tmp_path / "new" / "engines"
    with pytest.raises(
        PathError, match="^parameter model: '~nobody_here/a' begins with ~nobody_here, and there"
    ):
        expand_path("~nobody_here/a", "parameter model")
    (tmp_path / "file").write_text("")
    with pytest.raises(
        PathError, match=f"^variable X: .* cannot be a folder, because {tmp_path / 'file'} is a file"
    ):
        writable_folder(tmp_path / "file" / "a" / "b", "variable X")


def test_a_command_names_the_variable_whose_folder_cannot_be(tmp_path, monkeypatch, capsys):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    monkeypatch.setenv("LENS_ENGINE_CACHE", "~nobody_here/engines")
    assert main(["segment", str(tmp_path / "a.png"), "the mug"]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith(
        "lens segment: environment variable LENS_ENGINE_CACHE: '~nobody_here/engines' begins"
    )
    assert "\n" not in said
