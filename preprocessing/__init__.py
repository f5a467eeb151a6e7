"""Raw talking-head videos in, WebDataset shards with a Parquet index out. No Ray, no torch."""

import os

# ONNX Runtime reports to its makers which models are opened, since 1.29 on Linux as well, from a
# thread that now and then aborts a process whose work is done. It decides as it is imported, by
# whichever library, so this comes before all of them; a person's own setting wins.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
