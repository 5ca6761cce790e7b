"""``python -m open_r1`` is the command ``open-r1``."""

import sys

from open_r1.cli import main

if __name__ == "__main__":
    sys.exit(main())
