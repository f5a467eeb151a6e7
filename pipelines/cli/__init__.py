"""The command line `xnemo`."""
