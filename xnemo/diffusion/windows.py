"""Overlapping windows that cover a clip of any length."""


def make_windows(frames: int, size: int = 24, overlap: int = 4, offset: int = 0) -> list[list[int]]:
    """Return the frame numbers of every window of one denoising step.

    Windows start every `size - overlap` frames, all moved by `offset`, and run past the end into
    the beginning (a closed loop), so that over many steps with random offsets no frame stays at a
    seam. A clip that fits one window is one window, in order.

    Args:
        frames: Frames of the clip.
        size: Frames of a window.
        overlap: Frames that neighbouring windows share.
        offset: How far all windows are moved.

    Raises:
        ValueError: Where the windows cannot advance.
    """
    if frames < 1 or not 0 <= overlap < size:
        raise ValueError(f"no windows of {size} frames with overlap {overlap} over {frames} frames")
    if frames <= size:
        return [list(range(frames))]
    return [
        [(start + offset + i) % frames for i in range(size)]
        for start in range(0, frames, size - overlap)
    ]
