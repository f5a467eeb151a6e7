"""Training: the loop, one step, its losses, and the state that checkpoints save and restore."""
