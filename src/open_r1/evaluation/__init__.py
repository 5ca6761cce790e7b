"""Benchmarks: tasks, the runner that draws and verifies answers, and the statistics of what came out."""
