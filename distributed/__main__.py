"""``python -m distributed {center,worker,status}``."""

import sys

from distributed.cli import main

if __name__ == "__main__":
    sys.exit(main())
