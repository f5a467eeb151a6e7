"""Loading weights published by others: X-NeMo, Stable Diffusion 1.x, AnimateDiff."""
