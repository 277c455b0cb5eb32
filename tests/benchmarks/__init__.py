"""Measurements; commands, not tests: `ops/bench`."""
