"""Messages <-> arrays: every encoding, padding, byte order, and every way in which a message can be wrong."""

from __future__ import annotations

import array
import struct

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

from lens_ros.msg import Mask
from lens_ros.ros import conversions
from lens_ros.ros.conversions import ConversionError

# How the RGB value of a pixel is found among its stored channels.
ORDERS = {
    "rgb8": (0, 1, 2), "bgr8": (2, 1, 0), "rgba8": (0, 1, 2), "bgra8": (2, 1, 0),
    "8UC3": (2, 1, 0), "8UC4": (2, 1, 0), "mono8": (0, 0, 0), "8UC1": (0, 0, 0), "mono16": (0, 0, 0),
    "16UC3": (2, 1, 0), "16UC4": (2, 1, 0),
    "rgb16": (0, 1, 2), "bgr16": (2, 1, 0), "rgba16": (0, 1, 2), "bgra16": (2, 1, 0),
}  # fmt: skip
CHANNELS = {
    name: 4 if "a" in name or name.endswith("UC4") else max(order) + 1 for name, order in ORDERS.items()
}
BAYER = {
    f"bayer_{order.lower()}{bits}": order for order in ("RGGB", "BGGR", "GBRG", "GRBG") for bits in (8, 16)
}


def raw_image(
    pixels: np.ndarray,
    encoding: str,
    *,
    padding: int = 0,
    big_endian: bool = False,
    last_padding: bool = True,
) -> Image:
    """Return an Image message whose rows end in `padding` bytes of garbage."""
    height, width = pixels.shape[:2]
    stored = pixels.astype(pixels.dtype.newbyteorder(">" if big_endian else "<"))
    rows = np.frombuffer(stored.tobytes(), np.uint8).reshape(height, -1)
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=0xAB)
    data = padded.tobytes()
    if padding and not last_padding:
        data = data[:-padding]
    return Image(
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=int(big_endian),
        step=padded.shape[1],
        data=array.array("B", data),
    )


@st.composite
def stored_images(draw):
    encoding = draw(st.sampled_from(sorted(ORDERS)))
    dtype = np.uint16 if "16" in encoding else np.uint8
    shape = (draw(st.integers(1, 9)), draw(st.integers(1, 9)), CHANNELS[encoding])
    return encoding, draw(arrays(dtype, shape))


@settings(deadline=None, max_examples=150)
@given(stored_images(), st.integers(0, 13), st.booleans(), st.booleans())
def test_every_channel_order_padding_and_byte_order(stored, padding, big_endian, last_padding):
    encoding, pixels = stored
    message = raw_image(pixels, encoding, padding=padding, big_endian=big_endian, last_padding=last_padding)
    rgb = conversions.image_to_rgb(message)
    expected = pixels[:, :, ORDERS[encoding]]
    if pixels.dtype == np.uint16:
        bits = max(8, 2 * -(-int(pixels[:, :, :3].max()).bit_length() // 2))
        if int(pixels[:, :, :3].max()) > 255 and (pixels[:, :, :3] % 257 == 0).all():
            bits = 16
        expected = (expected >> (bits - 8)).astype(np.uint8)
    assert rgb.dtype == np.uint8
    np.testing.assert_array_equal(rgb, expected)


@pytest.mark.parametrize("encoding", ["uyvy", "yuv422", "yuyv", "yuv422_yuy2"])
@given(
    luma=arrays(np.uint8, (2, 6), elements=st.integers(16, 235)),
    u=st.integers(64, 192),
    v=st.integers(64, 192),
    padding=st.integers(0, 5),
)
@settings(deadline=None, max_examples=25)
def test_yuv_follows_bt601(encoding, luma, u, v, padding):
    chroma = np.empty_like(luma)
    chroma[:, 0::2], chroma[:, 1::2] = u, v
    pairs = (chroma, luma) if encoding in ("uyvy", "yuv422") else (luma, chroma)
    rgb = conversions.image_to_rgb(raw_image(np.stack(pairs, axis=2), encoding, padding=padding))
    y = 1.164 * (luma.astype(float) - 16)
    expected = np.stack(
        (y + 1.596 * (v - 128), y - 0.813 * (v - 128) - 0.392 * (u - 128), y + 2.017 * (u - 128)), axis=2
    ).clip(0, 255)
    np.testing.assert_allclose(rgb, expected, atol=2)


@pytest.mark.parametrize("encoding", sorted(BAYER))
def test_bayer_patterns_keep_colors_apart(encoding):
    color = {"R": 200, "G": 120, "B": 30}
    tile = np.array([color[letter] for letter in BAYER[encoding]], np.uint8).reshape(2, 2)
    if encoding.endswith("16"):
        tile = tile.astype(np.uint16) << 8
    rgb = conversions.image_to_rgb(raw_image(np.tile(tile, (6, 8))[:, :, None], encoding, padding=3))
    assert rgb.shape == (12, 16, 3)
    np.testing.assert_array_equal(rgb[2:-2, 2:-2], np.broadcast_to([200, 120, 30], (8, 12, 3)))


def semi_planar(encoding, luma, u, v, *, padding=0):
    """Return an image message of a luma plane and chroma planes of the same or of half the size."""
    pair = (v, u) if encoding == "nv21" else (u, v)
    chroma = np.stack(pair, axis=2).reshape(len(u), -1)
    if encoding == "nv24":  # a row of chroma is twice as long as one of luma
        rows = [*np.pad(luma, ((0, 0), (0, padding))), *np.pad(chroma, ((0, 0), (0, 2 * padding)))]
    else:
        rows = np.pad(np.vstack([luma, chroma]), ((0, 0), (0, padding)))
    data = b"".join(row.tobytes() for row in rows)
    height, width = luma.shape
    return Image(
        height=height, width=width, encoding=encoding, step=width + padding, data=array.array("B", data)
    )


@pytest.mark.parametrize("encoding", ["nv12", "nv21", "nv24"])
@given(
    luma=arrays(np.uint8, (4, 6), elements=st.integers(16, 235)),
    chroma=arrays(np.uint8, (2, 4, 6), elements=st.integers(90, 160)),
    padding=st.integers(0, 7),
)
@settings(deadline=None, max_examples=30)
def test_semi_planar_yuv_follows_bt601(encoding, luma, chroma, padding):
    u, v = chroma.astype(float)
    if encoding != "nv24":
        chroma = chroma[:, ::2, ::2]
        u, v = chroma.repeat(2, axis=1).repeat(2, axis=2).astype(float)
    message = semi_planar(encoding, luma, *chroma, padding=padding)
    y = 1.164 * (luma.astype(float) - 16)
    expected = np.stack(
        (y + 1.596 * (v - 128), y - 0.813 * (v - 128) - 0.392 * (u - 128), y + 2.017 * (u - 128)), axis=2
    ).clip(0, 255)
    rgb = conversions.image_to_rgb(message)
    np.testing.assert_allclose(rgb, expected, atol=2)
    if not padding:  # some drivers count both planes
        message.step = message.step * 3 if encoding == "nv24" else message.step * 3 // 2
        np.testing.assert_array_equal(conversions.image_to_rgb(message), rgb)
    message.data = message.data[: luma.size + 1]
    with pytest.raises(ConversionError, match="bytes of data; expected"):
        conversions.image_to_rgb(message)


MONO = ["mono16", "rgb16", "bgr16", "rgba16", "16UC3", *(name for name in BAYER if name.endswith("16"))]


@pytest.mark.parametrize("encoding", MONO)
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("big_endian", [False, True])
def test_all_depths_look_the_same(encoding, bits, big_endian):
    tones = np.random.default_rng(0).integers(0, 256, (8, 10, CHANNELS.get(encoding, 1)), np.uint16)
    tones[0, 0] = 255
    values = tones << (bits - 8)
    if encoding == "rgba16":
        values[..., 3] = 65535  # alpha tells nothing about the bits of the colors
    eight = {"16UC3": "8UC3"}.get(encoding, encoding.replace("16", "8"))
    expected = conversions.image_to_rgb(raw_image(tones.astype(np.uint8), eight))
    rgb = conversions.image_to_rgb(raw_image(values, encoding, big_endian=big_endian))
    np.testing.assert_array_equal(rgb, expected)


@given(
    frames=st.lists(
        st.tuples(st.sampled_from([8, 10, 12, 14, 16]), st.integers(1, 255)), min_size=1, max_size=8
    ),
    png=st.booleans(),
)
@settings(deadline=None, max_examples=60)
def test_brightness_does_not_flicker(frames, png):
    """The scale changes only when more bits are seen than ever before, and each change is reported."""
    told = []
    tones = conversions.Tones(told.append)
    most, lines = 0, 0
    for bits, level in frames:
        values = np.full((2, 3, 1), level << (bits - 8), np.uint16)
        values[0, 0] = 1
        if png:
            _, file = cv2.imencode(".png", values)
            message = CompressedImage(format="mono16; png compressed", data=array.array("B", file.tobytes()))
            rgb = conversions.compressed_to_rgb(message, tones)
        else:
            rgb = conversions.image_to_rgb(raw_image(values, "mono16"), tones)
        used = max(8, 2 * -(-int(values.max()).bit_length() // 2))
        lines += used > most and (most > 0 or used < 16)
        most = max(most, used)
        assert (rgb[1] == values[1] >> (most - 8)).all()
    assert len(told) == lines
    assert all("of 16 bits" in text for text in told)


def test_cameras_do_not_disturb_each_other():
    tones = conversions.Tones()
    bright, dark = (np.full((2, 2, 1), level, np.uint16) for level in (65000, 1000))
    for frame, values, expected in (("left", bright, 253), ("right", dark, 250), ("left", dark, 3)):
        message = raw_image(values, "mono16")
        message.header.frame_id = frame
        assert (conversions.image_to_rgb(message, tones) == expected).all()
    for number in range(200):  # nor fill the memory
        message.header.frame_id = str(number)
        conversions.image_to_rgb(message, tones)
    assert len(tones._bits) <= 64


def image(**changes) -> Image:
    """Return a good 4 x 3 rgb8 image with some fields changed."""
    message = raw_image(np.arange(36, dtype=np.uint8).reshape(3, 4, 3), "rgb8")
    for name, value in changes.items():
        setattr(message, name, value)
    return message


@pytest.mark.parametrize(
    ("message", "kind", "said"),
    [
        (image(encoding="rgb9"), "encoding", ["'rgb9'", "expected one of rgb8, bgr8", "camera driver"]),
        (image(encoding=""), "encoding", ["no encoding", "expected one of rgb8"]),
        (image(encoding="16UC1"), "encoding", ["depth image", "color topic"]),
        (image(width=0), "size", ["0 x 3", "at least 1 x 1"]),
        (image(height=0), "size", ["4 x 0"]),
        (image(height=0, width=0, step=0, data=array.array("B")), "size", ["0 x 0"]),
        (image(step=11), "size", ["step 11", "at least 12 bytes"]),
        (image(step=0), "size", ["step 0"]),
        (image(data=array.array("B", bytes(35))), "data", ["35 bytes", "expected 36", "truncated"]),
        (image(data=array.array("B")), "data", ["0 bytes"]),
        (image(width=100_000, height=100_000, step=300_000), "size", ["at most 67108864 pixels"]),
        (image(encoding="uyvy", width=3), "size", ["even width"]),
        (image(encoding="bayer_rggb8", height=1), "size", ["at least 2 x 2"]),
        (image(encoding="bayer_rggb16", height=1), "size", ["at least 2 x 2"]),
        (image(encoding="nv12", width=3), "size", ["even width"]),
        (image(encoding="nv21"), "size", ["even height"]),
        (
            image(encoding="nv24", step=4, data=array.array("B", bytes(35))),
            "data",
            ["35 bytes", "expected 36"],
        ),
    ],
)
def test_bad_images_are_explained(message, kind, said):
    with pytest.raises(ConversionError) as caught:
        conversions.image_to_rgb(message)
    assert caught.value.kind == kind
    for part in said:
        assert part in str(caught.value)


@settings(deadline=None, max_examples=200)
@given(
    encoding=st.sampled_from([*conversions.COLOR_ENCODINGS, *conversions.DEPTH_ENCODINGS, "", "nonsense"]),
    height=st.integers(0, 6),
    width=st.integers(0, 6),
    step=st.integers(0, 60),
    big_endian=st.integers(0, 1),
    data=st.binary(max_size=200),
)
def test_rubbish_is_converted_or_explained_but_nothing_else(encoding, height, width, step, big_endian, data):
    message = Image(
        encoding=encoding,
        height=height,
        width=width,
        step=step,
        is_bigendian=big_endian,
        data=array.array("B", data),
    )
    for convert in (conversions.image_to_rgb, conversions.depth_to_metres):
        try:
            converted = convert(message)
        except ConversionError as error:
            assert "expected" in str(error)
        else:
            assert converted.shape[:2] == (height, width)


def picture(height: int = 48, width: int = 64) -> np.ndarray:
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack((x, y, np.full_like(x, 90)), axis=2).astype(np.uint8)


def compressed(rgb: np.ndarray, extension: str, format: str) -> CompressedImage:
    _, data = cv2.imencode(extension, rgb[:, :, ::-1])
    return CompressedImage(format=format, data=array.array("B", data.tobytes()))


def test_png_and_jpeg_are_decoded():
    rgb = picture()
    exact = conversions.compressed_to_rgb(compressed(rgb, ".png", "rgb8; png compressed bgr8"))
    np.testing.assert_array_equal(exact, rgb)
    close = conversions.compressed_to_rgb(compressed(rgb, ".jpg", "jpeg"))
    assert np.abs(close.astype(int) - rgb).mean() < 4


def test_gray_pictures_become_rgb():
    _, data = cv2.imencode(".png", np.full((4, 5), 77, np.uint8))
    rgb = conversions.compressed_to_rgb(CompressedImage(format="png", data=array.array("B", data.tobytes())))
    np.testing.assert_array_equal(rgb, np.full((4, 5, 3), 77))


@pytest.mark.parametrize("extension", [".jpg", ".png"])
@settings(deadline=None, max_examples=30)
@given(share=st.floats(0.0, 0.99))
def test_truncated_pictures_are_explained_wherever_they_end(extension, share):
    message = compressed(picture(), extension, "jpeg")
    message.data = message.data[: int(share * len(message.data))]
    with pytest.raises(ConversionError, match="expected"):
        conversions.compressed_to_rgb(message)


def unread(format: str, data: bytes) -> CompressedImage:
    return CompressedImage(format=format, data=array.array("B", data))


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (unread("jpeg", b""), "is empty"),
        (unread("jpeg", b"II*\x00" + bytes(50)), "begins with 49 49 2a 00"),
        (unread("16UC1; compressedDepth png", bytes(50)), "holds depth"),
        (unread("png", b"\x89PNG\r\n\x1a\n" + bytes(50) + b"IEND\xae\x42\x60\x82"), "cannot be decoded"),
    ],
)
def test_bad_compressed_images_are_explained(message, said):
    with pytest.raises(ConversionError, match=said):
        conversions.compressed_to_rgb(message)


@pytest.mark.parametrize("format", ["jpeg", "png"])
def test_compressing_is_undone_by_decompressing(format):
    message = conversions.rgb_to_compressed(picture(), Header(frame_id="camera"), format=format)
    assert message.header.frame_id == "camera"
    assert np.abs(conversions.compressed_to_rgb(message).astype(int) - picture()).mean() < 4


@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
@settings(deadline=None, max_examples=50)
def test_raw_round_trip(rgb):
    for encoding in ("rgb8", "bgr8"):
        message = conversions.rgb_to_image(rgb, Header(), encoding=encoding)
        assert type(message.data) is array.array  # everything else is copied byte by byte
        np.testing.assert_array_equal(conversions.image_to_rgb(message), rgb)


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8"])
def test_cameras_usual_images_are_read_where_they_lie(encoding):
    message = conversions.rgb_to_image(picture(), Header(), encoding=encoding)
    assert np.shares_memory(conversions.image_to_rgb(message), np.frombuffer(message.data, np.uint8))
    rgb = conversions.image_to_rgb(message)
    with pytest.raises(ValueError, match="read-only"):
        rgb[0, 0] = 0
    for again in ("rgb8", "bgr8"):  # and written from there
        written = conversions.rgb_to_image(rgb, Header(), encoding=again)
        np.testing.assert_array_equal(conversions.image_to_rgb(written), picture())
    png = conversions.rgb_to_compressed(rgb, Header(), format="png")
    np.testing.assert_array_equal(conversions.compressed_to_rgb(png), picture())


def test_arrays_that_are_no_rgb_image_are_refused():
    for wrong in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)):
        with pytest.raises(ValueError, match="expected an"):
            conversions.rgb_to_image(wrong, Header())


def test_messages_pass_the_type_checks_of_rclpy(monkeypatch):
    monkeypatch.setenv("ROS_PYTHON_CHECK_FIELDS", "1")
    message = conversions.rgb_to_image(picture(), Header())
    Image(data=message.data, check_fields=True)
    Mask(data=conversions.encode_mask(np.eye(3, dtype=bool)).data, check_fields=True)


# Depth ----------------------------------------------------------------------------------------------------


@given(arrays(np.uint16, st.tuples(st.integers(1, 7), st.integers(1, 7))), st.integers(0, 5), st.booleans())
@settings(deadline=None, max_examples=60)
def test_millimetres_become_metres_and_come_back(millimetres, padding, big_endian):
    message = raw_image(millimetres[:, :, None], "16UC1", padding=padding, big_endian=big_endian)
    metres = conversions.depth_to_metres(message)
    assert metres.dtype == np.float32
    np.testing.assert_array_equal(np.isnan(metres), millimetres == 0)
    np.testing.assert_allclose(metres[millimetres > 0], millimetres[millimetres > 0] / 1000, rtol=1e-6)
    back = conversions.depth_to_image(metres, Header(), encoding="16UC1")
    np.testing.assert_array_equal(np.frombuffer(back.data, "<u2").reshape(millimetres.shape), millimetres)


@pytest.mark.parametrize("big_endian", [False, True])
def test_float_depth_marks_what_was_not_measured(big_endian):
    stored = np.array([[1.25, np.nan, np.inf], [0.0, -np.inf, 3.5]], np.float32)
    message = raw_image(stored[:, :, None], "32FC1", padding=4, big_endian=big_endian)
    metres = conversions.depth_to_metres(message)
    np.testing.assert_array_equal(
        metres, np.array([[1.25, np.nan, np.nan], [np.nan, np.nan, 3.5]], np.float32)
    )
    again = conversions.depth_to_metres(conversions.depth_to_image(metres, Header()))
    np.testing.assert_array_equal(again, metres)


def test_color_is_no_depth():
    with pytest.raises(ConversionError, match="expected 16UC1"):
        conversions.depth_to_metres(image())


def compressed_depth(stored: np.ndarray, format: str, a: float = 0.0, b: float = 0.0) -> CompressedImage:
    _, png = cv2.imencode(".png", stored)
    return CompressedImage(format=format, data=array.array("B", struct.pack("<iff", 0, a, b) + png.tobytes()))


def test_compressed_depth_in_millimetres():
    stored = np.array([[0, 1], [1000, 65535]], np.uint16)
    metres = conversions.compressed_depth_to_metres(compressed_depth(stored, "16UC1; compressedDepth png"))
    np.testing.assert_allclose(metres, [[np.nan, 0.001], [1.0, 65.535]], rtol=1e-6)


def test_compressed_float_depth_is_quantized_inverse_depth():
    # image_transport: a = quantization * (quantization + 1), b = 1 - a / largest depth; stored = a / depth +
    # b
    largest, quantization = 10.0, 100.0
    a = quantization * (quantization + 1)
    b = 1 - a / largest
    depth = np.array([[1.0, 2.5], [7.5, 0.0]])
    stored = np.where(depth > 0, a / np.where(depth > 0, depth, 1) + b, 0).astype(np.uint16)
    metres = conversions.compressed_depth_to_metres(compressed_depth(stored, "32FC1; compressedDepth", a, b))
    np.testing.assert_allclose(metres[depth > 0], depth[depth > 0], rtol=0.01)
    assert np.isnan(metres[1, 1])


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (unread("jpeg", b""), "does not hold depth"),
        (unread("16UC1; compressedDepth", b""), "shorter than its header"),
        (unread("16UC1; compressedDepth rvl", bytes(40)), "RVL"),
        (unread("16UC1; compressedDepth", bytes(40)), "no whole PNG"),
        (compressed_depth(np.ones((2, 2), np.uint8), "16UC1; compressedDepth"), "one channel of 16 bits"),
    ],
)
def test_bad_compressed_depth_is_explained(message, said):
    with pytest.raises(ConversionError, match=said):
        conversions.compressed_depth_to_metres(message)


# Masks ----------------------------------------------------------------------------------------------------


@given(arrays(bool, st.tuples(st.integers(0, 12), st.integers(0, 12))))
@settings(deadline=None, max_examples=200)
def test_run_lengths_round_trip(mask):
    message = conversions.encode_mask(mask)
    assert (message.height, message.width) == mask.shape
    np.testing.assert_array_equal(conversions.decode_mask(message), mask)


@given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))), st.data())
@settings(deadline=None, max_examples=200)
def test_a_region_that_holds_the_mask_changes_nothing(mask, data):
    height, width = mask.shape
    left, right = sorted((data.draw(st.integers(0, width)), data.draw(st.integers(0, width))))
    top, bottom = sorted((data.draw(st.integers(0, height)), data.draw(st.integers(0, height))))
    inside = np.zeros_like(mask)
    inside[top:bottom, left:right] = mask[top:bottom, left:right]
    region = conversions.box_to_region((left, top, right, bottom), height, width)
    assert conversions.encode_mask(inside, region) == conversions.encode_mask(inside)


def test_the_order_of_runs_is_rows_first_and_background_first():
    mask = np.array([[1, 1, 0], [0, 1, 0]], bool)
    assert conversions.run_lengths(mask).tolist() == [0, 2, 2, 1, 1]
    assert bytes(conversions.encode_mask(mask).data) == struct.pack("<5I", 0, 2, 2, 1, 1)
    assert conversions.run_lengths(np.zeros((2, 3), bool)).tolist() == [6]


@given(arrays(bool, st.tuples(st.integers(1, 8), st.integers(1, 8))))
@settings(deadline=None, max_examples=50)
def test_the_other_encodings_of_a_mask(mask):
    height, width = mask.shape
    gray = np.where(mask, 255, 0).astype(np.uint8)
    _, png = cv2.imencode(".png", gray)
    for encoding, data in ((Mask.MONO8, gray.tobytes()), (Mask.PNG, png.tobytes())):
        message = Mask(height=height, width=width, encoding=encoding, data=array.array("B", data))
        np.testing.assert_array_equal(conversions.decode_mask(message), mask)


@pytest.mark.parametrize(
    ("encoding", "data", "said"),
    [
        (Mask.RLE, b"\x01\x00\x00", "no whole number"),
        (Mask.RLE, struct.pack("<2I", 3, 4), "cover 7 pixels; expected 3 x 2 = 6"),
        (Mask.RLE, struct.pack("<3I", 2**32 - 1, 2**32 - 1, 8), "cover"),
        (Mask.RLE, b"", "cover 0 pixels"),
        (Mask.MONO8, b"12345", "expected 6 bytes"),
        (Mask.PNG, b"", "no PNG file"),
        (Mask.PNG, b"123", "no PNG file"),
        ("zip", b"", "expected one of rle, png, mono8"),
    ],
)
def test_damaged_masks_are_explained(encoding, data, said):
    message = Mask(height=2, width=3, encoding=encoding, data=array.array("B", data))
    with pytest.raises(ConversionError, match=said):
        conversions.decode_mask(message)


def test_a_mask_image_has_the_camera_images_header_and_size():
    header = Header(frame_id="camera_color_optical_frame")
    header.stamp.sec = 7
    message = conversions.mask_to_image(np.eye(3, 5, dtype=bool), header)
    assert (message.encoding, message.height, message.width, message.step) == ("mono8", 3, 5, 5)
    assert message.header == header
    assert sorted(set(message.data)) == [0, 255]


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((1.2, 2.0, 4.1, 5.0), (1, 2, 4, 3)),
        ((-3.0, -3.0, 99.0, 99.0), (0, 0, 8, 6)),
        ((0.0, 0.0, 0.0, 0.0), (0, 0, 0, 0)),
        ((float("nan"), 0.0, 1.0, 1.0), (0, 0, 0, 0)),
        ((5.0, 5.0, 2.0, 2.0), (5, 5, 0, 0)),
    ],
)
def test_boxes_become_whole_pixels_inside_the_image(box, expected):
    region = conversions.box_to_region(box, height=6, width=8)
    assert (region.x_offset, region.y_offset, region.width, region.height) == expected
