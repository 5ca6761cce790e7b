"""The one place that wraps models for distribution (Hugging Face Accelerate)."""
