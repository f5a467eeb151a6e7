"""The default decoder, on PyAV: sequential, one thread, tolerant of damage."""
