"""How long the planning of grasps takes for one object of a 640x480 picture, beside back-projecting it.

Run: OMP_NUM_THREADS=1 python -m benchmarks.grasps
"""

from __future__ import annotations

import time

import numpy as np

from lens_ros.geometry.grasps import plan_grasps
from lens_ros.simulation.gripper.trial import GRIPPER, back_projected, table_plane
from lens_ros.simulation.renderer import TabletopSimulator

REPEATS = 7


def main() -> None:
    """Print milliseconds per object (median of the objects of six scenes) and the ratio."""
    planning, projecting = [], []
    with TabletopSimulator() as simulator:
        for index in range(6):
            frame = simulator.frame(22, index, size=(640, 480))
            start = time.perf_counter()
            points = back_projected(frame)
            projecting.append(time.perf_counter() - start)
            scene, plane = points.reshape(-1, 3), table_plane(frame)
            for item in frame.objects:
                target = points[frame.instances == item.index]
                times = []
                for _ in range(REPEATS):
                    start = time.perf_counter()
                    plan_grasps(scene, target, plane, GRIPPER)
                    times.append(time.perf_counter() - start)
                planning.append(min(times))
    plan, project = 1000 * np.median(planning), 1000 * np.median(projecting)
    print(f"plan_grasps: {plan:.1f} ms (largest {1000 * max(planning):.1f})")
    print(f"{plan / project:.2f} x back-projection")


if __name__ == "__main__":
    main()
