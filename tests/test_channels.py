"""RGB views of BGR images work like copies of them."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lens_ros.channels import contiguous, each_channel
from lens_ros.lens import Lens
from lens_ros.model.images import reasoner_picture, segmenter_picture
from lens_ros.visualization import overlay

IMAGES = arrays(np.uint8, st.tuples(st.integers(1, 7), st.integers(1, 7), st.just(3)))
if cv2.__version__ < "4.6":  # Ubuntu 22.04's OpenCV refuses an image of a single pixel
    IMAGES = IMAGES.filter(lambda image: image.size > 3)


@given(IMAGES)
@settings(deadline=None)
def test_a_view_of_bgr_becomes_rgb(image):
    bgr = np.ascontiguousarray(image[..., ::-1])
    rgb = contiguous(bgr[..., ::-1])
    assert rgb.flags.c_contiguous
    np.testing.assert_array_equal(rgb, image)
    assert contiguous(image) is image


@given(IMAGES)
@settings(deadline=None)
def test_what_is_done_to_each_channel_is_done_to_a_view(image):
    def double(picture: np.ndarray) -> np.ndarray:
        assert picture.flags.c_contiguous
        return cv2.resize(picture, None, fx=2, fy=2)

    view = np.ascontiguousarray(image[..., ::-1])[..., ::-1]
    np.testing.assert_array_equal(each_channel(double, view), each_channel(double, image))


@pytest.fixture(scope="module")
def nano() -> Lens:
    return Lens.from_pretrained("lens-nano", backend="torch")


@pytest.mark.parametrize("protocol", ["square", "refcoco", "reasonseg"])
@pytest.mark.parametrize("fit", ["squash", "letterbox"])
def test_the_model_sees_the_same(nano: Lens, demo_image, protocol, fit):
    view = np.ascontiguousarray(demo_image[..., ::-1])[..., ::-1]
    config = dataclasses.replace(nano.model.config.image, protocol=protocol, segmenter_fit=fit)
    for look in (reasoner_picture, segmenter_picture):
        np.testing.assert_array_equal(look(view, config), look(demo_image, config))


def test_answers_and_pictures_are_the_same(nano: Lens, demo_image):
    view = np.ascontiguousarray(demo_image[..., ::-1])[..., ::-1]
    answer, expected = nano.segment(view, "the blue mug"), nano.segment(demo_image, "the blue mug")
    np.testing.assert_array_equal(answer.mask, expected.mask)
    assert answer.mask.any() and answer.answer == expected.answer
    np.testing.assert_array_equal(overlay(view, answer), overlay(demo_image, expected))
