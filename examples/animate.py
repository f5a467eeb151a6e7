"""Animate a portrait with the motion of a video.

python examples/animate.py runs/first/bundle portrait.jpg driving.mp4 animated.mp4
"""

import sys

from pipelines.animate.job import animate

model, portrait, driving, output = sys.argv[1:5]
result = animate(model, portrait, driving, output)
print(f"{result.frames} frames at {result.fps:g} fps in {result.output}")
