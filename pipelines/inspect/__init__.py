"""`xnemo inspect`: contents of a data set, bundle, run, weights, shard, video or image."""
