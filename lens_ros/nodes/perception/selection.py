"""Which of the found objects are accepted. Pure Python, no ROS."""

from __future__ import annotations

import dataclasses

from lens_ros.instances import union
from lens_ros.lens import Segmentation


def select(result: Segmentation, *, max_instances: int) -> Segmentation:
    """The answer with its objects best first, accepted ones beyond the number rejected.

    Args:
        max_instances: most accepted objects; 0 for any number.
    """
    found = sorted(result.instances, key=lambda instance: (bool(instance.rejected), -instance.score))
    accepted = sum(not instance.rejected for instance in found)
    if not 0 < max_instances < accepted:
        return dataclasses.replace(result, instances=tuple(found))
    for row in range(max_instances, accepted):
        found[row] = dataclasses.replace(
            found[row], rejected=f"better ones were found (max_instances is {max_instances})"
        )
    return dataclasses.replace(result, instances=tuple(found), mask=union(found, result.mask.shape))
