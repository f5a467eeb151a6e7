"""Noise schedule, windows, guidance and sampling of the latent video."""
