"""`xnemo train`: distributed training through Ray Train."""
