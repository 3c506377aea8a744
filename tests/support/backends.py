"""The backends of `ops.conv_pool_relu` that tests cover."""

import pytest

from lenet_jax.nn import cpu_kernels, native

NATIVE = pytest.param("native", marks=pytest.mark.compiler)


def at_hand(size: int) -> list[str]:
    """The backends available here for kernels of this size."""
    has_native = size == cpu_kernels.SIZE and native.missing() is None
    return ["plain", "phase", *(["native"] if has_native else [])]
