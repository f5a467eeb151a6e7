"""Encodes clips: H.264 in MP4, the same bytes on every machine."""
