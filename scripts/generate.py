"""The published command ``python scripts/generate.py --dataset … --model …``; the same as ``open-r1 generate``."""

from __future__ import annotations

if __package__ in (None, ""):
    import pathlib
    import sys

    sys.path[0] = str(pathlib.Path(__file__).resolve().parents[1] / "src")

import sys

from open_r1.cli import main

if __name__ == "__main__":
    sys.exit(main(["generate", *sys.argv[1:]]))
