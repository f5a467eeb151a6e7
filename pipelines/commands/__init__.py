"""The commands of `xnemo`, one module a room of the house; each only reads options and prints."""
