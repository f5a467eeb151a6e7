"""Reading, checking, initialising and writing weights."""
