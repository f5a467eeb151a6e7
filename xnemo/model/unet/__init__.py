"""The denoiser, the reference network and the layers both are built from."""
