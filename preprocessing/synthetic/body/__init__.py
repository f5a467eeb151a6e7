"""The head-and-shoulders mesh: asset, subdivision, shape of a person, pose."""
