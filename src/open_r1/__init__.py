"""open-r1: one tool that takes a base model to a reasoning model."""

__version__ = "0.1.0"
