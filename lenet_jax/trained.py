"""A trained network and what its images need: out of a run, a file of weights, or a sweep.

A run is read from its `config.json`, never from the Python file that made it.
"""

import dataclasses
import functools
import json
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, PyTree, UInt8

from lenet_jax import config as configs
from lenet_jax import pictures, state_file, torch_bridge
from lenet_jax.data import fit_images
from lenet_jax.errors import UserError
from lenet_jax.models import STEPS, LeNet

BATCH = 128  # images per forward pass; what a pass touches then fits the cache
NOT_SIGNS = "fashion"  # in a dataset's name: grey images that fill their frame

# Pixels, one image or many, or names of files; `Trained.prepare` checks what it is given.
Images: TypeAlias = Any


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A trained network with its preprocessing; it takes pixels in 0..255, or files.

    Images are an array (n, height, width) or (n, height, width, channels) of uint8, one of them
    without n, or the names of PNG and JPEG files. They are fitted to the network as the data was
    for training; files of signs in any size and shade are first made like MNIST, see `pictures`.

    Attributes:
      model: the network, for normalised images.
      mean, std: of a pixel per channel, in 0..255.
      class_names: what the logits stand for.
      source: where it was read, in words.
      config: what it was trained with; None where only weights are known.
      summary: what `summary.json` or the sweep says of it; empty where nothing does.
      history: the metrics of each epoch.
    """

    model: LeNet
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    source: str
    config: configs.Config | None = None
    summary: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    history: Sequence[Mapping[str, float | int]] = ()

    def predict(self, images: Images) -> Int[np.ndarray, " n"]:
        """The most likely class of each image, 0 to k - 1; `class_names` has its name."""
        return self.logits(images).argmax(axis=-1)

    def probabilities(self, images: Images) -> Float[np.ndarray, "n k"]:
        """The probability of each class."""
        return softmax(self.logits(images))

    def logits(self, images: Images) -> Float[np.ndarray, "n k"]:
        """The network's output."""
        return self.run(_logits, self.prepare(images))

    def features(self, images: Images, layer: str = "fc2.relu") -> Float[np.ndarray, "n ..."]:
        """What a layer gives, by default the last one before the logits.

        Args:
          images: as everywhere here.
          layer: one of `models.STEPS`: `conv1`, `conv1.relu`, `conv1.pool`, …, `flatten`, `fc1`,
            `fc1.relu`, …, `fc3`.

        Raises:
          UserError: there is no such layer.
        """
        if layer not in STEPS:
            raise UserError(f"there is no layer {layer!r}; there are {', '.join(STEPS)}")
        return self.run(functools.partial(_activation, layer), self.prepare(images))

    @functools.cached_property
    def layers(self) -> dict[str, tuple[int, ...]]:
        """The names of the steps through the network, and the shape of one image's output."""
        image = jnp.zeros((1, self.image_size, self.image_size, self.channels))
        shapes = jax.eval_shape(self.model.activations, image)
        return {name: shapes[name].shape[1:] for name in STEPS}

    def prepare(self, images: Images) -> UInt8[np.ndarray, "n size size c"]:
        """Images at the size that the network takes, before normalisation.

        Raises:
          UserError: they are no images, not of this network's channels, or larger than what can be
            padded.
        """
        if not hasattr(images, "shape"):
            paths = [images] if isinstance(images, str | Path) else list(images)
            if not paths or not all(isinstance(path, str | Path) for path in paths):
                raise UserError("images must be an array of pixels, or names of files")
            found = pictures.read_all(paths, self.channels, self.sign_size)
            mistakes = [str(picture) for picture in found if isinstance(picture, UserError)]
            if mistakes:
                more = f" (and {len(mistakes) - 1} more)" if len(mistakes) > 1 else ""
                raise UserError(mistakes[0] + more)
            return self.fit([p.pixels for p in found if isinstance(p, pictures.Picture)])
        array = np.asarray(images)
        if array.dtype != np.uint8:
            raise UserError(
                f"pixels must be uint8 in 0..255, not {array.dtype}\n"
                "Of pixels in 0..1: (255 * images).round().astype('uint8')"
            )
        if array.ndim == 2 or (array.ndim == 3 and self.channels > 1):
            array = array[None]
        if array.ndim == 3:
            array = array[..., None]
        if array.ndim != 4 or array.shape[-1] != self.channels or 0 in array.shape[1:]:
            raise UserError(
                f"images must be (n, height, width, {self.channels}), not of shape {images.shape}"
            )
        return fit_images(array, self.image_size, self._fit)

    def fit(
        self, images: Sequence[UInt8[np.ndarray, "h w c"]]
    ) -> UInt8[np.ndarray, "n size size c"]:
        """Brings images, each of its own size, to the network's."""
        fitted = np.empty((len(images), self.image_size, self.image_size, self.channels), np.uint8)
        for target, image in zip(fitted, images, strict=True):
            fit = self._fit if image.shape[0] == image.shape[1] == self.sign_size else "resize"
            target[...] = fit_images(image[None], self.image_size, fit)[0]
        return fitted

    def normalise(
        self, images: UInt8[np.ndarray, "n h w c"] | UInt8[Array, "n h w c"]
    ) -> Float[Array, "n h w c"]:
        """What the model takes, of images that `prepare` gave."""
        return normalised(jnp.asarray(images), self.mean, self.std)

    @property
    def image_size(self) -> int:
        """Height and width that the network takes, in pixels."""
        return self._sizes["image_size"]

    @property
    def model_sizes(self) -> tuple[int, ...]:
        """Feature maps of the convolutions, then units of the linear layers."""
        return (*self._sizes["channels"], *self._sizes["features"], self._sizes["num_classes"])

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return self._sizes["in_channels"]

    @property
    def sign_size(self) -> int | None:
        """Height and width of the data's images before they were fitted, where they are signs.

        Grey images are taken for handwriting; None: of other pictures the size says nothing.
        """
        name = "" if self.config is None else self.config.data.name
        if self.channels != 1 or NOT_SIGNS in name:
            return None
        return pictures.FRAME if self._fit == "resize" else min(pictures.FRAME, self.image_size)

    @functools.cached_property
    def state_dict(self) -> dict[str, Float[np.ndarray, "..."]]:
        """The weights under PyTorch's names and in its layouts."""
        return torch_bridge.to_state_dict(nnx.state(self.model, nnx.Param))

    @functools.cached_property
    def notes(self) -> dict[str, str]:
        """What a file of the weights says beside them."""
        return torch_bridge.pixel_notes(self.mean, self.std) | {
            "classes": "\n".join(self.class_names)
        }

    @functools.cached_property
    def _sizes(self) -> dict[str, Any]:
        return torch_bridge.infer_sizes(self.state_dict)

    @property
    def _fit(self) -> str:
        if self.config is not None:
            return self.config.data.fit
        return "pad" if self.channels == 1 else "resize"

    def run(self, program: Callable[..., PyTree], images: UInt8[np.ndarray, "n h w c"]) -> PyTree:
        """Runs a compiled program over all images, of this network's size, in batches.

        Args:
          program: takes the network's graph definition, mean and std, which are static, its
            parameters, and a batch of pixels; gives arrays with a row for each image.
          images: the pixels.

        Returns:
          What the program gives, for all images.
        """
        graphdef, params = nnx.split(self.model)
        size = min(BATCH, 1 << max(len(images) - 1, 0).bit_length())
        outputs = []
        for start in range(0, max(len(images), 1), size):
            batch = images[start : start + size]
            if len(batch) < size:
                batch = np.pad(batch, [(0, size - len(batch)), (0, 0), (0, 0), (0, 0)])
            # Not waited for: the next batch is on its way meanwhile.
            outputs.append(program(graphdef, self.mean, self.std, params, batch))
        # What pads the last batch is cut off.
        return jax.tree.map(lambda *parts: np.concatenate(parts)[: len(images)], *outputs)


def load(path: str | Path, member: int | None = None) -> Trained:
    """Loads a trained network.

    Args:
      path: a run directory; a file of weights, `.safetensors` or `.pt`; or, with `member`, the
        directory of a sweep.
      member: the number of a sweep's member.

    Raises:
      UserError: there is nothing of the kind, or it is broken or unfinished.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise UserError(f"there is no {path}")
    if (path / "sweep.json").is_file():
        return _load_member(path, member)
    if member is not None:
        raise UserError(f"{path} is no sweep, so it has no member {member}")
    if not path.is_dir():
        state_dict, notes = state_file.read(path)
        return _make(state_dict, notes, str(path))
    if not (path / "config.json").is_file():
        raise UserError(f"{path} holds no run: it has no config.json")
    config = configs.load_json(path / "config.json")
    if not (path / "model.safetensors").is_file():
        raise UserError(
            f"{path} has no trained network yet: model.safetensors is written when a run is done\n"
            "Start the run again with its command to go on with it."
        )
    state_dict, notes = state_file.read(path)
    return _make(
        state_dict,
        notes,
        str(path),
        config,
        read_json(path / "summary.json", {}),
        list(_read_history(path / "metrics.jsonl")),
    )


def train(config: configs.Config | str, workdir: str | Path | None = None) -> Trained:
    """Trains a run, as the command does, and gives its network; a finished run is only loaded.

    Args:
      config: from `lenet_jax.config`, or the name of a config file, `FILE.py[:ARG]`, which runs as
        code.
      workdir: the run directory; None: a new one in `runs`, called by the time.

    Raises:
      UserError: the config, the data or the directory is not what it should be, or the run
        diverged.
      KeyboardInterrupt: it was stopped; the same call goes on with it.
    """
    from lenet_jax.run import DIVERGED, DONE, run  # late: what is only loaded needs no optimiser

    started = time.perf_counter()
    workdir = str(workdir or time.strftime("runs/%Y-%m-%d_%H.%M.%S"))
    checked = configs.load(config) if isinstance(config, str) else configs.replace(config, {})
    command = ["python", "-c", f"import lenet_jax; lenet_jax.train(…, {workdir!r})"]
    code = run(checked, workdir, command, started)
    if code == DIVERGED:
        raise UserError(f"the run in {workdir} diverged: its loss stopped being finite")
    if code != DONE:
        raise KeyboardInterrupt
    return load(workdir)


def softmax(logits: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "n k"]:
    """The probabilities that logits stand for."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def _load_member(path: Path, member: int | None) -> Trained:
    plan = read_json(path / "sweep.json", {})
    overrides = {
        entry["member"]: entry["overrides"]
        for entry in plan.get("members", ())
        if isinstance(entry, dict) and {"member", "overrides"} <= entry.keys()
    }
    if member is None:
        raise UserError(
            f"{path} is a sweep of {len(overrides)} networks; choose one, for example"
            f" --member={min(overrides, default=0)}"
        )
    if member not in overrides:
        known = f"{min(overrides)} to {max(overrides)}" if overrides else "none"
        raise UserError(f"{path} has no member {member}; it has {known}")
    config = configs.replace(configs.load_json(path / "config.json"), overrides[member])
    for file in sorted(path.glob("chunks/*/weights.safetensors")):
        stacked, notes = state_file.read(file)
        members = notes.get("members", "").split()
        if str(member) in members:
            index = members.index(str(member))
            state_dict = {name: np.asarray(array)[index] for name, array in stacked.items()}
            results = _read_chunk(file.parent, member)
            return _make(state_dict, notes, f"{path}, member {member}", config, *results)
    raise UserError(
        f"{path} has no weights of member {member} yet\n"
        "They are written when its part of the sweep is done."
    )


def _read_chunk(
    folder: Path, member: int
) -> tuple[Mapping[str, Any], Sequence[Mapping[str, float | int]]]:
    """What a finished part of a sweep says of a member: its results, and a row for each epoch."""
    members = read_json(folder / "results.json", {}).get("rows", [])
    index = next((i for i, row in enumerate(members) if row.get("member") == member), None)
    if index is None or not (folder / "history.npz").is_file():
        return {}, []
    try:
        with np.load(folder / "history.npz", allow_pickle=False) as file:
            # `train_loss` there is `train/loss` in a run.
            curves = {name.replace("_", "/", 1): file[name][index].tolist() for name in file}
    except (OSError, ValueError, LookupError, zipfile.BadZipFile) as error:
        raise UserError(f"{folder} is damaged: {configs.one_line(error)}") from error
    rows = zip(*curves.values(), strict=True)
    history = [
        {"epoch": epoch} | dict(zip(curves, row, strict=True)) for epoch, row in enumerate(rows, 1)
    ]
    return members[index], history


def _make(
    state_dict: state_file.StateDict,
    notes: Mapping[str, str],
    source: str,
    config: configs.Config | None = None,
    summary: Mapping[str, Any] | None = None,
    history: Sequence[Mapping[str, float | int]] = (),
) -> Trained:
    model = torch_bridge.make_model(state_dict, source)
    if config is not None:
        model.lowering = config.model.lowering
    mean, std = torch_bridge.pixel_statistics(notes, model.conv1.in_features, source)
    classes = notes.get("classes", "").splitlines()
    if len(classes) != model.fc3.out_features:
        classes = list(map(str, range(model.fc3.out_features)))
    return Trained(
        model, tuple(mean), tuple(std), tuple(classes), source, config, summary or {}, history
    )


def read_json(file: Path, default: dict[str, Any]) -> dict[str, Any]:
    """The object in a file, or `default` if there is no such file.

    Raises:
      UserError: the file holds something else.
    """
    try:
        value = json.loads(file.read_bytes()) if file.exists() else default
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is no JSON: {configs.one_line(error)}") from error
    if not isinstance(value, dict):
        raise UserError(f"{file} is not what it should be: a JSON object")
    return value


def _read_history(file: Path) -> Iterator[dict[str, float | int]]:
    for line in file.read_text().splitlines() if file.exists() else ():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return  # the process died while it wrote this line


def normalised(
    images: UInt8[Array, "n h w c"], mean: Sequence[float], std: Sequence[float]
) -> Float[Array, "n h w c"]:
    """Pixels with the mean taken off, over the deviation."""
    shift, scale = (np.array(numbers, np.float32).reshape(1, 1, 1, -1) for numbers in (mean, std))
    return images.astype(jnp.float32) * (1 / scale) - shift / scale


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _logits(
    graphdef: nnx.GraphDef,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    params: nnx.State,
    images: UInt8[Array, "n h w c"],
) -> Float[Array, "n k"]:
    return nnx.merge(graphdef, params)(normalised(images, mean, std))


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _activation(
    layer: str,
    graphdef: nnx.GraphDef,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    params: nnx.State,
    images: UInt8[Array, "n h w c"],
) -> Float[Array, "n ..."]:
    return nnx.merge(graphdef, params).activations(normalised(images, mean, std))[layer]
