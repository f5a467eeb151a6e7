"""`xnemo animate`: from model, portrait and driving video to an animated video."""
