"""Noise schedule, guidance and sampling."""
