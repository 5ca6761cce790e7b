"""The catalogue: chapters of entries, as data; the order in which they are tried is the order of the page."""

from __future__ import annotations

from open_r1.troubleshooting.catalogue.chips import CHIPS
from open_r1.troubleshooting.catalogue.data import DATA
from open_r1.troubleshooting.catalogue.disks import DISKS
from open_r1.troubleshooting.catalogue.hub import HUB
from open_r1.troubleshooting.catalogue.launching import LAUNCHING
from open_r1.troubleshooting.catalogue.memory import MEMORY
from open_r1.troubleshooting.catalogue.model_files import MODEL_FILES
from open_r1.troubleshooting.catalogue.packages import PACKAGES
from open_r1.troubleshooting.catalogue.several_gpus import SEVERAL_GPUS
from open_r1.troubleshooting.catalogue.signals import SIGNALS
from open_r1.troubleshooting.catalogue.vllm import VLLM
from open_r1.troubleshooting.entry import Entry, Group

GROUPS: tuple[Group, ...] = (
    VLLM,
    MEMORY,
    SIGNALS,
    CHIPS,
    SEVERAL_GPUS,
    DISKS,
    HUB,
    MODEL_FILES,
    DATA,
    PACKAGES,
    LAUNCHING,
)
ENTRIES: tuple[Entry, ...] = tuple(entry for group in GROUPS for entry in group.entries)
