"""The accuracy of weights in every network that they may be of, where a file does not say which."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, cast, get_args

import jax.numpy as jnp
import numpy as np

from lenet_jax.data.dataset import Dataset, Split
from lenet_jax.errors import UserError
from lenet_jax.inference.description import Description
from lenet_jax.nn import ops
from lenet_jax.nn.lenet import LeNet

EXAMPLES = 1000  # validation images
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


class Trial(NamedTuple):
    """One network that the weights may be of, and its accuracy in 0..1."""

    accuracy: float
    given: Description

    def flags(self) -> str:
        """The flags that say so: `--activation=tanh --pool=avg …`."""
        given = self.given
        values = {name: getattr(given, name) for name in ("activation", "pool", "padding", "fit")}
        for name, numbers in (("mean", given.mean), ("std", given.std)):
            assert isinstance(numbers, Sequence)
            values[name] = ",".join(f"{number:g}" for number in numbers)
        return " ".join(f"--{name}={value}" for name, value in values.items())


def try_all(model: LeNet, given: Description, load: Callable[[int, str], Dataset]) -> list[Trial]:
    """Evaluates the weights in each network, the most accurate first.

    Args:
      model: the weights, in any of them; its attributes are changed.
      given: what is known and not varied.
      load: gives the data at an image size and a fit.

    Raises:
      UserError: the data cannot be given any of the sizes.
    """
    padded = model.image_size + 2 * model.padding
    paddings = [0, 2] if given.padding is None else [given.padding]
    fits = ["pad", "resize"] if given.fit is None else [given.fit]
    trials, reasons = [], []
    for padding, fit in itertools.product(paddings, fits):
        model.padding, model.image_size = padding, padded - 2 * padding
        try:
            dataset = load(model.image_size, fit)
        except UserError as error:
            reasons.append(error)
            continue
        trials += [
            Trial(accuracy, Description(*names, padding, mean, std, fit=fit))
            for names, mean, std, accuracy in _accuracies(model, given, dataset.valid)
        ]
    if not trials:
        raise reasons[0]
    return sorted(trials, key=lambda trial: -trial.accuracy)


def _accuracies(
    model: LeNet, given: Description, split: Split
) -> Iterator[tuple[tuple[str, str], Sequence[float], Sequence[float], float]]:
    activations = get_args(ops.Activation) if given.activation is None else [given.activation]
    pools = get_args(ops.Pool) if given.pool is None else [given.pool]
    images, labels = jnp.asarray(split.images[:EXAMPLES]), split.labels[:EXAMPLES]
    for mean, std in _statistics(given, split.images.shape[-1]):
        pixels = ops.normalise(images, *([255 * x for x in numbers] for numbers in (mean, std)))
        for activation, pool in itertools.product(activations, pools):
            model.activation, model.pool = cast(ops.Activation, activation), cast(ops.Pool, pool)
            # Not compiled as a whole: its operations are shared between the networks.
            predictions = np.asarray(model.activations(pixels)["fc3"]).argmax(axis=1)
            yield (activation, pool), mean, std, float(np.mean(predictions == labels))


def _statistics(
    given: Description, channels: int
) -> Sequence[tuple[Sequence[float], Sequence[float]]]:
    if given.mean is None or given.std is None:
        return STATISTICS.get(channels, [((0.0,) * channels, (1.0,) * channels)])
    mean, std = ([x] if isinstance(x, int | float) else x for x in (given.mean, given.std))
    return [(mean, std)]
