"""Synthetic people as networks trained on real people see them, and how fast they are rendered.

    python benchmarks/bench_synthetic.py --people 200 --frames 10 [--pack DIR]

Speed is per second of CPU time of one process, so that other load falsifies it little.
"""

import argparse
import json
import time

import numpy as np

from preprocessing.faces import make_detector
from preprocessing.synthetic import Renderer, make_motion, sample_motion, sample_person


def speed(size: int, people: int = 4, frames: int = 10) -> float:
    """Frames in a second of CPU time, mean over people, new person and kernels not counted."""
    spent = 0.0
    motion = sample_motion(1, np.arange(frames) / 25)
    for seed in range(people):
        renderer = Renderer(sample_person(seed), size, device="cpu")
        renderer.frame(motion[0])
        began = time.process_time()
        for row in motion:
            renderer.frame(row)
        spent += time.process_time() - began
    return people * frames / spent


def seen_by_networks(
    people: int, frames: int, size: int, pack: str | None, first: int = 0
) -> dict[str, float]:
    """Detection rate, landmark distances in pixels, and cosines of a face recogniser."""
    detector = make_detector("centerface", None)
    recogniser = make_detector("insightface", pack) if pack else None
    found, distances, features = 0, [], []
    for number in range(people):
        renderer = Renderer(sample_person(first + number), size)
        times = np.linspace(0, 20, frames) + number * 0.37
        rows = np.concatenate([make_motion(), sample_motion(first + number, times)[1:]])
        own = []
        for row in rows:
            image = renderer.frame(row)
            faces = detector.detect(image)
            if faces:
                found += 1
                distances.append(faces[0].landmarks_52 - renderer.landmarks(row))
            if recogniser and (met := recogniser.detect(image)):
                own.append(recogniser.embed(image, met[0].landmarks_52))
        features.append(np.array(own))
    offset = np.array(distances)
    centred = offset - np.median(offset, axis=0)
    result = {
        "people": people,
        "frames": people * frames,
        "found_percent": 100 * found / (people * frames),
        "landmark_px_median": float(np.median(np.linalg.norm(offset, axis=-1))),
        "landmark_px_median_without_constant_offset": float(
            np.median(np.linalg.norm(centred, axis=-1))
        ),
    }
    return result | (_cosines(features) if recogniser else {})


def _cosines(features: list[np.ndarray]) -> dict[str, float]:
    """Mean cosines after the mean of all people is subtracted."""
    mean = np.mean([own.mean(0) for own in features if len(own)], axis=0)
    unit = [(own - mean) / np.linalg.norm(own - mean, axis=1, keepdims=True) for own in features]
    same = [(u @ u.T)[np.triu_indices(len(u), 1)] for u in unit]
    different = [(a @ b.T).mean() for i, a in enumerate(unit) for b in unit[:i] if len(a) * len(b)]
    return {
        "cosine_same": float(np.concatenate(same).mean()),
        "cosine_different": float(np.mean(different)),
    }


def main() -> None:
    """Print all numbers as JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--people", type=int, default=200)
    parser.add_argument("--frames", type=int, default=10)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--pack", help="folder of an insightface pack")
    options = parser.parse_args()
    for size in (128, 256, 512):
        print(json.dumps({"size": size, "frames_per_cpu_s": round(speed(size), 1)}), flush=True)
    seen = seen_by_networks(options.people, options.frames, options.size, options.pack)
    print(json.dumps(seen), flush=True)


if __name__ == "__main__":
    main()
