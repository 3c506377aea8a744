"""Measurements: each script answers one question and writes its answer to `results/`."""

import lenet_jax  # noqa: F401  # first: quiet under Ctrl-C from here on
