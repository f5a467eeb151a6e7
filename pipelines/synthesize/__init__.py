"""Writes videos of synthetic people with known motion, on this machine or a Ray cluster."""
