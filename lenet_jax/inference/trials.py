"""The accuracy of weights in every network that they may be of, where a file does not say which."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import cast, get_args

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from lenet_jax.data.dataset import Dataset, Split
from lenet_jax.errors import UserError
from lenet_jax.inference.description import Description
from lenet_jax.nn import ops
from lenet_jax.nn.lenet import LeNet

EXAMPLES = 2000  # validation images that the best networks are compared on
FIRST = 200  # those of them that all networks are compared on
KEPT = 10  # networks that are given; twice as many are compared on all images
MARGIN = 0.03  # by which losses may differ, as they do between relu and leaky_relu
# Usual arguments of `transforms.Normalize`, by channels, the commonest first.
STATISTICS: dict[int, list[tuple[tuple[float, ...], tuple[float, ...]]]] = {
    1: [((0.1307,), (0.3081,)), ((0.0,), (1.0,)), ((0.5,), (0.5,)), ((0.286,), (0.353,))],
    3: [
        ((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)),
        ((0.5,) * 3, (0.5,) * 3),
        ((0.0,) * 3, (1.0,) * 3),
        ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ],
}


def _nothing() -> np.ndarray:
    return np.zeros(1)


@dataclasses.dataclass(frozen=True)
class Trial:
    """A network that the weights may be of.

    Attributes:
      given: what it is.
      rarity: 0 for the commonest network; higher the less common its attributes are.
      right: of each image, whether its class is the most likely one.
      losses: of each image.
      tied: whether it may be the best one: no other is better by more than the error of sampling.
    """

    given: Description
    rarity: int = 0
    right: Bool[np.ndarray, " n"] = dataclasses.field(default_factory=_nothing, compare=False)
    losses: Float[np.ndarray, " n"] = dataclasses.field(default_factory=_nothing, compare=False)
    tied: bool = False

    @property
    def accuracy(self) -> float:
        """On these images, in 0..1."""
        return float(self.right.mean())

    @property
    def loss(self) -> float:
        """The mean cross-entropy: of equal accuracies the lower is the likelier."""
        return float(self.losses.mean())

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
      The best networks, of which no two give the same, and how many were tried. First are those
      that are tied, the commonest first; then the others, the most accurate first.

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
    options = activations, pools, _distinct(splits), _statistics(given, model)
    every = [
        Trial(Description(activation, pool, padding, mean, std, fit), rarity=sum(ranks))
        for ranks, (activation, pool, (padding, fit), (mean, std)) in zip(
            itertools.product(*map(range, map(len, options))),
            itertools.product(*options),
            strict=True,
        )
    ]
    first = _ranked([_measure(model, trial, splits, FIRST) for trial in every])
    best = _ranked([_measure(model, trial, splits, EXAMPLES) for trial in first[: 2 * KEPT]])
    return best[:KEPT], len(every)


def _distinct(splits: Mapping[tuple[int, str], Split]) -> list[tuple[int, str]]:
    """The first of each of those that have the same padding and images."""
    keys: list[tuple[int, str]] = []
    for key, split in splits.items():
        if not any(
            key[0] == other[0] and np.array_equal(split.images, splits[other].images)
            for other in keys
        ):
            keys.append(key)
    return keys


def _ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Those that may be the best, the commonest first; then the others, the most accurate first.

    Of those that give the same, only the commonest is kept.
    """
    distinct: dict[tuple[float, float], Trial] = {}
    for trial in sorted(trials, key=lambda trial: trial.rarity):
        distinct.setdefault((trial.accuracy, round(trial.loss, 5)), trial)
    ranked = sorted(distinct.values(), key=lambda trial: (-trial.accuracy, trial.loss))
    tied = [trial for trial in ranked if not _is_above(ranked[0].right - 1.0 * trial.right)]
    least = min(tied, key=lambda trial: trial.loss)
    tied = [trial for trial in tied if not _is_above(trial.losses - (1 + MARGIN) * least.losses)]
    ranked = [dataclasses.replace(trial, tied=trial in tied) for trial in ranked]
    return sorted(ranked, key=lambda trial: (not trial.tied, trial.rarity * trial.tied))


def _is_above(differences: Float[np.ndarray, " n"]) -> bool:
    """Whether the mean of differences between images is above 0 by more than two standard errors.

    Infinite losses, of networks whose activations overflow, are.
    """
    if not np.isfinite(differences).all():
        return True
    return bool(differences.mean() > 2 * differences.std() / math.sqrt(len(differences)))


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
    right = np.asarray(logits.argmax(axis=1) == labels)
    losses = np.asarray(ops.cross_entropy(logits, labels), np.float64)
    return dataclasses.replace(trial, right=right, losses=losses)


def _statistics(
    given: Description, model: LeNet
) -> Sequence[tuple[Sequence[float], Sequence[float]]]:
    channels = model.conv1.in_features
    if given.mean is None or given.std is None:
        return STATISTICS.get(channels, [((0.0,) * channels, (1.0,) * channels)])
    mean, std = ([x] if isinstance(x, int | float) else x for x in (given.mean, given.std))
    return [(mean, std)]
