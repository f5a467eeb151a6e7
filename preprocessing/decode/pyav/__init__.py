"""The reference decoder, on PyAV: sequential, single-threaded, tolerant of damage."""
