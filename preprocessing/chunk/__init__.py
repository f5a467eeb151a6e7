"""One chunk of one source: shots, faces, tracks, clips, scores, filters, encoded samples."""
