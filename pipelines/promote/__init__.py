"""The champion, the served bundle of a series of runs: only a better one replaces it."""

from typing import Literal

#: What bundles are compared by.
Metric = Literal["motion_correlation", "l1", "psnr", "ssim"]
