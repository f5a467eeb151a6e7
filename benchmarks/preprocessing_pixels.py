"""Rows of `bench_preprocessing` about frames: what one process does with them, and how well."""

import io
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import cv2
import numpy as np
import plain_preprocessing
from preprocessing_setting import KEEP_ALL, Setting, Tally, process_here
from reporting import Report

from preprocessing.chunk import finish, records
from preprocessing.chunk.records import ClipResult
from preprocessing.chunk.tube import tube_box
from preprocessing.config import PreprocessConfig
from preprocessing.decode import Frame, open_video
from preprocessing.decode.pyav import packet_loop
from preprocessing.encode.clip_encoder import encode_clip
from preprocessing.faces import make_detector
from preprocessing.storage.sample import unpack_arrays


def against_plain_script(report: Report, setting: Setting) -> None:
    """Whole job and analysis alone, frames per second of one core, B0 and ours by turns."""
    detector = make_detector("centerface", None, plain_preprocessing.DETECTOR_SIDE)
    detector.detect(np.zeros((360, 640, 3), np.uint8))
    plain: Counter[str] = Counter()
    plain_frames, ours = 0, Tally()
    process_here(setting.clips[0], setting.config, Tally())  # loads the detector
    # The task's own stages are to be told in CPU time as well.
    with _patched(records, "time", SimpleNamespace(perf_counter=time.process_time)):
        for path in setting.clips:
            try:
                frames, seconds = plain_preprocessing.run(path, detector)
            except Exception as error:
                print(f"B0 cannot read {path.name}: {error}"[:100])
                continue
            plain_frames += frames
            plain.update(seconds)
            process_here(path, setting.config, ours)
    b0, b1 = plain_frames / sum(plain.values()), ours.frames / ours.seconds
    report.add("whole job, frames per second per core: B0", b0, "frames/s", note=_stages(plain))
    report.add(
        "whole job, frames per second per core: ours", b1, "frames/s", note=_stages(ours.stages)
    )
    report.add("whole job / B0", b1 / b0, "x", bar=3, note=setting.note())
    dense = plain_frames / (plain["decode"] + plain["detect"])
    report.add("analysis alone / B0", ours.frames / ours.analysis_s / dense, "x", bar=5)


def tubes_against_dense_detection(report: Report, setting: Setting) -> None:
    """Our tubes against those of the same clips with the detector run on every frame."""
    config = replace(setting.config, filters=KEEP_ALL)
    dense_config = replace(config, detect=replace(config.detect, stride=1))
    overlaps: list[float] = []
    lost = 0
    with _without_encoding():
        for path in setting.clips:
            ours, dense = Tally(), Tally()
            process_here(path, config, ours)
            process_here(path, dense_config, dense)
            dense_boxes = [unpack_arrays(clip.npz) for _, clip in dense.clips if clip.npz]
            for _, clip in ours.clips:
                if not clip.npz:
                    continue
                overlap = _tube_overlap(clip, dense_boxes, _frame_hw(path), config)
                lost += overlap is None
                overlaps += [] if overlap is None else [overlap]
    median, low = np.percentile(overlaps, [50, 5])
    note = setting.note(f"{len(overlaps)} clips, {lost} without a dense track")
    report.add("tube IoU with dense detection, median", float(median), "", bar=0.97, note=note)
    report.add("tube IoU with dense detection, 5th percentile", float(low), "", bar=0.92)


def bytes_and_fidelity(report: Report, setting: Setting) -> None:
    """Bytes of a stored frame of 512² against JPEG, and how close it is to the crop."""
    ours = jpeg = count = 0
    psnr: list[float] = []

    def measured(frames: Iterator[av.VideoFrame], fps: float, config: Any) -> bytes:
        nonlocal ours, jpeg, count
        crops = list(frames)
        mp4 = encode_clip(crops, fps, config)
        if crops[0].width != setting.config.tube.size:
            return mp4
        with av.open(io.BytesIO(mp4)) as container:
            stored = [Frame(frame, 0, 0).rgb() for frame in container.decode(video=0)]
        given = [Frame(frame, 0, 0).rgb() for frame in crops]
        error = np.mean(
            [((a.astype(float) - b) ** 2).mean() for a, b in zip(stored, given, strict=True)]
        )
        psnr.append(float(10 * np.log10(255**2 / error)))
        quality = [cv2.IMWRITE_JPEG_QUALITY, 95]
        jpeg += sum(len(cv2.imencode(".jpg", picture[..., ::-1], quality)[1]) for picture in given)
        ours, count = ours + len(mp4), count + len(crops)
        return mp4

    with _patched(finish, "encode_clip", measured):
        for path in setting.clips:
            process_here(path, setting.config, Tally())
    if not count:
        report.add("bytes per kept 512² frame / JPEG q95", None, "", note="no clip of 512² here")
        return
    share = 100 * ours / jpeg
    note = f"{ours / count:.0f} bytes a frame, {count} frames"
    report.add(
        "bytes per kept 512² frame / JPEG q95", share, "%", bar=25, lower_is_better=True, note=note
    )
    report.add(
        "PSNR to the crop, worst clip",
        min(psnr),
        "dB",
        bar=40,
        note=f"median {np.median(psnr):.1f}",
    )


def passes_over_pixels(report: Report, setting: Setting) -> None:
    """How often a kept frame is decoded and lossily encoded."""
    decoded = encoded = 0
    decode = packet_loop.PacketLoop._decode

    def counted(loop: packet_loop.PacketLoop, packet: av.Packet) -> list[av.VideoFrame] | None:
        nonlocal decoded
        pictures = decode(loop, packet)
        decoded += len(pictures or ())
        return pictures

    def encoding(frames: Iterator[av.VideoFrame], fps: float, config: Any) -> bytes:
        nonlocal encoded
        pictures = list(frames)
        encoded += len(pictures)
        return encode_clip(pictures, fps, config)

    tally = Tally()
    with (
        _patched(packet_loop.PacketLoop, "_decode", counted),
        _patched(finish, "encode_clip", encoding),
    ):
        for path in setting.clips[:10]:
            process_here(path, setting.config, tally)
    kept = sum(clip.row["frames"] for _, clip in tally.clips if clip.mp4)
    # Opening a source decodes its first frame to learn its shape; that is no pass over the source.
    passes = (decoded - len(setting.clips[:10])) / tally.frames
    report.add("full decodes per kept second", passes, "", bar=1, lower_is_better=True)
    report.add(
        "lossy encodes per kept frame",
        encoded / kept if kept else None,
        "",
        bar=1,
        lower_is_better=True,
    )


def _frame_hw(path: Path) -> tuple[int, int]:
    with open_video(path) as reader:
        return reader.info.height, reader.info.width


def _tube_overlap(
    clip: ClipResult, dense: list[Any], frame_hw: tuple[int, int], config: PreprocessConfig
) -> float | None:
    """IoU of a clip's tube with the tube around the densely detected boxes at the same times."""
    ours = unpack_arrays(clip.npz)
    boxes: list[np.ndarray] = []
    for time_us, box in zip(ours.pts_us, ours.bbox, strict=True):
        near = [d.bbox[i] for d in dense for i in np.flatnonzero(d.pts_us == time_us)[:1]]
        if near:
            best = max(near, key=lambda other: _iou(other, box))
            if _iou(best, box) > 0.3:
                boxes.append(best)
    if len(boxes) < len(ours.bbox) * 0.8:
        return None
    stacked = np.stack(boxes)
    union = np.concatenate([stacked[:, :2].min(0), stacked[:, 2:].max(0)])
    scale, offset = ours.src_to_crop[0, 0], ours.src_to_crop[:, 2]
    corner = -offset / scale
    tube = np.concatenate([corner, corner + clip.row["tube_px"]])
    return _iou(tube, tube_box(union, frame_hw, config.tube))


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    inner = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    overlap = float(np.prod(np.maximum(inner, 0)))
    return overlap / (float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - overlap)


def _stages(seconds: Counter[str]) -> str:
    total = sum(seconds.values())
    return " ".join(f"{stage} {100 * s / total:.0f} %" for stage, s in seconds.most_common(6))


@contextmanager
def _patched(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def _without_encoding() -> Iterator[None]:
    with _patched(finish, "encode_clip", lambda frames, fps, config: b"-"):
        yield
