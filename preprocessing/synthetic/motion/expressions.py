"""Facial expressions and mouth shapes of speech, as combinations of actions."""

from preprocessing.synthetic.motion.columns import sided


def _both(value: float, *names: str) -> dict[str, float]:
    return dict.fromkeys(sided(*names), value)


EXPRESSIONS: dict[str, dict[str, float]] = {
    "smile": _both(0.85, "mouthSmile") | _both(0.5, "cheekSquint") | _both(0.3, "eyeSquint"),
    "grin": _both(0.9, "mouthSmile")
    | _both(0.7, "mouthUpperUp")
    | _both(0.35, "mouthLowerDown")
    | _both(0.6, "cheekSquint")
    | {"jawOpen": 0.14},
    "frown": _both(0.9, "mouthFrown") | _both(0.7, "browDown") | {"mouthShrugLower": 0.5},
    "anger": _both(1.0, "browDown")
    | _both(0.7, "noseSneer")
    | _both(0.6, "mouthPress")
    | _both(0.4, "eyeSquint"),
    "surprise": _both(0.9, "browOuterUp", "eyeWide") | {"browInnerUp": 1.0, "jawOpen": 0.55},
    "sad": _both(0.8, "mouthFrown") | _both(0.3, "eyeSquint") | {"browInnerUp": 0.9},
    "pucker": {"mouthPucker": 1.0},
    "funnel": {"mouthFunnel": 0.9, "jawOpen": 0.15},
    "puff": _both(0.4, "mouthPress") | {"cheekPuff": 0.9},
    "mouth left": {"mouthLeft": 0.9, "jawLeft": 0.4},
    "mouth right": {"mouthRight": 0.9, "jawRight": 0.4},
    "smirk left": {"mouthSmileLeft": 0.9, "cheekSquintLeft": 0.4, "mouthDimpleLeft": 0.4},
    "smirk right": {"mouthSmileRight": 0.9, "cheekSquintRight": 0.4},
    "disgust": _both(1.0, "noseSneer") | _both(0.7, "mouthUpperUp") | _both(0.5, "browDown"),
    "wink left": {"eyeBlinkLeft": 1.0, "cheekSquintLeft": 0.6},
    "wink right": {"eyeBlinkRight": 1.0, "cheekSquintRight": 0.6},
    "brows up": _both(1.0, "browOuterUp") | {"browInnerUp": 0.8},
    "one brow": {"browOuterUpLeft": 1.0, "browDownRight": 0.6},
    "shout": _both(0.5, "mouthStretch") | _both(0.6, "mouthLowerDown") | {"jawOpen": 0.95},
    "press": _both(0.8, "mouthPress") | {"mouthRollLower": 0.6, "mouthRollUpper": 0.5},
    "squint": _both(0.8, "eyeSquint", "cheekSquint"),
    "tongue": {"tongueOut": 0.9, "jawOpen": 0.45},
}

VISEMES: tuple[dict[str, float], ...] = (
    {"jawOpen": 0.55},
    {"jawOpen": 0.25} | _both(0.45, "mouthStretch"),
    {"jawOpen": 0.2, "mouthFunnel": 0.65},
    {"jawOpen": 0.08, "mouthPucker": 0.75},
    {"mouthRollLower": 0.4, "mouthRollUpper": 0.3},
    {"jawOpen": 0.15} | _both(0.6, "mouthLowerDown"),
    {"jawOpen": 0.35} | _both(0.3, "mouthUpperUp"),
    {"jawOpen": 0.1, "mouthShrugUpper": 0.4},
    {"jawOpen": 0.12} | _both(0.35, "mouthSmile"),
)
