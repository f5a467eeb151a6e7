"""The demonstration: the whole of xnemo, small, offline and on a CPU."""
