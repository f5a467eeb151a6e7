"""Metrics of a trained model: image error, motion, identity, and probes of the motion latent."""
