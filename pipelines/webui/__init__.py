"""A page on this machine for people who would rather drop two files than type a command."""
