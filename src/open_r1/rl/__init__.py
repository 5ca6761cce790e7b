"""Reinforcement learning as pure functions on tensors: advantages, losses, importance ratios, filters."""
