"""Files with a sound part and a broken one: the sound part must be kept and the broken one told."""

from collections.abc import Callable, Sequence
from pathlib import Path

import av
import numpy as np
from footage import Footage
from mp4_surgery import boxes, sample_ranges
from writing import FPS, GROUP, LONG, Made, encode, quarantined

from preprocessing.encode.mp4_layout import index_first

Kind = Callable[[Path, Footage], Made]
_NOISE = np.random.default_rng(99).integers(0, 256, 1 << 16, dtype=np.uint8).tobytes()


def _index_in_front(folder: Path, footage: Footage, name: str) -> tuple[Path, bytes]:
    path = encode(folder / name, footage(0, LONG))
    return path, index_first(path.read_bytes())


def _partly(path: Path, lost: Sequence[int], frames: int = LONG) -> Made:
    """Frames whose own bytes are gone are lost, and all after them in their group."""
    dirty = set()
    for number in lost:
        dirty |= set(range(number, min(frames, (number // GROUP + 1) * GROUP)))
    clean, start = [], None
    for number in range(frames + 1):
        sound = number < frames and number not in dirty
        if sound and start is None:
            start = number
        if not sound and start is not None:
            clean.append((start / FPS, number / FPS))
            start = None
    reasons = ("corrupt", "truncated", "unsupported")
    return Made(path, "partly", reasons, clean, frames - len(dirty))


def _overwritten(name: str, lost: Callable[[], list[int]], filling: bytes) -> Kind:
    def make(folder: Path, footage: Footage) -> Made:
        path, data = _index_in_front(folder, footage, name)
        changed = bytearray(data)
        ranges = sample_ranges(data)
        for number in lost():
            offset, size = ranges[number]
            changed[offset : offset + size] = (filling * (size // len(filling) + 1))[:size]
        path.write_bytes(changed)
        return _partly(path, lost())

    return make


def _flipped(folder: Path, footage: Footage) -> Made:
    """One byte in the middle of every fortieth frame is another."""
    path, data = _index_in_front(folder, footage, "flipped_bytes.mp4")
    changed = bytearray(data)
    hit = list(range(25, LONG, 40))
    for number in hit:
        offset, size = sample_ranges(data)[number]
        for place in range(offset + size // 3, offset + size // 3 + 12):
            changed[place] ^= 0xA5
    path.write_bytes(changed)
    return _partly(path, hit)


def _zeros_among_b_frames(folder: Path, footage: Footage) -> Made:
    """Sound frames come out of the decoder only after it has met the damage behind them."""
    path = folder / "zeros_among_b_frames.mp4"
    options = {"preset": "fast", "bf": "2", "refs": "1", "g": "60"}
    encode(path, footage(0, LONG), options=options)
    data = bytearray(index_first(path.read_bytes()))
    for offset, size in sample_ranges(bytes(data))[58:63]:
        data[offset : offset + size] = bytes(size)
    path.write_bytes(data)
    return Made(path, "partly", ["corrupt"], [(0.0, 56 / FPS), (120 / FPS, LONG / FPS)])


def _cut_off(tenths: int) -> Kind:
    def make(folder: Path, footage: Footage) -> Made:
        path, data = _index_in_front(folder, footage, f"cut_at_{tenths}_tenths.mp4")
        end = len(data) * tenths // 10
        whole = [
            number for number, (at, size) in enumerate(sample_ranges(data)) if at + size <= end
        ]
        path.write_bytes(data[:end])
        if not whole:
            return quarantined(path, "truncated")
        return Made(path, "partly", ["truncated"], [(0.0, len(whole) / FPS)], len(whole))

    return make


def _cut_off_without_index(folder: Path, footage: Footage) -> Made:
    path = encode(folder / "index_never_written.mp4", footage(0, LONG))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 7 // 10])
    return quarantined(path, "truncated")


def _cut_off_matroska(folder: Path, footage: Footage) -> Made:
    path = encode(folder / "cut_off.mkv", footage(0, LONG))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 6 // 10])
    return _by_packets(path, ["truncated"])


def _hole_in_matroska(folder: Path, footage: Footage) -> Made:
    path = encode(folder / "hole.mkv", footage(0, LONG), container={"cluster_time_limit": "400"})
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + len(data) // 10] = b"\0" * (len(data) // 10)
    path.write_bytes(data)
    return Made(path, "partly", ["corrupt", "truncated"], [(0.0, 2.4), (3.8, LONG / FPS)])


def _lost_transport_packets(folder: Path, footage: Footage) -> Made:
    path = encode(folder / "lost_packets.ts", footage(0, LONG))
    data = path.read_bytes()
    packets = [data[place : place + 188] for place in range(0, len(data), 188)]
    first = len(packets) // 2
    del packets[first : first + 20]
    path.write_bytes(b"".join(packets))
    return Made(path, "partly", ["corrupt"], [(0.0, 2.4), (3.8, LONG / FPS)])


def _by_packets(path: Path, reasons: list[str]) -> Made:
    with av.open(str(path)) as container:
        count = sum(1 for packet in container.demux(video=0) if packet.size)
    return Made(path, "partly", reasons, [(0.0, (count - 1) / FPS)])


def _all_noise(folder: Path, footage: Footage) -> Made:
    """A sound index over nothing but noise."""
    path, data = _index_in_front(folder, footage, "all_noise.mp4")
    changed = bytearray(data)
    start, end = next((s, e) for kind, s, e in boxes(data) if kind == b"mdat")
    filling = _NOISE * ((end - start) // len(_NOISE) + 1)
    changed[start + 8 : end] = filling[: end - start - 8]
    path.write_bytes(changed)
    return quarantined(path, "no_frames", "corrupt")


KINDS: dict[str, Kind] = {
    "noise in one place": _overwritten("noise.mp4", lambda: list(range(72, 78)), _NOISE),
    "noise in three places": _overwritten(
        "noises.mp4", lambda: [17, 18, 83, 84, 121], _NOISE[4096:]
    ),
    "zeros in one place": _overwritten("zeros.mp4", lambda: list(range(61, 69)), b"\0"),
    "zeros among B-frames": _zeros_among_b_frames,
    "one key frame gone": _overwritten("key_frame_gone.mp4", lambda: [80], _NOISE[512:]),
    "flipped bytes": _flipped,
    **{f"cut off at {tenths} tenths": _cut_off(tenths) for tenths in range(1, 10)},
    "cut off, index never written": _cut_off_without_index,
    "cut off, Matroska": _cut_off_matroska,
    "hole in Matroska": _hole_in_matroska,
    "lost transport packets": _lost_transport_packets,
    "nothing but noise": _all_noise,
}
