"""Animating portraits: driving video, face crops, the animator, the diffusers pipeline."""
