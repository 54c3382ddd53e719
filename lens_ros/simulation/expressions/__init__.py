"""Generate referring expressions with a chain of thought that is true of the scene.

`sample_expression` says something about the objects of one camera frame, as a person would type it, and
reasons about it in words: what is looked for, what is there and where, the quantity that decides, the
conclusion. Most kinds are satisfied by exactly one object. With kind `all_of` one or several satisfy it and
all are meant; with kind `none` nothing in sight does. The `UNSEEN_KINDS`, of one object each, are kept for
evaluation. Everything comes from the scene's description; no picture is needed.

An expression is made only where its answer is clear by a margin. Whatever shows at least one pixel counts as
a possible confusion; an answer or a reference object (anchor) must be well visible. So must everything that
belongs to "all of", and everything that is said to lack a color or a place.

Conventions. Left and right are judged in the image, by the centers of the visible boxes (pixels, x right,
y down). In front and behind: by `SceneObject.forward`, meters along the ground from the camera; closer is in
front. Closest and farthest: by `SceneObject.distance`, meters from the camera. Nearest: by the distance
between the base centers on the table. Size: by `SceneObject.extent`, within one category. Rationales state
these quantities in whole centimeters.
"""

from lens_ros.simulation.expressions.sampling import (
    KINDS,
    SIMPLE_KINDS,
    SINGLE_KINDS,
    UNSEEN_KINDS,
    sample_expression,
    vocabulary,
)
from lens_ros.simulation.expressions.writing import Expression

__all__ = [
    "KINDS",
    "SIMPLE_KINDS",
    "SINGLE_KINDS",
    "UNSEEN_KINDS",
    "Expression",
    "sample_expression",
    "vocabulary",
]
