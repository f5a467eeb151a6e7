"""Where Ray, MLflow and the command line live: jobs built from `preprocessing` and `xnemo`."""
