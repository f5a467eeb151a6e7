"""Watching a run: logs, guards against divergence and stalls, speed."""
