"""Facts of this machine: limits, disks, caches, cards, and the settings that are kept of it."""
