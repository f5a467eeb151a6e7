"""Reading, checking, initialising and writing weight files."""
