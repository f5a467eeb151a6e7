"""Runs work on hostile input in child processes with time, memory and crash limits."""
