"""Training: two engines, one loop, and checkpoints that any number of workers can pick up."""
