"""`xnemo animate --list`: many portraits and driving videos, on one machine or a Ray cluster."""
