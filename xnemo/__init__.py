"""The method: network, diffusion, data, training, evaluation and animation. No Ray, no MLflow."""
