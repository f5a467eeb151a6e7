"""Motion numbers: their columns, random motion, and motion from tables."""
