"""Convert between ROS messages and arrays.

Conventions: images are (H, W, 3) uint8 RGB, depth is (H, W) float32 metres along the optical axis with NaN
where nothing was measured, masks are (H, W) bool; row 0 is the upper edge. Whatever is wrong with a message
ends in a `ConversionError` that says what was found, what was expected and what to do.
"""

from lens_ros.ros.conversions.cameras import camera_of, is_rectified
from lens_ros.ros.conversions.color import (
    COLOR_ENCODINGS,
    check_compressed_image,
    check_image,
    compressed_to_rgb,
    image_to_rgb,
    rgb_to_compressed,
    rgb_to_image,
)
from lens_ros.ros.conversions.common import DEPTH_ENCODINGS, MAX_PIXELS, ConversionError
from lens_ros.ros.conversions.depth import compressed_depth_to_metres, depth_to_image, depth_to_metres
from lens_ros.ros.conversions.masks import (
    decode_mask,
    encode_mask,
    labels_to_image,
    mask_from_run_lengths,
    mask_to_image,
    run_lengths,
)
from lens_ros.ros.conversions.segmentations import box_to_region, segmentation_to_message, set_pose
from lens_ros.ros.conversions.tones import Tones

__all__ = [
    "COLOR_ENCODINGS",
    "DEPTH_ENCODINGS",
    "MAX_PIXELS",
    "ConversionError",
    "Tones",
    "box_to_region",
    "camera_of",
    "check_compressed_image",
    "check_image",
    "compressed_depth_to_metres",
    "compressed_to_rgb",
    "decode_mask",
    "depth_to_image",
    "depth_to_metres",
    "encode_mask",
    "image_to_rgb",
    "is_rectified",
    "labels_to_image",
    "mask_from_run_lengths",
    "mask_to_image",
    "rgb_to_compressed",
    "rgb_to_image",
    "run_lengths",
    "segmentation_to_message",
    "set_pose",
]
