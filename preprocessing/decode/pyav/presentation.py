"""Refusal of videos whose stored pictures are not what a person sees."""

import av

from preprocessing.decode.failure import DecodeError

# Values of Matroska's stereo_mode that are one picture for both eyes.
_MONO = ("", "mono")
# Codec tags of Dolby Vision. Where the stream declares no colours they are in Dolby's own space
# (profile 5), which shows violet and green faces in any other.
_DOLBY_VISION = ("dvh1", "dvhe", "dav1", "dva1", "dvav")
_UNSPECIFIED = 2


def refuse_unshown(stream: av.VideoStream, frame: av.VideoFrame) -> None:
    """Raise where decoding gives another picture than a player shows.

    Args:
        stream: the video stream.
        frame: its first frame.

    Raises:
        DecodeError: "unsupported": the video is transparent, stereoscopic, or in the colours of
            Dolby Vision profile 5.
    """
    if stream.metadata.get("alpha_mode") == "1" or _is_transparent(frame):
        raise DecodeError(
            "unsupported", "the video is transparent: what lies under that would be stored"
        )
    stereo = stream.metadata.get("stereo_mode", "")
    if stereo not in _MONO:
        raise DecodeError("unsupported", f"the video shows two views ({stereo})")
    tag = str(stream.codec_context.codec_tag)
    if tag in _DOLBY_VISION and int(frame.color_primaries) == _UNSPECIFIED:
        raise DecodeError(
            "unsupported", f"Dolby Vision without compatible colours (profile 5, tag {tag})"
        )


def _is_transparent(frame: av.VideoFrame) -> bool:
    """Return whether any pixel is not opaque; an alpha channel alone hides nothing."""
    if not any(component.is_alpha for component in frame.format.components):
        return False
    alpha = frame.reformat(format="rgba").to_ndarray()[..., 3]
    return bool((alpha < 255).any())
