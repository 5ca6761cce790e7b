"""Models: loading, attention, the head, LoRA, export."""
