"""The motion encoder: from a face crop to the 1-D motion latent."""
