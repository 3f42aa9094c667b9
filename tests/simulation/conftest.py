"""Makes ``tests.simulation`` importable however pytest was started; `scripts/simulate` imports the same modules."""

import sys
from pathlib import Path

ROOT = str(Path(__file__).parents[2])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)
