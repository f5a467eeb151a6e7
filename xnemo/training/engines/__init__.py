"""Engines: one network with its optimiser and weight average, on one or several workers."""
