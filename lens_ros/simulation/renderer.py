"""Render random tabletop scenes with MuJoCo, without a display.

Building a model and a graphics context costs far more than drawing a frame. So the 64 scenes of a block share
one compiled model, the pool, whose objects are moved, recolored and hidden from scene to scene.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import numpy as np

from lens_ros.simulation.layout import (
    SCENES_PER_BLOCK,
    SURFACES,
    TABLE_HALF_SIZE,
    Layout,
    Pool,
    sample_layout,
    sample_pool,
)
from lens_ros.simulation.meshes import Shape
from lens_ros.simulation.scene import Camera, Frame, observe

# Both are read while MuJoCo and PyOpenGL are imported, whoever imports them first; EGL needs no display.
os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("PYOPENGL_PLATFORM", os.environ["MUJOCO_GL"])

_NEAR, _FAR = 0.05, 9.0  # clipping planes, metres
_METAL = (0.62, 0.63, 0.66)
_STEM = (0.25, 0.16, 0.07)

_STAGE = """
<mujoco>
  <statistic extent="1" center="0 0 0"/>
  <visual>
    <map znear="{near}" zfar="{far}" shadowscale="0.7"/>
    <quality shadowsize="1024" offsamples="4"/>
    <global offwidth="{width}" offheight="{height}"/>
  </visual>
  <asset>
    {materials}
    <material name="matte" specular="0.1" shininess="0.1"/>
    <material name="glossy" specular="0.5" shininess="0.7"/>
    <material name="metal" specular="0.9" shininess="0.9"/>
  </asset>
  <worldbody>
    <light name="key" type="spot" cutoff="70" exponent="1" attenuation="1 0 0" castshadow="true"
           specular="0.3 0.3 0.3" pos="0 0 1.6" dir="0 0 -1"/>
    <light name="fill" type="directional" castshadow="false" specular="0 0 0" pos="0 0 2" dir="0 0 -1"/>
    <camera name="camera"/>
    <geom name="table" type="box" size="{table_x} {table_y} 0.02" pos="0 0 -0.02"/>
    <geom name="floor" type="plane" size="4 4 0.1" pos="0 0 -0.7"/>
    <geom name="back_wall" type="box" size="4 0.05 2" pos="0 2.2 0"/>
    <geom name="left_wall" type="box" size="0.05 4 2" pos="-2.4 0 0"/>
    <geom name="right_wall" type="box" size="0.05 4 2" pos="2.4 0 0"/>
  </worldbody>
</mujoco>
"""


class SimulatorUnavailable(RuntimeError):
    """MuJoCo or off-screen OpenGL is missing; the message says in one line what to install."""


class TabletopSimulator:
    """Random tabletop frames, each a pure function of (seed, index) and the options.

    unseen_textures: the same scenes, on tables and between walls such as training never shows.

    Use it as a context manager, from one thread; it owns an OpenGL context. Raises SimulatorUnavailable when
    MuJoCo or off-screen OpenGL is missing.
    """

    def __init__(self, *, unseen_textures: bool = False) -> None:
        self._mujoco = _import_mujoco()
        self._graphics = _create_graphics(self._mujoco)
        self._unseen_textures = unseen_textures
        self._pool_renderer: _PoolRenderer | None = None
        self._block: tuple[int, int] | None = None

    def __enter__(self) -> TabletopSimulator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Free the OpenGL context; the simulator cannot be used afterwards."""
        if self._graphics is None:
            return
        self._graphics.make_current()
        if self._pool_renderer is not None:
            self._pool_renderer.close()
            self._pool_renderer = None
        self._graphics.free()
        self._graphics = None

    def layout(
        self, seed: int, index: int, *, count: tuple[int, int] = (3, 9), held_out_pairs: bool = False
    ) -> Layout:
        """Return the scene that `frame` renders for the same arguments, with its camera and light."""
        return sample_layout(self.pool(seed, index), seed, index, count=count, held_out_pairs=held_out_pairs)

    def pool(self, seed: int, index: int) -> Pool:
        """Return what the scenes of the block of (seed, index) are drawn from."""
        return self._renderer_of(seed, index).pool

    def frame(
        self,
        seed: int,
        index: int,
        *,
        count: tuple[int, int] = (3, 9),
        held_out_pairs: bool = False,
        camera: Camera | None = None,
        size: tuple[int, int] | None = None,
        depth: bool = True,
    ) -> Frame:
        """Render scene `index` of `seed`.

        Args:
            seed: of the scenes.
            index: of the scene.
            count: fewest and most objects; 10..13 makes a crowded table.
            held_out_pairs: also draw the (category, color) pairs of catalog.HELD_OUT_PAIRS.
            camera, size (width, height): look at the same scene from elsewhere or at another resolution; by
                default the scene's own camera and the size of its block.
            depth: False leaves Frame.depth empty and saves a little time.

        Raises:
            ValueError: a bad count or index.
        """
        layout = self.layout(seed, index, count=count, held_out_pairs=held_out_pairs)
        return self.render(seed, index, layout, camera=camera, size=size, depth=depth)

    def render(
        self,
        seed: int,
        index: int,
        layout: Layout,
        *,
        camera: Camera | None = None,
        size: tuple[int, int] | None = None,
        depth: bool = True,
    ) -> Frame:
        """Render a layout made for the pool of (seed, index), for example one that was edited by hand."""
        renderer = self._renderer_of(seed, index)
        camera, size = camera or layout.camera, size or renderer.pool.image_size
        rgb, depth_map, instances = renderer.render(layout, camera, size, depth)
        shapes = [renderer.pool.shapes[placement.pool_index] for placement in layout.placements]
        objects = observe(layout.placements, shapes, camera, instances)
        return Frame(rgb, depth_map, instances, camera.intrinsics(size), camera.pose.copy(), objects)

    def _renderer_of(self, seed: int, index: int) -> _PoolRenderer:
        if self._graphics is None:
            raise RuntimeError("the simulator is closed: make a new TabletopSimulator")
        if index < 0 or seed < 0:
            raise ValueError(f"seed={seed}, index={index}: expected both to be 0 or more")
        self._graphics.make_current()  # another simulator may have drawn since
        block = (seed, index // SCENES_PER_BLOCK)
        if self._block != block or self._pool_renderer is None:
            if self._pool_renderer is not None:
                self._pool_renderer.close()
            pool = sample_pool(*block, unseen_textures=self._unseen_textures)
            self._pool_renderer = _PoolRenderer(self._mujoco, pool)
            self._block = block
        return self._pool_renderer


class _PoolRenderer:
    """One compiled pool and its graphics resources; draws layouts of that pool."""

    def __init__(self, mujoco: Any, pool: Pool) -> None:
        self.pool = pool
        self._mujoco = mujoco
        self._model, self._geoms = _compile(mujoco, pool)
        self._data = mujoco.MjData(self._model)
        self._scene = mujoco.MjvScene(self._model, maxgeom=512)
        self._option = mujoco.MjvOption()
        self._view = mujoco.MjvCamera()
        self._view.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._view.fixedcamid = 0
        self._context = mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_50.value)
        self._buffer_size = pool.image_size
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        self._context.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR

    def close(self) -> None:
        self._context.free()

    def render(
        self, layout: Layout, camera: Camera, size: tuple[int, int], depth: bool
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return rgb (H, W, 3) uint8, depth (H, W) float32 or (0, 0), instances (H, W) uint8."""
        self._arrange(layout)
        self._aim(camera)
        mujoco = self._mujoco
        if size != self._buffer_size:
            mujoco.mjr_resizeOffscreen(*size, self._context)
            self._buffer_size = size
        mujoco.mj_forward(self._model, self._data)
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(
            self._model, self._data, self._option, None, self._view, everything, self._scene
        )
        rgb, _ = self._draw(size, segments=False, depth=False)
        ids, depth_buffer = self._draw(size, segments=True, depth=depth)
        return rgb, _metric_depth(depth_buffer), self._instances(ids, layout)

    def _arrange(self, layout: Layout) -> None:
        """Write every scene-dependent field of the model, so that nothing of an earlier scene survives."""
        model = self._model
        for surface, texture in zip(SURFACES, layout.surfaces, strict=True):
            model.geom_matid[model.geom(surface).id] = model.material(f"surface{texture}").id
        model.geom_rgba[len(SURFACES) :, 3] = 0
        for placement in layout.placements:
            body = placement.pool_index + 1  # body 0 is the world
            model.body_pos[body] = placement.position
            model.body_quat[body] = (np.cos(placement.yaw / 2), 0, 0, np.sin(placement.yaw / 2))
            for geom, part in zip(
                self._geoms[placement.pool_index], self.pool.shapes[placement.pool_index].parts, strict=True
            ):
                model.geom_rgba[geom] = (*_part_albedo(part.role, placement.color, placement.albedo), 1)
        light = layout.lighting
        key = np.array(light.key_position)
        model.light_pos[0], model.light_dir[0] = key, -key / np.linalg.norm(key)
        model.light_diffuse[0] = light.key
        fill = np.array(light.fill_direction)
        model.light_dir[1], model.light_diffuse[1] = fill / np.linalg.norm(fill), light.fill
        model.vis.headlight.ambient[:] = light.ambient
        model.vis.headlight.diffuse[:] = light.headlight
        model.vis.headlight.specular[:] = 0.05

    def _aim(self, camera: Camera) -> None:
        """Aim MuJoCo's camera.

        It looks along -z with y up: the optical frame turned by 180 degrees about x.
        """
        rotation = camera.pose[:3, :3] @ np.diag([1.0, -1.0, -1.0])
        quaternion = np.zeros(4)
        self._mujoco.mju_mat2Quat(quaternion, rotation.ravel())
        self._model.cam_pos[0], self._model.cam_quat[0] = camera.pose[:3, 3], quaternion
        self._model.cam_fovy[0] = camera.fovy

    def _draw(self, size: tuple[int, int], *, segments: bool, depth: bool) -> tuple[np.ndarray, np.ndarray]:
        mujoco, flags = self._mujoco, self._scene.flags
        width, height = size
        flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = segments
        flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = segments
        flags[mujoco.mjtRndFlag.mjRND_SHADOW] = not segments
        window = mujoco.MjrRect(0, 0, width, height)
        mujoco.mjr_render(window, self._scene, self._context)
        pixels = np.empty((height, width, 3), np.uint8)
        depth_buffer = np.empty((height, width) if depth else (0, 0), np.float32)
        mujoco.mjr_readPixels(pixels, depth_buffer if depth else None, window, self._context)
        # OpenGL's first row is the lowest one
        return np.ascontiguousarray(pixels[::-1]), np.ascontiguousarray(depth_buffer[::-1])

    def _instances(self, ids: np.ndarray, layout: Layout) -> np.ndarray:
        instance_of_geom = np.zeros(self._model.ngeom, np.uint8)
        for index, placement in enumerate(layout.placements, start=1):
            instance_of_geom[self._geoms[placement.pool_index]] = index
        instance_of_segment = np.zeros(self._scene.ngeom + 1, np.uint8)
        for item in self._scene.geoms[: self._scene.ngeom]:
            if item.segid >= 0 and item.objtype == self._mujoco.mjtObj.mjOBJ_GEOM:
                instance_of_segment[item.segid + 1] = instance_of_geom[item.objid]
        # MuJoCo writes the segment number plus one into the color, low byte first
        return instance_of_segment[ids[..., 0].astype(np.int32) + 256 * ids[..., 1].astype(np.int32)]


def _compile(mujoco: Any, pool: Pool) -> tuple[Any, list[list[int]]]:
    """Return the pool's MjModel and, per pool object, its geom ids. Body k + 1 is pool object k."""
    width, height = pool.image_size
    resolution = pool.textures.shape[1]
    materials = "".join(
        f'<texture name="surface{i}" type="2d" builtin="flat" width="{resolution}" height="{resolution}"/>'
        f'<material name="surface{i}" texture="surface{i}" texrepeat="{repeat:.3f} {repeat:.3f}"'
        f' specular="0.05" shininess="0.2"/>'
        for i, repeat in enumerate(pool.texture_repeat)
    )
    table_x, table_y = TABLE_HALF_SIZE
    stage = _STAGE.format(
        near=_NEAR,
        far=_FAR,
        width=width,
        height=height,
        table_x=table_x,
        table_y=table_y,
        materials=materials,
    )
    spec = mujoco.MjSpec.from_string(stage)
    geoms, next_geom = [], len(SURFACES)
    for number, (shape, glossy) in enumerate(zip(pool.shapes, pool.glossy, strict=True)):
        _add_object(mujoco, spec, f"object{number}", shape, "glossy" if glossy else "matte")
        geoms.append(list(range(next_geom, next_geom + len(shape.parts))))
        next_geom += len(shape.parts)
    model = spec.compile()
    for i, texture in enumerate(pool.textures):
        start = model.tex_adr[model.texture(f"surface{i}").id]
        model.tex_data[start : start + texture.size] = texture.ravel()
    return model, geoms


def _add_object(mujoco: Any, spec: Any, name: str, shape: Shape, material: str) -> None:
    body = spec.worldbody.add_body(name=name)
    for number, part in enumerate(shape.parts):
        mesh = spec.add_mesh(name=f"{name}_{number}")
        mesh.uservert = part.surface.vertices.ravel()
        mesh.userface = part.surface.faces.ravel()
        mesh.inertia = mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL
        body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_MESH,
            meshname=mesh.name,
            material="metal" if part.role == "metal" else material,
            contype=0,
            conaffinity=0,
            rgba=[1, 1, 1, 0],
        )


def _part_albedo(role: str, color: str, albedo: Sequence[float]) -> tuple[float, float, float]:
    """Return the albedo of a part; trims contrast with a white object."""
    red, green, blue = albedo
    if role == "dark":
        return red * 0.35, green * 0.35, blue * 0.35
    if role == "metal":
        return _METAL
    if role == "stem":
        return _STEM
    if role == "accent":
        return (0.2, 0.3, 0.7) if color == "white" else (0.85, 0.85, 0.85)
    if role == "light":
        return (0.25, 0.25, 0.3) if color == "white" else (0.87, 0.87, 0.85)
    return red, green, blue


def _metric_depth(buffer: np.ndarray) -> np.ndarray:
    """Return metres along the optical axis from OpenGL's reversed depth.

    That is 1 at the near plane, 0 at the far one.
    """
    inverse = buffer.astype(np.float64) * (1 / _NEAR - 1 / _FAR) + 1 / _FAR
    return (1 / inverse).astype(np.float32)


def _import_mujoco() -> Any:
    try:
        import mujoco  # type: ignore[import-untyped]
    except ModuleNotFoundError as error:
        raise SimulatorUnavailable(
            f"the simulator needs the Python package '{error.name}': pip install 'lens_ros[simulation]'"
        ) from error
    except Exception as error:  # PyOpenGL raises AttributeError, MuJoCo RuntimeError, the loader OSError
        raise _no_opengl(error) from error
    return mujoco


def _create_graphics(mujoco: Any) -> Any:
    try:
        graphics = mujoco.GLContext(64, 64)
        graphics.make_current()
        # a back end without a display may only fail here
        probe = mujoco.MjrContext(mujoco.MjModel.from_xml_string("<mujoco/>"), 50)
        probe.free()
    except Exception as error:  # each OpenGL back end raises errors of its own
        raise _no_opengl(error) from error
    return graphics


def _no_opengl(error: Exception) -> SimulatorUnavailable:
    backend = os.environ.get("MUJOCO_GL", "")
    reason = " ".join(str(error).split()) or type(error).__name__
    return SimulatorUnavailable(
        f"no off-screen OpenGL with MUJOCO_GL={backend!r} ({reason}): install libegl1 libegl-mesa0 "
        "libgl1-mesa-dri libgles2 and set MUJOCO_GL=egl, or install libosmesa6 and set MUJOCO_GL=osmesa, "
        "before anything imports mujoco"
    )
