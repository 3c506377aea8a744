"""Measurements: each script answers one question and writes its answer to `results/`."""
