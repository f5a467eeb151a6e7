"""Rooms of the code base and the imports allowed between them.

`ROOMS` is the only place where allowed imports are declared. `tests/unit/test_architecture.py`
compares it with the imports in the source; running this file rewrites the table and the picture of
`docs/architecture.md`.

Usage: python scripts/architecture.py
"""

import ast
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architecture.md"
PICTURE = ROOT / "docs" / "images" / "architecture.svg"
PACKAGES = ("preprocessing", "xnemo", "pipelines")
_BEGIN, _END = "<!-- rooms: begin -->", "<!-- rooms: end -->"


@dataclass(frozen=True)
class Room:
    """A folder or module, what it holds, and the rooms it may import."""

    name: str
    holds: str
    imports: tuple[str, ...] = ()

    @property
    def package(self) -> str:
        """Return the top-level package."""
        return self.name.split(".")[0]


ROOMS: tuple[Room, ...] = (
    Room(
        "preprocessing.errors",
        "the error users read; checks of settings",
    ),
    Room(
        "preprocessing.lazy",
        "public names imported at first use",
        ("preprocessing.errors",),
    ),
    Room(
        "preprocessing.config",
        "settings of a preprocessing job",
        ("preprocessing.errors",),
    ),
    Room(
        "preprocessing.paths",
        "paths as users write them",
        (),
    ),
    Room(
        "preprocessing.retry",
        "retries with backoff",
        ("preprocessing.errors",),
    ),
    Room(
        "preprocessing.heartbeat",
        "sign of life from long work",
    ),
    Room(
        "preprocessing.geometry",
        "crop geometry, shared with training and animation",
    ),
    Room(
        "preprocessing.decode",
        "video decoders behind one protocol, colour, orientation, timeline",
        (
            "preprocessing.errors",
            "preprocessing.heartbeat",
        ),
    ),
    Room(
        "preprocessing.shots",
        "cuts, from a few hundred luma values of each frame",
        ("preprocessing.config",),
    ),
    Room(
        "preprocessing.encode",
        "H.264 clips with reproducible bytes",
        (
            "preprocessing.config",
            "preprocessing.decode",
        ),
    ),
    Room(
        "preprocessing.sandbox",
        "work in child processes that can be killed",
        (
            "preprocessing.heartbeat",
            "preprocessing.decode",
        ),
    ),
    Room(
        "preprocessing.faces",
        "face detectors, pose, tracking",
        (
            "preprocessing.errors",
            "preprocessing.config",
            "preprocessing.paths",
            "preprocessing.geometry",
        ),
    ),
    Room(
        "preprocessing.synthetic",
        "rendered people with exactly known motion",
        (
            "preprocessing.errors",
            "preprocessing.lazy",
            "preprocessing.paths",
            "preprocessing.encode",
        ),
    ),
    Room(
        "preprocessing.storage",
        "local and fsspec stores; shards, samples, index",
        (
            "preprocessing.errors",
            "preprocessing.paths",
            "preprocessing.retry",
        ),
    ),
    Room(
        "preprocessing.chunk",
        "one chunk of a source: clips, scores, filters, encoding",
        (
            "preprocessing.errors",
            "preprocessing.config",
            "preprocessing.heartbeat",
            "preprocessing.geometry",
            "preprocessing.decode",
            "preprocessing.shots",
            "preprocessing.encode",
            "preprocessing.sandbox",
            "preprocessing.faces",
            "preprocessing.synthetic",
            "preprocessing.storage",
        ),
    ),
    Room(
        "preprocessing.dataset",
        "the data set: sources, plan, finalize, duplicates, identities, verify",
        (
            "preprocessing.errors",
            "preprocessing.config",
            "preprocessing.paths",
            "preprocessing.heartbeat",
            "preprocessing.decode",
            "preprocessing.sandbox",
            "preprocessing.storage",
            "preprocessing.chunk",
        ),
    ),
    Room(
        "preprocessing.report",
        "the HTML report and its numbers",
        (
            "preprocessing.config",
            "preprocessing.storage",
            "preprocessing.chunk",
            "preprocessing.dataset",
        ),
    ),
    Room(
        "preprocessing",
        "public names",
        ("preprocessing.lazy",),
    ),
    Room(
        "xnemo.config",
        "nested dataclasses as settings",
        ("preprocessing.errors",),
    ),
    Room(
        "xnemo.data",
        "selection, order, pairs, augmentation, batches",
        (
            "preprocessing.errors",
            "preprocessing.geometry",
            "preprocessing.decode",
            "preprocessing.synthetic",
            "preprocessing.storage",
        ),
    ),
    Room(
        "xnemo.model.layers",
        "layers shared by networks",
        ("preprocessing.errors",),
    ),
    Room(
        "xnemo.model.motion",
        "motion encoder",
        (
            "preprocessing.errors",
            "xnemo.model.layers",
        ),
    ),
    Room(
        "xnemo.model.unet",
        "denoiser and reference network",
        (
            "preprocessing.errors",
            "xnemo.model.layers",
        ),
    ),
    Room(
        "xnemo.model.gan",
        "GAN head, discriminator, adversarial losses",
        ("preprocessing.errors",),
    ),
    Room(
        "xnemo.model.builtin",
        "the small model that comes with the package",
        ("preprocessing.paths",),
    ),
    Room(
        "xnemo.model.frozen",
        "autoencoder, image embedding, perceptual features",
        (
            "preprocessing.errors",
            "preprocessing.paths",
        ),
    ),
    Room(
        "xnemo.model.weights",
        "weight files: read, check, initialize, write",
        (
            "preprocessing.errors",
            "preprocessing.paths",
        ),
    ),
    Room(
        "xnemo.model",
        "all networks together: configuration, build, save, load, cost",
        (
            "preprocessing.errors",
            "xnemo.config",
            "xnemo.data",
            "xnemo.model.motion",
            "xnemo.model.unet",
            "xnemo.model.gan",
            "xnemo.model.frozen",
            "xnemo.model.weights",
        ),
    ),
    Room(
        "xnemo.model.loading",
        "official, Stable Diffusion and AnimateDiff weights",
        (
            "preprocessing.errors",
            "preprocessing.paths",
            "xnemo.model.unet",
            "xnemo.model.weights",
            "xnemo.model",
        ),
    ),
    Room(
        "xnemo.diffusion",
        "noise schedule, guidance, sampler",
        (
            "preprocessing.errors",
            "xnemo.model.unet",
        ),
    ),
    Room(
        "xnemo.training.config",
        "settings of a training run",
        (
            "preprocessing.errors",
            "xnemo.data",
            "xnemo.model.frozen",
            "xnemo.model",
            "xnemo.diffusion",
        ),
    ),
    Room(
        "xnemo.training.engines",
        "PyTorch/DDP and DeepSpeed behind one protocol",
        (
            "preprocessing.errors",
            "xnemo.training.config",
        ),
    ),
    Room(
        "xnemo.training.checkpoint",
        "bundles, checkpoints, uploads",
        (
            "preprocessing.errors",
            "preprocessing.storage",
            "xnemo.config",
            "xnemo.model.weights",
            "xnemo.model",
            "xnemo.training.config",
            "xnemo.training.engines",
        ),
    ),
    Room(
        "xnemo.training.monitor",
        "run log, guards, speed, watchdog",
        (
            "preprocessing.errors",
            "xnemo.training.config",
            "xnemo.training.engines",
        ),
    ),
    Room(
        "xnemo.training",
        "loop, step, state",
        (
            "preprocessing.errors",
            "xnemo.config",
            "xnemo.data",
            "xnemo.model.gan",
            "xnemo.model.builtin",
            "xnemo.model.frozen",
            "xnemo.model",
            "xnemo.model.loading",
            "xnemo.diffusion",
            "xnemo.training.config",
            "xnemo.training.engines",
            "xnemo.training.checkpoint",
            "xnemo.training.monitor",
        ),
    ),
    Room(
        "xnemo.animation",
        "driving video, animator, diffusers pipeline",
        (
            "preprocessing.errors",
            "preprocessing.config",
            "preprocessing.geometry",
            "preprocessing.shots",
            "preprocessing.decode",
            "preprocessing.faces",
            "xnemo.config",
            "xnemo.model.motion",
            "xnemo.model.unet",
            "xnemo.model.builtin",
            "xnemo.model.frozen",
            "xnemo.model.weights",
            "xnemo.model",
            "xnemo.model.loading",
            "xnemo.diffusion",
            "xnemo.training.checkpoint",
        ),
    ),
    Room(
        "xnemo.evaluation",
        "metrics, motion correlation, probes",
        (
            "preprocessing.errors",
            "preprocessing.geometry",
            "preprocessing.decode",
            "preprocessing.faces",
            "preprocessing.synthetic",
            "preprocessing.storage",
            "xnemo.data",
            "xnemo.model.motion",
            "xnemo.animation",
        ),
    ),
    Room(
        "xnemo.recipes",
        "training recipes",
        (
            "preprocessing.errors",
            "xnemo.data",
            "xnemo.model.builtin",
            "xnemo.model",
            "xnemo.diffusion",
            "xnemo.training.config",
            "xnemo.training",
        ),
    ),
    Room(
        "xnemo",
        "public names",
        ("preprocessing.lazy",),
    ),
    Room(
        "pipelines.terminal",
        "progress, tables, next steps",
    ),
    Room(
        "pipelines.cluster",
        "Ray: connect, resources, signals",
        (
            "preprocessing.errors",
            "preprocessing.paths",
        ),
    ),
    Room(
        "pipelines.tracking",
        "MLflow that may be away",
        (
            "preprocessing.errors",
            "xnemo.training.monitor",
        ),
    ),
    Room(
        "pipelines.preprocess",
        "Ray Data job: videos to shards",
        (
            "preprocessing.errors",
            "preprocessing.config",
            "preprocessing.paths",
            "preprocessing.decode",
            "preprocessing.sandbox",
            "preprocessing.faces",
            "preprocessing.storage",
            "preprocessing.chunk",
            "preprocessing.dataset",
            "preprocessing.report",
            "xnemo.config",
            "pipelines.terminal",
            "pipelines.cluster",
            "pipelines.tracking",
        ),
    ),
    Room(
        "pipelines.synthesize",
        "Ray Data job: rendered people",
        (
            "preprocessing.errors",
            "preprocessing.synthetic",
            "preprocessing.storage",
            "pipelines.terminal",
            "pipelines.preprocess",
        ),
    ),
    Room(
        "pipelines.train",
        "Ray Train job: shards to a bundle",
        (
            "preprocessing.errors",
            "preprocessing.geometry",
            "preprocessing.encode",
            "preprocessing.faces",
            "xnemo.config",
            "xnemo.data",
            "xnemo.training.config",
            "xnemo.training.engines",
            "xnemo.training.checkpoint",
            "xnemo.training",
            "xnemo.animation",
            "xnemo.evaluation",
            "pipelines.cluster",
            "pipelines.tracking",
        ),
    ),
    Room(
        "pipelines.tune",
        "Ray Tune search over training runs",
        (
            "preprocessing.errors",
            "xnemo.config",
            "xnemo.data",
            "xnemo.training.config",
            "xnemo.training.checkpoint",
            "xnemo.training.monitor",
            "xnemo.training",
            "pipelines.cluster",
            "pipelines.tracking",
            "pipelines.train",
        ),
    ),
    Room(
        "pipelines.animate",
        "model, portrait and driving video to a video",
        (
            "preprocessing.errors",
            "preprocessing.paths",
            "preprocessing.encode",
            "preprocessing.faces",
            "xnemo.model",
            "xnemo.animation",
        ),
    ),
    Room(
        "pipelines.animate_list",
        "Ray Data job: pairs of portraits and driving videos",
        (
            "preprocessing.errors",
            "preprocessing.paths",
            "preprocessing.dataset",
            "xnemo.config",
            "xnemo.animation",
            "pipelines.cluster",
            "pipelines.animate",
        ),
    ),
    Room(
        "pipelines.evaluate",
        "measure a model",
        (
            "preprocessing.errors",
            "preprocessing.geometry",
            "preprocessing.faces",
            "preprocessing.dataset",
            "xnemo.model.builtin",
            "xnemo.model",
            "xnemo.training.checkpoint",
            "xnemo.animation",
            "xnemo.evaluation",
            "pipelines.animate",
        ),
    ),
    Room(
        "pipelines.promote",
        "scheduled training, and the bundle that is served",
        (
            "preprocessing.errors",
            "preprocessing.faces",
            "preprocessing.storage",
            "xnemo.data",
            "xnemo.training.config",
            "xnemo.training.checkpoint",
            "xnemo.animation",
            "xnemo.evaluation",
            "pipelines.cluster",
            "pipelines.tracking",
            "pipelines.train",
            "pipelines.animate",
        ),
    ),
    Room(
        "pipelines.inspect",
        "what a file or folder holds",
        (
            "preprocessing.errors",
            "preprocessing.paths",
            "preprocessing.decode",
            "preprocessing.sandbox",
            "preprocessing.faces",
            "preprocessing.storage",
            "xnemo.config",
            "xnemo.model.weights",
            "xnemo.model",
            "xnemo.model.loading",
            "xnemo.training.checkpoint",
            "pipelines.terminal",
            "pipelines.animate",
        ),
    ),
    Room(
        "pipelines.webui",
        "animation in a browser",
        (
            "preprocessing.errors",
            "xnemo.config",
            "xnemo.animation",
            "pipelines.cluster",
            "pipelines.animate",
        ),
    ),
    Room(
        "pipelines.demo",
        "the whole path at small size",
        (
            "preprocessing.errors",
            "preprocessing.config",
            "preprocessing.geometry",
            "preprocessing.decode",
            "preprocessing.faces",
            "preprocessing.synthetic",
            "xnemo.model.builtin",
            "xnemo.training.monitor",
            "xnemo.animation",
            "xnemo.evaluation",
            "xnemo.recipes",
            "pipelines.terminal",
            "pipelines.cluster",
            "pipelines.tracking",
            "pipelines.preprocess",
            "pipelines.synthesize",
            "pipelines.train",
            "pipelines.animate",
        ),
    ),
    Room(
        "pipelines.doctor",
        "check of this machine",
        (
            "preprocessing.errors",
            "preprocessing.paths",
            "preprocessing.encode",
            "preprocessing.faces",
            "xnemo.model.builtin",
            "xnemo.model.frozen",
            "xnemo.model",
            "xnemo.training.config",
            "pipelines.tracking",
        ),
    ),
    Room(
        "pipelines.cli",
        "the command line",
        (
            "preprocessing.errors",
            "preprocessing.config",
            "xnemo.config",
            "xnemo.model.builtin",
            "xnemo.model.loading",
            "xnemo.training.config",
            "xnemo.recipes",
            "xnemo",
            "pipelines.terminal",
            "pipelines.tracking",
            "pipelines.preprocess",
            "pipelines.synthesize",
            "pipelines.train",
            "pipelines.tune",
            "pipelines.animate",
            "pipelines.animate_list",
            "pipelines.evaluate",
            "pipelines.promote",
            "pipelines.inspect",
            "pipelines.webui",
            "pipelines.demo",
            "pipelines.doctor",
        ),
    ),
    Room(
        "pipelines",
        "the package",
    ),
)


def modules() -> dict[str, Path]:
    """Return every module of the three packages with its file."""
    return {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
        for package in PACKAGES
        for file in sorted((ROOT / package).rglob("*.py"))
    }


def room_of(module: str) -> str | None:
    """Return the most specific room that holds a module; None where there is none."""
    fitting = [r.name for r in ROOMS if module == r.name or module.startswith(r.name + ".")]
    return max(fitting, key=len, default=None)


def room_imports() -> dict[tuple[str, str], list[str]]:
    """Return the imports between rooms in the source, each with the modules that make it."""
    known = modules()
    found: dict[tuple[str, str], list[str]] = {}
    for module, file in known.items():
        here = room_of(module)
        for target in _imported(file, known):
            there = room_of(target)
            if here and there and here != there:
                found.setdefault((here, there), []).append(module)
    return found


def _imported(file: Path, known: dict[str, Path]) -> set[str]:
    """Return our modules that a file imports anywhere, `if TYPE_CHECKING` excepted."""
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    targets = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                targets.add(name if name in known else node.module)
        elif isinstance(node, ast.Import):
            targets |= {alias.name for alias in node.names}
    return targets & known.keys()


def table() -> str:
    """Return the rooms as a Markdown table, in import order."""
    lines = ["| room | holds | may import |", "|---|---|---|"]
    for room in ROOMS:
        allowed = ", ".join(f"`{name}`" for name in room.imports) or "–"
        lines.append(f"| `{room.name}` | {room.holds} | {allowed} |")
    return "\n".join(lines)


def reduced_edges() -> list[tuple[str, str]]:
    """Return the allowed imports that no chain of other imports implies."""
    below: dict[str, set[str]] = {}
    for room in ROOMS:
        below[room.name] = set().union(*(below[name] | {name} for name in room.imports), set())
    return [
        (room.name, name)
        for room in ROOMS
        for name in room.imports
        if not any(name in below[other] for other in room.imports if other != name)
    ]


def picture() -> str:
    """Return the rooms as an SVG: one column a package, an arrow from importer to imported."""
    width, height, step_x, step_y = 200, 26, 330, 44
    places: dict[str, tuple[int, int]] = {}
    for column, package in enumerate(PACKAGES):
        rooms = [room.name for room in ROOMS if room.package == package]
        for row, name in enumerate(rooms):
            places[name] = (60 + column * step_x, 60 + row * step_y)
    bottom = max(y for _, y in places.values()) + height + 20
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {3 * step_x} {bottom}"'
        ' font-family="sans-serif" font-size="12">',
        '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7"'
        ' markerHeight="7" orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="#567"/></marker></defs>',
        f'<rect width="{3 * step_x}" height="{bottom}" fill="#fff"/>',
    ]
    for source, target in reduced_edges():
        (x1, y1), (x2, y2) = places[source], places[target]
        y1, y2 = y1 + height // 2, y2 + height // 2
        if x1 == x2:
            bend = x1 - 12 - min(44, abs(y1 - y2) // 8)
            path = f"M{x1},{y1} C{bend},{y1} {bend},{y2} {x2},{y2}"
        else:
            x2 += width
            middle = (x1 + x2) // 2
            path = f"M{x1},{y1} C{middle},{y1} {middle},{y2} {x2},{y2}"
        out.append(
            f'<path d="{path}" fill="none" stroke="#567" stroke-opacity="0.6"'
            ' marker-end="url(#a)"/>'
        )
    for column, package in enumerate(PACKAGES):
        x = 60 + column * step_x + width // 2
        out.append(
            f'<text x="{x}" y="36" text-anchor="middle" font-size="16" font-weight="bold">'
            f"{package}/</text>"
        )
    for name, (x, y) in places.items():
        label = name.split(".", 1)[1].replace(".", "/") if "." in name else "__init__"
        out.append(
            f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="5" fill="#eef3f8"'
            f' stroke="#567"/><text x="{x + width // 2}" y="{y + 17}"'
            f' text-anchor="middle">{label}</text>'
        )
    return "\n".join([*out, "</svg>"]) + "\n"


def page(text: str) -> str:
    """Return the architecture page with the table between its markers replaced."""
    before, rest = text.split(_BEGIN)
    after = rest.split(_END)[1]
    return f"{before}{_BEGIN}\n\n{table()}\n\n{_END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
    PICTURE.write_text(picture())
