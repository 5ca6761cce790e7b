"""The loop shared by SFT and GRPO, and what it needs."""
