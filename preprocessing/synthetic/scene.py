"""Renders a person in motion; the result is the same for the same person, motion and size."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from preprocessing.errors import UserError
from preprocessing.synthetic.appearance.paint import creases
from preprocessing.synthetic.body.landmarks import landmark_vertices
from preprocessing.synthetic.body.mesh import load_mesh
from preprocessing.synthetic.body.pose import Pose, pose
from preprocessing.synthetic.motion.columns import Motion, check_motion
from preprocessing.synthetic.person import Person, Value
from preprocessing.synthetic.renderer import kernels, shading
from preprocessing.synthetic.renderer.device import default_device, to_device, wp
from preprocessing.synthetic.renderer.model import build_model

# Distance of the camera from the face in metres, side of the shadow map in samples, and the part
# of the world it covers in metres.
_DISTANCE = 1.5
_SHADOW_SIDE, _SHADOW_METRES = 320, 0.62
#: Samples of a pixel along each axis unless another number is given.
SAMPLES = 2


def render(
    person: Person,
    motion: NDArray[np.floating],
    size: int = 256,
    *,
    samples: int = SAMPLES,
    device: str | None = None,
) -> NDArray[np.uint8]:
    """Render frames, sRGB uint8 [T, size, size, 3].

    Args:
        person: who is shown.
        motion: [T, P] or [P] with the columns of `MOTION_COLUMNS`.
        size: side of the frames in pixels, a multiple of 16.
        samples: samples of each pixel along both axes.
        device: "cpu" or "cuda"; None takes a CUDA device where there is one.

    Raises:
        UserError: the size or the motion is not usable.
    """
    renderer = Renderer(person, size, samples=samples, device=device)
    return np.stack([renderer.frame(row) for row in check_motion(motion)])


def check_size(size: int) -> None:
    """Raise UserError unless frames can have this side."""
    if size < 16 or size % 16:
        raise UserError(f"the size is {size} pixels", "give a multiple of 16")


class Renderer:
    """Renders frames of one person; holds the buffers."""

    def __init__(
        self,
        person: Person,
        size: int = 256,
        *,
        samples: int = SAMPLES,
        device: str | None = None,
    ) -> None:
        check_size(size)
        self.person, self.size, self._samples = person, size, samples
        self._mesh = load_mesh()
        self._device = device or default_device()
        self._buffers = _Buffers.allocate(person, size, samples, self._device)
        self._image = wp.empty((size, size, 3), dtype=wp.uint8, device=self._device)
        self._look = _look(person.look)
        self._light = wp.mat44(*_light_transform(person).ravel().tolist())

    def frame(self, row: Motion) -> NDArray[np.uint8]:
        """Render one row of motion [P]: sRGB uint8 [size, size, 3]."""
        posed = self._pose(row)
        view = self._view(posed)
        buffers, device = self._buffers, self._device
        buffers.place(posed, view, device)
        buffers.shadow.zero_()
        buffers.depth.zero_()
        for screen, faces, material, both, target in (
            (buffers.shadow_screen, buffers.casting, buffers.casting_material, 1, buffers.shadow),
            (buffers.screen, buffers.triangles, buffers.material, 0, buffers.depth),
        ):
            wp.launch(
                kernels.rasterise,
                dim=len(faces),
                device=device,
                inputs=[
                    screen, buffers.coordinates, faces, material, buffers.strands, both, target,
                ],
            )  # fmt: skip
        self._set_creases(posed.values)
        wp.launch(
            shading.shade,
            dim=(self.size, self.size),
            device=device,
            inputs=[
                buffers.scene(), view, self._look, buffers.depth, buffers.backdrop,
                self._samples, self._image,
            ],
        )  # fmt: skip
        return np.asarray(self._image.numpy()).copy()

    def landmarks(self, row: Motion) -> NDArray[np.float64]:
        """Pixel positions [5, 2] of the image's left and right eye, nose tip and mouth corners."""
        posed = self._pose(row)
        fine = np.asarray(self._mesh.matrix @ posed.points, np.float64)
        points = np.stack([fine[group].mean(0) for group in landmark_vertices()])
        view = self._view(posed)
        offset = points - np.array([view.eye[k] for k in range(3)])
        scale = view.scale / offset[:, 1] / self._samples
        shift = np.array([view.shift_x, view.shift_y]) / self._samples
        return np.stack([offset[:, 0] * scale, -offset[:, 2] * scale], 1) + shift

    def head_transform(self, row: Motion) -> NDArray[np.float64]:
        """Transform [4, 4] of the head bone from its rest position, in metres."""
        return self._pose(row).head

    def _pose(self, row: Motion) -> Pose:
        shape = self.person.shape
        return pose(self._mesh.asset, shape.rest, shape.joints, np.asarray(row))

    def _view(self, posed: Pose) -> kernels.View:
        """Camera and light. The camera stands still; tx, ty and zoom move the image."""
        person, values = self.person, posed.values
        side = self.size * self._samples
        eye = person.centre + np.array([0, -_DISTANCE, 0])
        view = kernels.View()
        view.eye = wp.vec3(*map(float, eye))
        view.scale = float(_DISTANCE / person.side * np.exp(values["zoom"]) * side)
        view.shift_x = float(side / 2 + values["tx"] * side)
        view.shift_y = float(side / 2 - values["ty"] * side)
        view.light = self._light
        view.head = wp.mat44(*posed.head.ravel().tolist())
        view.torso = wp.mat44(*posed.torso.ravel().tolist())
        return view

    def _set_creases(self, values: dict[str, float]) -> None:
        """Fold the skin by the actions, more on older faces."""
        age = self.person.complexion.wrinkles
        for side in ("Left", "Right"):
            act = {name: values[f"{name}{side}"] for name in _CREASING}
            forehead = max(values["browInnerUp"], act["browOuterUp"])
            between = max(act["browDown"], 0.4 * act["noseSneer"])
            beside = max(act["mouthSmile"], 0.6 * act["noseSneer"], 0.5 * act["mouthUpperUp"])
            corner = max(act["cheekSquint"], 0.7 * act["eyeSquint"])
            strength = [
                0.35 * age + amount * (0.25 + 0.4 * age)
                for amount in (forehead, between, 0.9 * beside, corner)
            ]
            setattr(self._look, f"crease_{side.lower()}", wp.vec4(*strength))


_CREASING = (
    "browOuterUp", "browDown", "noseSneer", "mouthSmile", "mouthUpperUp", "cheekSquint",
    "eyeSquint",
)  # fmt: skip


@dataclass
class _Buffers:
    """Arrays on the device: the person's, and those written in every frame."""

    base: wp.array
    height: wp.array
    rest: wp.array
    rest_normals: wp.array
    head_share: wp.array
    coordinates: wp.array
    origin: wp.array
    visible: wp.array
    triangles: wp.array
    material: wp.array
    casting: wp.array
    casting_material: wp.array
    skin: wp.array
    creases: wp.array
    strands: wp.array
    backdrop: wp.array
    # Sparse matrix of the subdivision, quads and which of them are around each vertex.
    matrix: tuple[wp.array, wp.array, wp.array]
    incidence: tuple[wp.array, wp.array]
    quads: wp.array
    fine: wp.array
    fine_normals: wp.array
    points: wp.array
    normals: wp.array
    screen: wp.array
    shadow_screen: wp.array
    shadow: wp.array
    depth: wp.array

    @classmethod
    def allocate(cls, person: Person, size: int, samples: int, device: str) -> "_Buffers":
        """Upload a person and make room for frames of so many pixels and samples of each."""
        mesh = load_mesh()
        model = build_model(mesh, person)
        backdrop = cv2.resize(person.background, (size, size), interpolation=cv2.INTER_CUBIC)
        side = size * samples
        count, fine = len(model.base), len(mesh.points)

        def empty(shape: int | tuple[int, int], dtype: type) -> wp.array:
            return wp.empty(shape, dtype=dtype, device=device)

        matrix, incidence = mesh.matrix, mesh.incidence
        return cls(
            base=to_device(model.base, wp.int32, device),
            height=to_device(model.height, float, device),
            rest=to_device(model.rest, wp.vec3, device),
            rest_normals=to_device(model.rest_normals, wp.vec3, device),
            head_share=to_device(model.head_share, float, device),
            coordinates=to_device(model.coordinates, wp.vec4, device),
            origin=to_device(model.template, wp.vec3, device),
            visible=to_device(model.visible, float, device),
            triangles=to_device(model.triangles, wp.vec3i, device),
            material=to_device(model.material, wp.int32, device),
            casting=to_device(model.casting, wp.vec3i, device),
            casting_material=to_device(model.casting_material, wp.int32, device),
            skin=to_device(person.skin, wp.vec4, device),
            creases=to_device(creases(), wp.vec4, device),
            strands=to_device(person.strands, float, device),
            backdrop=to_device(backdrop.clip(0, 1), wp.vec3, device),
            matrix=(
                to_device(matrix.indptr.astype(np.int32), wp.int32, device),
                to_device(matrix.indices.astype(np.int32), wp.int32, device),
                to_device(matrix.data.astype(np.float32), float, device),
            ),
            incidence=(
                to_device(incidence.indptr.astype(np.int32), wp.int32, device),
                to_device(incidence.indices.astype(np.int32), wp.int32, device),
            ),
            quads=to_device(mesh.quads.astype(np.int32), wp.vec4i, device),
            fine=empty(fine, wp.vec3),
            fine_normals=empty(fine, wp.vec3),
            points=empty(count, wp.vec3),
            normals=empty(count, wp.vec3),
            screen=empty(count, wp.vec3),
            shadow_screen=empty(count, wp.vec3),
            shadow=empty((_SHADOW_SIDE, _SHADOW_SIDE), wp.int64),
            depth=empty((side, side), wp.int64),
        )

    def scene(self) -> shading.Scene:
        """Return what shading reads."""
        scene = shading.Scene()
        for name in (
            "screen", "points", "normals", "coordinates", "origin", "visible", "triangles",
            "material", "skin", "creases", "strands", "shadow",
        ):  # fmt: skip
            setattr(scene, name, getattr(self, name))
        return scene

    def place(self, posed: Pose, view: kernels.View, device: str) -> None:
        """Compute the positions and normals of all render vertices."""
        coarse = to_device(posed.points, wp.vec3, device)
        wp.launch(
            kernels.subdivide,
            dim=len(self.fine),
            device=device,
            inputs=[*self.matrix, coarse, self.fine],
        )
        wp.launch(
            kernels.vertex_normals,
            dim=len(self.fine),
            device=device,
            inputs=[*self.incidence, self.quads, self.fine, self.fine_normals],
        )
        wp.launch(
            kernels.place,
            dim=len(self.base),
            device=device,
            inputs=[
                self.base, self.height, self.rest, self.rest_normals, self.head_share, self.fine,
                self.fine_normals, view, self.points, self.normals, self.screen,
                self.shadow_screen,
            ],
        )  # fmt: skip


def _light_transform(person: Person) -> NDArray[np.float64]:
    """Orthographic projection [4, 4] along the key light into the shadow map."""
    direction = np.asarray(person.look["light"], np.float64)
    direction = direction / np.linalg.norm(direction)
    side = np.cross(direction, [0, 0, 1.0])
    side /= np.linalg.norm(side)
    scale = _SHADOW_SIDE / _SHADOW_METRES
    transform = np.eye(4)
    transform[:3, :3] = side * scale, -np.cross(side, direction) * scale, direction
    transform[:3, 3] = -transform[:3, :3] @ person.centre
    transform[:3, 3] += (_SHADOW_SIDE / 2, _SHADOW_SIDE / 2, 2)
    return transform


def _look(values: dict[str, Value]) -> shading.Look:
    look = shading.Look()
    for name, value in values.items():
        if isinstance(value, np.ndarray):
            setattr(look, name, wp.vec3(*map(float, value)))
        else:
            setattr(look, name, value if isinstance(value, int) else float(value))
    return look
