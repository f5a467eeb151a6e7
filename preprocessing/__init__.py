"""Raw talking-head videos in, WebDataset shards with a Parquet index out. No Ray, no torch."""
