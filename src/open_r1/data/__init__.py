"""From rows to packs: sources, mixture, columns, chat format, cached tokens, packing plan, loader."""
