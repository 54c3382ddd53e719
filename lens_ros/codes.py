"""Define the codes that stand for reasons, for machines.

`msg/Code.msg` holds the same constants; a test compares the two. Codes are never renumbered.
"""

from __future__ import annotations

from enum import IntEnum, unique
from typing import Any


@unique
class Code(IntEnum):
    """Why there is no accepted object, why an object is rejected, or why a request failed."""

    OK = 0  # an accepted object, or success

    # The model answered, and no object is accepted.
    NOTHING_FITS = 1  # nothing in the image fits the instruction
    UNREADABLE_ANSWER = 2  # the model's text holds no box
    UNKNOWN_OBJECT = 3  # the instruction names nothing that the model was taught to find
    ALL_REJECTED = 4  # every object that was found is rejected: see their codes

    # An object is rejected.
    LOW_SCORE = 20  # its score is below the threshold
    EMPTY_MASK = 21  # the segmenter found no pixels for it
    TOO_MANY_FOUND = 22  # better ones were found, and max_instances allows no more
    LOST = 23  # tracking lost it
    INCONSISTENT = 24  # the box in the answer's text and the mask disagree

    # An object has no place in three dimensions.
    NO_DEPTH = 30  # too few of its pixels have a depth
    DEPTH_MISMATCH = 31  # the depth image is not registered to the color image
    DEPTH_UNIT = 32  # the values of the depth image cannot be metres
    BAD_CAMERA = 33  # camera_info has no usable intrinsics
    BAD_DEPTH = 34  # the depth message cannot be read

    # The request cannot be served as it is.
    BAD_INSTRUCTION = 40  # empty, too long or unprintable
    BAD_IMAGE = 41  # an encoding, size or content that cannot be used
    NO_IMAGE = 42  # neither in the request nor from the camera
    UNKNOWN_TARGET = 43  # no active instruction has this id
    UNKNOWN_OPERATION = 44  # none of those of SetInstruction
    TOO_MANY_TARGETS = 45  # max_targets instructions are active

    # The node cannot serve it now.
    INACTIVE = 60  # activate the node
    DISABLED = 61  # the camera stream is disabled (~/enable)
    BUSY = 62  # try again later

    # The request ended before its answer.
    REPLACED = 80  # by a newer instruction
    REMOVED = 81  # by SetInstruction, REMOVE
    CLEARED = 82  # by SetInstruction, CLEAR
    CANCELLED = 83  # by the client of the goal
    ENDED = 84  # the node was deactivated, shut down or met an error

    # Something failed.
    MODEL_FAILED = 100  # the model raised an error; the reason names it
    OUT_OF_MEMORY = 101  # the reason says what to do
    INTERNAL_ERROR = 102  # a fault of lens_ros; please report it

    # The object is seen, and no grasp of it is proposed.
    TOO_WIDE = 141  # the jaws do not open wide enough
    IN_COLLISION = 142  # fingers or palm would hit something on the way or at the object
    TOO_LOW = 143  # too little stands out of the support plane to be held

    UNSPECIFIED = 255  # a reason without a code


class Coded(str):
    """A sentence for people with a code for machines; otherwise a plain string."""

    code: Code

    def __new__(cls, text: str, code: Code) -> Coded:
        """Return `text` with `code`."""
        coded = super().__new__(cls, text)
        coded.code = code
        return coded

    def __reduce__(self) -> tuple[Any, ...]:
        return Coded, (str(self), self.code)


def known_code(value: int) -> Code:
    """Return a code that was received; UNSPECIFIED for one that this version does not know."""
    return Code(value) if value in Code._value2member_map_ else Code.UNSPECIFIED


def code_of(reason: str) -> Code:
    """Return the code of a reason: OK for an empty one, UNSPECIFIED for a plain string."""
    return getattr(reason, "code", Code.UNSPECIFIED) if reason else Code.OK
