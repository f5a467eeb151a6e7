"""Measures of what a trained model does: pictures, motion, identity, and what its latent knows."""
