"""Stages in a YAML file, each in a process and a folder of its own, skipped while its inputs have not changed."""
