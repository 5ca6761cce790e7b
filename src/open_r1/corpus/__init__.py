"""Making data: answers drawn, verified, kept."""
