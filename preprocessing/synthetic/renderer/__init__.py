"""Kernels that place, rasterise and shade, and the arrays they read."""
