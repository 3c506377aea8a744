"""Trains boosted LeNet-4: its second and third network on what those before get wrong.

    python -m experiments.boosted --workdir=runs/boosted

Three runs of `configs/lenet_1998.py:lenet4`, in folders of WORKDIR: the first on the training
images; the second on distorted ones, of which the first gets half right and half wrong; the third
on distorted ones on which the first two disagree. Then writes `boosted.safetensors`, the
`boosted_lenet4` of the three, which `lenet_jax.load`, `predict`, `inspect` and `export` take, and
prints test accuracies. The same command resumes. Further arguments, `--config.KEY=VALUE`, are for
all three runs.

Source: Drucker, Schapire, Simard, "Boosting performance in neural networks", 1993.
"""

import argparse
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Bool, Int, UInt8

import lenet_jax
from lenet_jax import config as configs
from lenet_jax import data, machine
from lenet_jax.data.dataset import Dataset, Split
from lenet_jax.device_defaults import defaults_of
from lenet_jax.inference.network import Network
from lenet_jax.nn import ops
from lenet_jax.nn.calls import call
from lenet_jax.nn.rewrite import fast_forms
from lenet_jax.storage import weights
from lenet_jax.training.augment import augment

QUESTION = "How accurate are three LeNet-4, of which each learns what those before get wrong?"
# Uniform in ± these: pixels, degrees, a factor, degrees.
STRENGTHS = {"shift": 2.0, "rotate": 10.0, "scale": 0.15, "shear": 15.0}
FILE = "boosted.safetensors"
MOST_PASSES = 500  # through the training images, to find those that a network needs

Accept = Callable[[UInt8[np.ndarray, "n h w c"], Int[np.ndarray, " n"]], Bool[np.ndarray, " n"]]


def boost(config: configs.Config, dataset: Dataset, folder: Path, count: int) -> Network:
    """The three networks as one.

    Args:
      config: of a LeNet-4; `seed` is the first one's, the others have the next ones.
      dataset: its data.
      folder: has the runs, and the file of the network.
      count: images to find for the second network, and for the third.
    """

    def train(number: int, split: Split) -> Network:
        own = configs.replace(config, {"seed": config.seed + number})
        arrays = split.images, split.labels, dataset.test.images, dataset.test.labels
        return lenet_jax.train(own, folder / f"network{number}", data=arrays)

    def find(accept: Accept, count: int, key: int) -> Split:
        return find_distorted(dataset.train, accept, count, jax.random.key(config.seed + key))

    first = train(0, join(dataset.train, dataset.valid))
    wrong = find(lambda x, y: predict(first, x) != y, count // 2, 1)
    right = find(lambda x, y: predict(first, x) == y, count // 2, 2)
    second = train(1, join(wrong, right))
    third = train(2, find(lambda x, _: predict(first, x) != predict(second, x), count, 3))
    file = folder / FILE
    write_boosted(file, [first, second, third])
    return lenet_jax.load(file)


def find_distorted(split: Split, accept: Accept, count: int, key: jax.Array) -> Split:
    """The first images that are accepted, of those of a split distorted again and again.

    Raises:
      SystemExit: there are too few.
    """

    @jax.jit
    def distort(key: jax.Array, images: jax.Array) -> jax.Array:
        distorted = augment(key, images.astype(np.float32), **STRENGTHS)
        return jnp.rint(distorted).astype(np.uint8)

    images, labels, missing = [], [], count
    for number in range(MOST_PASSES):
        if missing <= 0:
            return Split(np.concatenate(images)[:count], np.concatenate(labels)[:count])
        pixels = np.asarray(distort(jax.random.fold_in(key, number), split.images))
        accepted = accept(pixels, split.labels)
        images.append(pixels[accepted])
        labels.append(split.labels[accepted])
        missing -= accepted.sum()
    raise SystemExit(f"{MOST_PASSES} passes through the images give {count - missing} of {count}")


def predict(network: Network, images: UInt8[np.ndarray, "n h w c"]) -> Int[np.ndarray, " n"]:
    """The classes, in the fast forms of training: millions of images are looked through."""
    return network.run(fast_logits, images).argmax(axis=-1)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def fast_logits(
    graphdef: nnx.GraphDef,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    params: nnx.State,
    images: jax.Array,
) -> jax.Array:
    """A program for `Network.run`: the output, by what suits the device."""

    def forward(params: nnx.State, images: jax.Array) -> jax.Array:
        return call(nnx.merge(graphdef, params), ops.normalise(images, mean, std))

    rewrites = defaults_of(machine.devices()[0]).rewrites
    return (fast_forms(forward) if rewrites else forward)(params, images)


def join(one: Split, other: Split) -> Split:
    """The images of both."""
    labels = np.concatenate([one.labels, other.labels])
    return Split(np.concatenate([one.images, other.images]), labels)


def write_boosted(file: Path, networks: Sequence[Network]) -> None:
    """Writes the weights of one network of several, which adds their outputs.

    Each normalises images with the statistics of its own data: the first's are taken, and the first
    convolutions, which have no padding, changed to give the same.
    """
    (mean,), (std,) = networks[0].mean, networks[0].std
    arrays = {}
    for number, network in enumerate(networks):
        (own_mean,), (own_std,) = network.mean, network.std
        own = {name: np.asarray(array) for name, array in network.state_dict.items()}
        kernel = own["c1.kernel"]
        own["c1.bias"] = own["c1.bias"] + kernel.sum((0, 1, 2)) * (mean - own_mean) / own_std
        own["c1.kernel"] = kernel * np.float32(std / own_std)
        arrays |= {f"networks.{number}.{name}": a.astype(np.float32) for name, a in own.items()}
    metadata = networks[0].metadata | {"network": "boosted_lenet4", "arguments": "{}"}
    weights.write(file, arrays, metadata, force=True)


def main() -> None:
    """Trains the three, and prints what each and all get right."""
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--workdir", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--images", type=int, default=55_000, help="for each of the last two")
    arguments, rest = parser.parse_known_args()
    overrides = dict(each.removeprefix("--config.").split("=", 1) for each in rest)
    config = configs.load("configs/lenet_1998.py:lenet4", overrides.items())
    dataset = data.load_section(config.data)
    network = boost(config, dataset, arguments.workdir, arguments.images)
    each = [lenet_jax.load(arguments.workdir / f"network{number}") for number in range(3)]
    for name, own in zip(("first", "second", "third", "sum"), (*each, network), strict=True):
        print(f"{name}: {100 * own.evaluate(dataset)['accuracy']:.2f} % of the test images")


if __name__ == "__main__":
    main()
