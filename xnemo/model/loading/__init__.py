"""Loading published weights: X-NeMo, Stable Diffusion 1.x, AnimateDiff."""
