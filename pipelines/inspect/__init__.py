"""`xnemo inspect`: what a data set, bundle, run, weight file, shard, video or picture holds."""
