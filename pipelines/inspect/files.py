"""Contents of a single file: a WebDataset shard, a video or an image."""

import json
import shlex
import tarfile
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from pipelines.inspect.findings import Findings
from preprocessing.errors import UserError
from preprocessing.storage.location import open_location

# Opening an intact video takes well under a second; a damaged one must not block the terminal.
_TIME_LIMIT_S = 30.0
# A tar is made of blocks of this many bytes.
_BLOCK = 512


def inspect_shard(path: str) -> Findings:
    """Describe a tar at a path or URL by its members.

    Raises:
        UserError: It is missing, not a tar, or truncated.
    """
    sizes: dict[str, int] = defaultdict(int)
    samples: dict[str, list[str]] = defaultdict(list)
    first: dict[str, Any] = {}
    end = 0
    try:
        source = open_location(path)
        with source if not isinstance(source, str) else open(source, "rb") as stream:
            length = stream.seek(0, 2)
            stream.seek(0)
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                for member in tar:
                    if member.offset_data + member.size > length:
                        raise tarfile.ReadError("unexpected end of data")
                    key, _, ending = member.name.partition(".")
                    samples[key].append(ending)
                    sizes[ending] += member.size
                    if ending == "json" and not first:
                        content = tar.extractfile(member)
                        first = json.load(content) if content else {}
                    end = member.offset_data + -(-member.size // _BLOCK) * _BLOCK
            # Two empty blocks close a tar; without them members may be missing.
            if length < end + 2 * _BLOCK:
                raise tarfile.ReadError("the end mark is missing")
    except FileNotFoundError:
        raise UserError(f"nothing is at {path}", "check the path") from None
    except (tarfile.TarError, ValueError) as error:
        raise UserError(
            f"{path} is not a complete tar: {error}",
            "make or copy it again; 'xnemo verify OUT' checks a whole data set",
        ) from error
    shapes = Counter("+".join(sorted(endings)) for endings in samples.values())
    facts = {
        "samples": len(samples),
        "members of a sample": dict(shapes),
        "bytes": length,
        "bytes by member": dict(sizes),
    }
    rows = [
        {
            "field": name,
            "value": value if isinstance(value, int | float | str) else json.dumps(value),
        }
        for name, value in first.items()
    ]
    return Findings("shard", path, facts, {"the first sample": rows})


def inspect_video(path: Path) -> Findings:
    """Describe a video by its stream and its first frame.

    Raises:
        UserError: It does not decode.
    """
    from preprocessing.sandbox.isolate import Failure, run_isolated

    facts = run_isolated(_video_facts, str(path), time_limit_s=_TIME_LIMIT_S)
    if isinstance(facts, Failure):
        raise UserError(
            f"{path} cannot be read as a video: {facts.reason}: {facts.detail}",
            "play it in another program to see whether it is complete",
        )
    from pipelines.animate.credentials import read_credentials

    facts["content credentials"] = read_credentials(path)
    following = f"xnemo preprocess {shlex.quote(str(path))} OUT"
    return Findings("video", str(path), facts, next=(following,))


def inspect_image(path: Path) -> Findings:
    """Describe an image by its faces, as a portrait to animate.

    Raises:
        UserError: It does not decode.
    """
    from pipelines.animate.portrait import read_portrait
    from preprocessing.faces import make_detector
    from preprocessing.faces.look import find_in_image, prominence

    # Read as `xnemo animate` reads it.
    image = read_portrait(path)
    # Numbered as `--portrait-face` counts them.
    faces = sorted(find_in_image(make_detector(), image), key=prominence, reverse=True)
    facts = {"width": image.shape[1], "height": image.shape[0], "faces": len(faces)}
    rows = [
        {
            "face": number,
            "confidence": round(float(face.score), 3),
            **{
                side: round(float(value), 1)
                for side, value in zip(("left", "top", "right", "bottom"), face.box, strict=True)
            },
        }
        for number, face in enumerate(faces, 1)
    ]
    command = f"xnemo animate {shlex.quote(str(path))} DRIVING -o animated.mp4"
    return Findings("image", str(path), facts, {"faces found": rows}, (command,) if rows else ())


def _video_facts(path: str) -> dict[str, Any]:
    """Return facts of a video; runs in a separate process."""
    import av

    from preprocessing.decode import open_video

    with open_video(path) as reader:
        info = reader.info
    with av.open(path) as container:
        comment = container.metadata.get("comment", "")
    return {
        "width": info.width,
        "height": info.height,
        "frames per second": round(info.fps, 3),
        "seconds": None if info.duration_s is None else round(info.duration_s, 3),
        "codec": info.codec,
        "container": info.container,
        "pixel format": info.pixel_format,
        "rotation": info.rotation,
        "interlaced": info.interlaced,
        "comment": comment,
    }
