"""Networks other than LeNet: what a file of their weights says of them, and how they are rebuilt.

A class of the user's own is code: its file runs only where the user names it.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from lenet_jax.config.file import Config
from lenet_jax.config.networks import (
    GIVEN,
    arguments,
    code_of_network,
    find_class,
    is_code,
    traced_arguments,
)
from lenet_jax.config.source import files_text, guarded, split
from lenet_jax.errors import UserError, printable, show
from lenet_jax.inference.description import (
    Description,
    architecture_metadata,
    pixel_statistics,
)
from lenet_jax.inference.network import Network
from lenet_jax.inference.state_dict import read_form, to_state_dict
from lenet_jax.inference.torch_names import Say
from lenet_jax.inference.variables import from_arrays, to_arrays
from lenet_jax.nn.calls import build
from lenet_jax.nn.lenet import LeNet
from lenet_jax.nn.variables import set_mode
from lenet_jax.reading import decode
from lenet_jax.storage.weights import StateDict

NETWORK, ARGUMENTS, SHAPE, SOURCE = "network", "arguments", "image_shape", "network_sha256"
Value = bool | int | float | str | list[bool | int | float | str] | None


def export_weights(network: type, variables: nnx.State) -> dict[str, np.ndarray]:
    """A network's weights, by the names that a file of them has."""
    return to_state_dict(variables) if network is LeNet else to_arrays(variables)


def describe_network(
    network: type, name: str, model: Sequence[tuple[str, Any]], image_shape: tuple[int, int, int]
) -> dict[str, str]:
    """The metadata that says how to build a network again.

    Args:
      network: the class.
      name: as `config.model.name` names it.
      model: the arguments of its constructor.
      image_shape: of an image.
    """
    if network is LeNet:
        return architecture_metadata(dict(model))
    source = code_of_network(name)
    return {
        NETWORK: name,
        ARGUMENTS: json.dumps({key: value for key, value in model if key not in GIVEN}),
        SHAPE: " ".join(map(str, image_shape)),
        **({} if source is None else {SOURCE: hashlib.sha256(source).hexdigest()}),
    }


def build_other(
    weights: StateDict,
    metadata: Mapping[str, str],
    source: str,
    given: Description,
    say: Say,
    config: Config | None = None,
) -> Network:
    """The network of a file of weights.

    Args:
      weights: by their paths.
      metadata: from `network_metadata`, and others.
      source: the name of the file.
      given: names the class, if it is the user's own.
      say: is given a remark if its file changed.
      config: of a run, or of a sweep's member, which has arguments that the file of several
        members lacks.

    Raises:
      UserError: the class is not given, or is another; or the file is damaged.
    """
    name = metadata[NETWORK]
    if is_code(name):
        if given.model is None:
            raise UserError(
                f"{show(source)} is of the class {show(name)}, whose file runs as code\n"
                "If you trust it, name it: --model=FILE.py:Class (in Python, load(…, model=…))."
            )
        name = given.model
        text = code_of_network(name) if SOURCE in metadata else None
        if text is not None and hashlib.sha256(text).hexdigest() != metadata[SOURCE]:
            say(f"{files_text(name)} changed since {show(source)} was trained")
    found = find_class(name)
    if config is not None:
        metadata = complete(metadata, config, source)
    shape, own = _read(metadata, source)
    mean, std = pixel_statistics(metadata, shape[2], source)
    classes = tuple(metadata.get("classes", "").splitlines())
    if len(classes) < 2:
        raise UserError(f"{source}: bad metadata: classes: at least two are needed")
    fixed = arguments(found, {"image_shape": shape, "num_classes": len(classes)})
    numbers = [n for n in traced_arguments(found) if own.get(n) is not None]

    def make() -> Any:
        traced = {n: jnp.float32(own[n]) for n in numbers}
        return build(found, fixed | own | traced, nnx.Rngs(0))

    path = Path(split(name)[0])
    # Without memory, until it is known that the file has the weights of these arguments.
    like = nnx.state(guarded(path, lambda: nnx.eval_shape(make)))
    loaded = from_arrays(weights, like, source)
    model = guarded(path, make)
    set_mode(model, training=False)
    nnx.update(model, loaded)
    form, least_energy = read_form(metadata, shape[2], shape[0], source)
    return Network(
        model,
        tuple(mean),
        tuple(std),
        classes,
        source,
        form=form,
        least_energy=least_energy,
        stated={**metadata, NETWORK: name, ARGUMENTS: json.dumps(own)},
        image_shape=shape,
    )


def complete(metadata: Mapping[str, str], config: Config, source: str) -> dict[str, str]:
    """The metadata of one member, with the arguments that the file of several lacks.

    Args:
      metadata: of the file.
      config: the member's.
      source: the name of the file.

    Raises:
      UserError: they are damaged.
    """
    _, stated = _read(metadata, source)
    own = {key: value for key, value in config.model.items() if key != "name"} | stated
    return {**metadata, ARGUMENTS: json.dumps(own)}


def _read(metadata: Mapping[str, str], source: str) -> tuple[tuple[int, int, int], dict[str, Any]]:
    """The shape of an image and the arguments of the class."""
    try:
        height, width, channels = map(int, metadata[SHAPE].split())
    except (KeyError, ValueError) as error:
        raise UserError(f"{source}: bad metadata: {SHAPE}: {printable(error)}") from error
    text = metadata.get(ARGUMENTS, "{}").encode()
    own = decode(text, dict[str, Value], f"{source}: bad metadata: {ARGUMENTS}")
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in own.items()}
    return (height, width, channels), values
