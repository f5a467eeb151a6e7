"""`xnemo tune`: hyperparameter search through Ray Tune."""
