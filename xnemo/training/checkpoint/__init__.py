"""Checkpoints, the bundles inside them, and their upload and download."""
