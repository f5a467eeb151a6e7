"""Monitoring of a run: log, callbacks, guards, speed and watchdog."""
