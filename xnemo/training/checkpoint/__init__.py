"""Saving and loading: checkpoints, portable bundles, uploads."""
