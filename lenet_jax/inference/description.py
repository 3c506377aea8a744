"""What a weights file may not say of its network: activation, pooling, padding, normalisation."""

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np

from lenet_jax.errors import UserError, printable
from lenet_jax.inference.state_dict import make_metadata
from lenet_jax.machine import next_command
from lenet_jax.nn import ops
from lenet_jax.reading import to_float

DEFAULTS: Mapping[str, Any] = {"activation": "relu", "pool": "max", "padding": 0}
MAX_PADDING = 16
TINY = np.finfo(np.float32).tiny
NEAR = 0.01  # means and deviations, of pixels in 0..1, that are taken for equal
EXAMPLES = {1: (0.1307, 0.3081)}  # mean and standard deviation that errors show, by channels


@dataclasses.dataclass(frozen=True)
class Description:
    """What the user says of a weights file; it overrides what the file says. None: nothing.

    Attributes:
      activation: one of `ops.ACTIVATIONS`.
      pool: `max` or `avg`.
      padding: of conv1, pixels on each side.
      mean, std: of a pixel per channel, as in `transforms.Normalize`: pixels are in 0..1.
      fit: how images are brought to the network's size, `pad` or `resize`.
      layers: names of layers in the file by LeNet's, `{"conv1": "features.0"}`; others are found.
      model: the class of a network of the user's own, `FILE.py:Class`; the file runs as code.
    """

    activation: str | None = None
    pool: str | None = None
    padding: int | None = None
    mean: Sequence[float | int] | float | int | None = None
    std: Sequence[float | int] | float | int | None = None
    fit: str | None = None
    model: str | None = None
    layers: Mapping[str, str] | None = None

    def metadata(self) -> dict[str, str]:
        """It as entries of a file's metadata.

        Raises:
          UserError: a value is not allowed.
        """
        values = {name: getattr(self, name) for name in (*DEFAULTS, "fit")}
        values = {name: str(value) for name, value in values.items() if value is not None}
        _check(values, "--")
        return values | self._statistics()

    def _statistics(self) -> dict[str, str]:
        if self.mean is None and self.std is None:
            return {}
        if self.mean is None or self.std is None:
            raise UserError("--mean and --std must be given together")
        mean, std = (
            [float(x)] if isinstance(x, int | float) else [float(value) for value in x]
            for x in (self.mean, self.std)
        )
        if not all(0 <= value <= 1 for value in mean) or not all(0 < value <= 1 for value in std):
            raise UserError(
                "--mean must be in [0, 1] and --std in (0, 1], as in transforms.Normalize"
            )
        return make_metadata([255 * value for value in mean], [255 * value for value in std])


def describe(
    metadata: Mapping[str, str], given: Description, source: str, say: Any
) -> dict[str, str]:
    """A file's metadata with what the user says of it, and a remark where the two differ.

    Raises:
      UserError: a given value is not allowed.
    """
    values, known = given.metadata(), {**metadata, **stated(metadata)}
    differing = [
        f"{name} {printable(known[name], 40)}"
        for name in values
        if name in known and known[name] != values[name] and name != "pixels"
    ]
    if differing:
        say(f"{source} says {', '.join(differing)}; what is given is taken instead")
    return {**metadata, **values}


def stated(metadata: Mapping[str, str]) -> dict[str, str]:
    """What a file says of the arguments of `LeNet` that shapes do not tell."""
    # A file that has the form of its images is this package's: it says what is not the default.
    default = {name: str(value) for name, value in DEFAULTS.items() if "images" in metadata}
    return default | {name: metadata[name] for name in DEFAULTS if name in metadata}


def architecture(metadata: Mapping[str, str], source: str) -> dict[str, Any]:
    """The arguments of `LeNet` that shapes do not tell, by default those of the LeNet of runs.

    Raises:
      UserError: the metadata are something else.
    """
    values = {name: metadata[name] for name in DEFAULTS if name in metadata}
    _check(values, f"{source}: bad metadata: ")
    return {**DEFAULTS, **values, "padding": int(values.get("padding", 0))}


def architecture_metadata(values: Mapping[str, Any]) -> dict[str, str]:
    """The metadata of arguments of `LeNet`, or of a model's attributes; none for the default."""
    chosen = {name: values[name] for name in DEFAULTS}
    return {} if chosen == DEFAULTS else {name: str(value) for name, value in chosen.items()}


def unsaid(metadata: Mapping[str, str], source: str) -> str | None:
    """A remark on what a file does not say and what is taken; None if it says all."""
    missing = {name: value for name, value in DEFAULTS.items() if name not in stated(metadata)}
    if not missing:
        return None
    values = ", ".join(map(str, missing.values()))
    classes = "" if "classes" in metadata else "; classes are numbered"
    return (
        f"{source} does not say its {', '.join(missing)}: {values} assumed{classes}. To compare:"
        f" {next_command((), 'torch_bridge', 'evaluate', source, '--try')}"
    )


def pixel_statistics(
    metadata: Mapping[str, str], in_channels: int, source: str
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel, of pixels in 0..255, from a file's metadata.

    Raises:
      UserError: they are missing or invalid.
    """
    if not {"mean", "std"} <= set(metadata):
        missing = [name for name in DEFAULTS if name not in stated(metadata)]
        others = f", nor its {', '.join(missing)}" if missing else ""
        example = as_flags(
            *([255 * x] * in_channels for x in EXAMPLES.get(in_channels, (0.5, 0.5)))
        )
        raise UserError(
            f"{source} does not say how its images are normalised{others}\n"
            f"Give --mean and --std as in transforms.Normalize, as {example} (0 and 1 where there"
            f" is none){', --activation, --pool, --padding' * bool(missing)}; to compare:\n"
            f"{next_command((), 'torch_bridge', 'evaluate', source, '--try')}"
        )
    try:
        mean, std = (
            [to_float(number) for number in metadata[key].split()] for key in ("mean", "std")
        )
    except ValueError as error:
        raise UserError(f"{source}: bad metadata: {printable(error)}") from error
    with np.errstate(over="ignore", under="ignore"):  # what is computed with
        finite = all(map(math.isfinite, np.asarray(mean + std, np.float32)))
        least = np.asarray(std, np.float32).min(initial=np.inf)
    if not finite or len(mean) != in_channels or len(std) != in_channels or least < TINY:
        raise UserError(
            f"{source}: mean and std must have a finite number for each of {in_channels} input"
            f" channels, std above 0; not {as_flags(mean, std)}"
        )
    return mean, std


def unusual_size(image_size: int, padding: int, metadata: Mapping[str, str]) -> str | None:
    """A remark on weights of which the last feature maps have a quarter of an image's side."""
    native = image_size + 2 * padding - 12  # where both convolutions keep the size
    if native not in (28, 32) or "images" in metadata:
        return None
    return (
        f"is read as for images of {image_size}×{image_size}; if yours are {native}×{native}, both"
        " its convolutions have padding=2, which is not supported: predictions will be wrong"
    )


def disagreements(
    metadata: Mapping[str, str],
    model: Mapping[str, Any],
    statistics: tuple[Sequence[float], Sequence[float]],
) -> list[str]:
    """How the network of a file differs from one that is to be trained from its weights.

    Args:
      metadata: the file's.
      model: the arguments of the network to be trained.
      statistics: the mean and the standard deviation of its pixels per channel, in 0..255.
    """
    known = stated(metadata)
    remarks = [
        f"is of a network with {name} {printable(known[name], 40)}; this one has {model[name]}:"
        f" model.{name}{' (and data.image_size, by twice as much)' * (name == 'padding')}"
        for name in DEFAULTS
        if name in known and known[name] != str(model[name])
    ]
    if {"mean", "std"} <= set(metadata):
        file = pixel_statistics(metadata, len(statistics[0]), "the file")
        if not np.allclose(file, statistics, atol=255 * NEAR, rtol=0):
            remarks.append(
                f"normalises images with {as_flags(*file)}; this run, with its data's"
                f" {as_flags(*statistics)}"
            )
    unknown = [*(name for name in DEFAULTS if name not in known)]
    unknown += [] if {"mean", "std"} <= set(metadata) else ["normalisation"]
    if unknown:
        remarks.append(f"does not say its {', '.join(unknown)}: those of this config are taken")
    return remarks


def as_flags(mean: Sequence[float], std: Sequence[float]) -> str:
    """Statistics of pixels in 0..255 as flags give them: `--mean=0.1307 --std=0.3081`."""
    flags = (("mean", mean), ("std", std))
    return " ".join(f"--{k}={','.join(f'{x / 255:.4g}' for x in values)}" for k, values in flags)


def as_warning(text: str) -> None:
    """Reports a remark to callers in Python."""
    warnings.warn(text, stacklevel=3)


def _check(values: Mapping[str, str], front: str) -> None:
    choices = {
        "activation": get_args(ops.Activation),
        "pool": get_args(ops.Pool),
        "fit": ("pad", "resize"),
    }
    for name, value in values.items():
        if name in choices and value not in choices[name]:
            allowed = f"one of {', '.join(choices[name])}"
        elif name == "padding" and not (
            value.isdecimal() and len(value) < 9 and int(value) <= MAX_PADDING
        ):
            allowed = f"an integer in 0..{MAX_PADDING}"
        else:
            continue
        raise UserError(f"{front}{name}={printable(value, 40)}: must be {allowed}")
