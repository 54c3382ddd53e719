"""Objects with free joints, a table and a free-flying parallel-jaw gripper in MuJoCo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lens_ros.geometry.gripper import Gripper
from lens_ros.simulation.gripper.solids import pieces
from lens_ros.simulation.layout import TABLE_HALF_SIZE
from lens_ros.simulation.meshes import Shape
from lens_ros.simulation.scene import Placement

STEP = 0.002
LIFT = 0.2  # metres
SPEED = 0.25  # metres per second
CLOSE_SECONDS, HOLD_SECONDS = 0.5, 0.4
FORCE = 15.0  # newtons of each finger
_FRICTION = 'friction="1 0.02 0.001" condim="4" solref="0.005 1"'


class GripperWorld:
    """One physical scene. World frame of lens_ros.simulation.scene: metres, z up, table top at z = 0."""

    def __init__(
        self, mujoco: Any, placements: Sequence[Placement], shapes: Sequence[Shape], gripper: Gripper
    ) -> None:
        self._mujoco, self._gripper, self._count = mujoco, gripper, len(placements)
        spec = mujoco.MjSpec.from_string(_stage(gripper))
        for number, (placement, shape) in enumerate(zip(placements, shapes, strict=True)):
            half = placement.yaw / 2
            body = spec.worldbody.add_body(
                name=f"object{number}", pos=placement.position, quat=[np.cos(half), 0, 0, np.sin(half)]
            )
            body.add_freejoint()
            for count, points in enumerate(pieces(placement.category, shape)):
                mesh = spec.add_mesh(name=f"mesh{number}_{count}")
                mesh.uservert = points.ravel()
                mesh.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_CONVEX
                body.add_geom(
                    type=mujoco.mjtGeom.mjGEOM_MESH, meshname=mesh.name, density=250, condim=6,
                    friction=[1.0, 0.02, 0.002], solref=[0.005, 1],
                )  # fmt: skip
        self._model = spec.compile()
        self._data = mujoco.MjData(self._model)
        self._bodies = [self._model.body(f"object{k}").id for k in range(self._count)]
        self._move(_park(), 0.0, gripper.max_opening, jump=True)

    def heights(self) -> np.ndarray:
        """Return (K,) z of the objects' origins."""
        return self._data.xpos[self._bodies, 2].copy()

    def execute(self, grasp: np.ndarray, opening: float, distance: float) -> np.ndarray:
        """Execute a grasp: approach, close, lift and hold; return how far each object rose.

        Args:
            grasp: (4, 4) world_from_fingertips with columns closing, lateral, approach.
            opening: metres between the fingers during the approach.
            distance: metres of the approach.

        Returns:
            (K,) metres by which each object is higher after holding than before.
        """
        before = self.heights()
        start = grasp.copy()
        start[:3, 3] -= distance * grasp[:3, 2]
        self._move(start, 0.0, opening, jump=True)
        self._move(grasp, distance / SPEED + 0.2, opening)
        self._move(grasp, CLOSE_SECONDS, 0.0)
        up = grasp.copy()
        up[2, 3] += LIFT
        self._move(up, LIFT / SPEED + 0.2, 0.0)
        self._move(up, HOLD_SECONDS, 0.0)
        return self.heights() - before

    def _move(self, pose: np.ndarray, seconds: float, opening: float, *, jump: bool = False) -> None:
        data, mujoco = self._data, self._mujoco
        quaternion = np.zeros(4)
        mujoco.mju_mat2Quat(quaternion, pose[:3, :3].ravel())
        data.ctrl[:] = opening / 2
        if jump:
            data.mocap_pos[0], data.mocap_quat[0] = pose[:3, 3], quaternion
            data.qpos[:3], data.qpos[3:7], data.qpos[7:9] = pose[:3, 3], quaternion, opening / 2
            data.qvel[:8] = 0
            mujoco.mj_forward(self._model, data)
            return
        start, steps = data.mocap_pos[0].copy(), int(seconds / STEP)
        for step in range(steps):
            data.mocap_pos[0] = start + (pose[:3, 3] - start) * min(1, (step + 1) / (0.85 * steps))
            mujoco.mj_step(self._model, data)


def _park() -> np.ndarray:
    pose = np.diag([1.0, -1.0, -1.0, 1.0])
    pose[2, 3] = 0.6
    return pose


def _stage(gripper: Gripper) -> str:
    """Return the MJCF of table and gripper; the gripper's origin lies between the fingertips."""
    thick, wide, long = gripper.finger_thickness / 2, gripper.finger_width / 2, gripper.finger_length / 2
    palm_z = -gripper.finger_length - gripper.palm_length / 2
    reach = gripper.max_opening / 2
    finger = "".join(
        f'<body gravcomp="1"><joint name="finger{n}" type="slide" axis="{s} 0 0" range="0 {reach}"'
        ' damping="8"/>'
        f'<geom type="box" size="{thick} {wide} {long}" pos="{s * thick} 0 {-long}" mass="0.08"'
        ' friction="1.6 0.05 0.001" condim="4" solref="0.004 1"/></body>'
        for n, s in ((1, 1), (2, -1))
    )
    force = f'kp="400" forcerange="{-FORCE} {FORCE}"'
    motor = "".join(f'<position joint="finger{n}" {force}/>' for n in (1, 2))
    palm = f"{gripper.palm_thickness / 2} {gripper.palm_width / 2} {gripper.palm_length / 2}"
    weld = 'relpose="0 0 0 1 0 0 0" solref="0.01 1" solimp="0.98 0.99 0.001"'
    table = f"{TABLE_HALF_SIZE[0]} {TABLE_HALF_SIZE[1]} 0.02"
    return f"""<mujoco><option timestep="{STEP}" cone="elliptic" impratio="10" integrator="implicitfast"/>
<worldbody><geom type="box" size="{table}" pos="0 0 -0.02" {_FRICTION}/>
<body name="hand" mocap="true"/>
<body name="gripper" gravcomp="1"><freejoint/>
<geom type="box" size="{palm}" pos="0 0 {palm_z}" mass="0.6"/>{finger}</body></worldbody>
<equality><weld body1="hand" body2="gripper" {weld}/></equality>
<actuator>{motor}</actuator></mujoco>"""
