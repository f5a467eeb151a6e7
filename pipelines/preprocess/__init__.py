"""`xnemo preprocess`: the Ray Data job from raw videos to shards."""
