"""What went wrong and what to change: a catalogue of failures, and who tells it to the person."""

from open_r1.troubleshooting.entry import Entry
from open_r1.troubleshooting.matching import explain

__all__ = ["Entry", "explain"]
