"""The extra measurements of a config: what the functions are called in a run's results."""

from collections.abc import Sequence

from lenet_jax.config.source import split

TAKEN = ("accuracy", "examples", "loss", "mistakes")  # names of other results
AVERAGED = "ema_"  # how results of the averaged weights begin


def names(measurements: Sequence[str]) -> list[str]:
    """The names of measurements: those of their functions.

    Args:
      measurements: as `config.train.measurements` has them.
    """
    return [split(each)[1] for each in measurements]


def are_distinct(measurements: Sequence[str]) -> bool:
    """Whether no two measurements have the same name."""
    return len(set(names(measurements))) == len(measurements)


def are_free(measurements: Sequence[str]) -> bool:
    """Whether no measurement has the name of another result."""
    return not any(name in TAKEN or name.startswith(AVERAGED) for name in names(measurements))
