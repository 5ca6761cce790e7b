"""Tests of open_r1.rewards."""
