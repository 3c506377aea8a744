"""Scripts that answer one question each, and write the answer to `results/`."""
