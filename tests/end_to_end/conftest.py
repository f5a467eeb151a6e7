"""Lets end-to-end tests use the drawn footage of the fault tests."""

import sys
from pathlib import Path

for folder in ("faults", "."):
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / folder))
