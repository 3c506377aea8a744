"""The accuracy of weights in every network that they may be of, where a file does not say which."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import cast, get_args

import jax.numpy as jnp
import numpy as np

from lenet_jax.data.dataset import Dataset, Split
from lenet_jax.errors import UserError
from lenet_jax.inference.description import Description
from lenet_jax.nn import ops
from lenet_jax.nn.lenet import LeNet

EXAMPLES = 2000  # validation images that the best networks are compared on
FIRST = 200  # those of them that all networks are compared on
KEPT = 10  # networks that are compared on all of them
# Usual arguments of `transforms.Normalize`, by channels.
STATISTICS: dict[int, list[tuple[tuple[float, ...], tuple[float, ...]]]] = {
    1: [((0.1307,), (0.3081,)), ((0.5,), (0.5,)), ((0.0,), (1.0,)), ((0.286,), (0.353,))],
    3: [
        ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),
        ((0.5,) * 3, (0.5,) * 3),
        ((0.0,) * 3, (1.0,) * 3),
        ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ],
}


@dataclasses.dataclass(frozen=True)
class Trial:
    """A network that the weights may be of.

    Attributes:
      given: what it is.
      accuracy: on validation images, in 0..1.
      loss: the mean cross-entropy: of equal accuracies the lower is the likelier.
    """

    given: Description
    accuracy: float = 0.0
    loss: float = 0.0

    def flags(self) -> str:
        """The flags that say so: `--activation=tanh --pool=avg …`."""
        given = self.given
        values = {name: getattr(given, name) for name in ("activation", "pool", "padding", "fit")}
        for name, numbers in (("mean", given.mean), ("std", given.std)):
            assert isinstance(numbers, Sequence)
            values[name] = ",".join(f"{number:g}" for number in numbers)
        return " ".join(f"--{name}={value}" for name, value in values.items())


def try_all(
    model: LeNet, given: Description, load: Callable[[int, str], Dataset]
) -> tuple[list[Trial], int]:
    """Evaluates the weights in each network: first on a few images, the best ones on all.

    Args:
      model: the weights, in any of them; its attributes are changed.
      given: what is known and not varied.
      load: gives the data at an image size and a fit.

    Returns:
      The best networks, the most accurate first, and how many were tried.

    Raises:
      UserError: the data cannot be given any of the sizes.
    """
    padded = model.image_size + 2 * model.padding
    splits: dict[tuple[int, str], Split] = {}
    errors: list[UserError] = []
    for padding, fit in ((0, "pad"), (0, "resize"), (2, "pad")):
        key = padding if given.padding is None else given.padding, given.fit or fit
        try:
            if key not in splits:
                splits[key] = load(padded - 2 * key[0], key[1]).valid
        except UserError as error:
            errors.append(error)
    if not splits:
        raise errors[0]
    activations = [given.activation] if given.activation else get_args(ops.Activation)
    pools = [given.pool] if given.pool else get_args(ops.Pool)
    forms = itertools.product(activations, pools, splits, _statistics(given, model))
    every = [
        Trial(Description(activation, pool, padding, mean, std, fit))
        for activation, pool, (padding, fit), (mean, std) in forms
    ]
    first = _ranked([_measure(model, trial, splits, FIRST) for trial in every])
    return _ranked([_measure(model, trial, splits, EXAMPLES) for trial in first[:KEPT]]), len(every)


def _ranked(trials: Sequence[Trial]) -> list[Trial]:
    return sorted(trials, key=lambda trial: (-trial.accuracy, trial.loss))


def _measure(
    model: LeNet, trial: Trial, splits: dict[tuple[int, str], Split], examples: int
) -> Trial:
    given = trial.given
    assert given.padding is not None and given.fit is not None
    split = splits[given.padding, given.fit]
    images, labels = jnp.asarray(split.images[:examples]), jnp.asarray(split.labels[:examples])
    scaled = [[255 * x for x in cast(Sequence[float], value)] for value in (given.mean, given.std)]
    model.activation = cast(ops.Activation, given.activation)
    model.pool = cast(ops.Pool, given.pool)
    model.padding, model.image_size = given.padding, images.shape[1]
    # Not compiled as a whole: its operations are shared between the networks.
    logits = model.activations(ops.normalise(images, *scaled))["fc3"]
    accuracy = float(jnp.mean(logits.argmax(axis=1) == labels))
    loss = float(np.mean(np.asarray(ops.cross_entropy(logits, labels))))
    return dataclasses.replace(trial, accuracy=accuracy, loss=loss)


def _statistics(
    given: Description, model: LeNet
) -> Sequence[tuple[Sequence[float], Sequence[float]]]:
    channels = model.conv1.in_features
    if given.mean is None or given.std is None:
        return STATISTICS.get(channels, [((0.0,) * channels, (1.0,) * channels)])
    mean, std = ([x] if isinstance(x, int | float) else x for x in (given.mean, given.std))
    return [(mean, std)]
