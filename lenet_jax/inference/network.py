"""A trained network with what its images need: pixels or files in, answers out."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int, PyTree, Shaped, UInt8

from lenet_jax import config as configs
from lenet_jax.config.measurements import names as names_of
from lenet_jax.data.dataset import Dataset
from lenet_jax.data.form import MNIST_FORM, ImageForm, fit_form
from lenet_jax.errors import UserError, expand, show
from lenet_jax.inference import figures, forward
from lenet_jax.inference.description import architecture_metadata, as_warning
from lenet_jax.inference.images import Images, prepare
from lenet_jax.inference.run_data import load_data
from lenet_jax.inference.state_dict import form_metadata, make_metadata, to_state_dict
from lenet_jax.inference.torch_names import Say
from lenet_jax.inference.variables import to_arrays
from lenet_jax.nn import ops
from lenet_jax.nn.layers import LayerCall, as_float, record
from lenet_jax.nn.lenet import LeNet, step_names
from lenet_jax.plots import curves, results
from lenet_jax.plots.output import settle
from lenet_jax.plots.style import Figure
from lenet_jax.storage import weights

FIGURES = "filters", "feature_maps", "curves", "confusion_matrix", "mistakes"


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A trained network with its preprocessing; it takes pixels, PIL images or files.

    Images are an array (n, height, width) or (n, height, width, channels) of integers in 0..255 or
    floats in 0..1, or one of them without n: of NumPy, JAX or PyTorch, see `pixels.fit_array`. Or
    they are names of image files, PIL images, or a list of all these. They are fitted to the
    network as the data was for training; of a file or a PIL image without the form of the data's
    images, the largest character is taken, see `data.form.give_form`, and of several frames or
    pages the first.

    Attributes:
      model: the network, for normalised images: an `nnx.Module`, by default a `LeNet`.
      mean, std: of a pixel per channel, in 0..255.
      class_names: what the logits stand for.
      source: where it was read, for people.
      config: what it was trained with; None where only weights are known.
      summary: what `summary.json` or the sweep says of it; empty where nothing does.
      history: the metrics of each epoch.
      form: of the images that it was trained on.
      least_energy: of the logits; below, an image is unlike any class. None where it is not known.
      stated: the metadata of a file of weights and what was given with it; None of a run, which
        knows all.
      folder: of the run or the sweep; None where only weights are known.
      image_shape: height, width and channels of an image; None of a `LeNet`, which says it.
    """

    model: Any
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]
    source: str
    config: configs.Config | None = None
    summary: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    history: Sequence[Mapping[str, float | int]] = ()
    form: ImageForm = MNIST_FORM
    least_energy: float | None = None
    stated: Mapping[str, str] | None = None
    folder: Path | None = None
    image_shape: tuple[int, int, int] | None = None

    def __repr__(self) -> str:
        """A few lines: the layers and their sizes, the data, and the test accuracy if known."""
        size = self.image_size
        known = [f"input {size}×{size}×{self.channels}", f"{len(self.class_names)} classes"]
        if self.config is not None:
            known.insert(0, f"data {show(self.config.data.name)}")
        if (accuracy := self.summary.get("test_accuracy")) is not None:
            known.append(f"test accuracy {100 * accuracy:.2f} %")
        return (
            f"Network of {self.source}: {self.num_params:,} parameters\n"
            f"  {self._description()}\n"
            f"  {', '.join(known)}"
        )

    def _description(self) -> str:
        """The layers and their sizes, of a `LeNet`; of others the class and its arguments."""
        if self.is_lenet:
            layers = self.model.layer_sizes().items()
            sizes = ", ".join(f"{name} {layer.shape[-1]}" for name, layer in layers)
            return f"{sizes}; {self.model.activation}, {self.model.pool} pooling"
        values = {} if self.config is None else self.config.model.to_dict()
        own = ", ".join(f"{name} {show(value)}" for name, value in values.items() if name != "name")
        return f"{type(self.model).__name__}{f': {own}' if own else ''}"

    @property
    def is_lenet(self) -> bool:
        """Whether the network is a `LeNet`, whose layers have names."""
        return isinstance(self.model, LeNet)

    def __call__(self, images: Images) -> Float[np.ndarray, "n k"]:
        """The network's output, as `logits`."""
        return self.logits(images)

    def evaluate(self, data: Dataset | tuple[Images, Any]) -> dict[str, float]:
        """Accuracy in [0, 1], mean cross-entropy in nats, and how many images they are of.

        Args:
          data: a dataset, whose test images are taken; or images, as everywhere here, and their
            classes: numbers 0 to k - 1, or names of `class_names`.

        Raises:
          UserError: there is no image, or not one class for each, or an unknown class.
        """
        images, labels = self.examples(data)
        logits = self.run(forward.logits, images)
        losses = np.asarray(ops.cross_entropy(jnp.asarray(logits), jnp.asarray(labels)))
        return {
            "accuracy": float(np.mean(logits.argmax(axis=-1) == labels)),
            "loss": float(np.mean(losses, dtype=np.float64)),
            "examples": len(labels),
        }

    def examples(
        self, data: Any
    ) -> tuple[UInt8[np.ndarray, "n size size c"], Int[np.ndarray, " n"]]:
        """Prepared images and the numbers of their classes; for the arguments see `evaluate`."""
        if isinstance(data, Dataset):
            data = data.test.images, data.test.labels
        if not isinstance(data, tuple | list) or len(data) != 2:
            raise UserError("data must be a Dataset, or two: (images, classes)")
        images, labels = self.prepare(data[0]), self._labels(np.asarray(data[1]))
        if not len(images):
            raise UserError("there are no images to evaluate")
        if len(labels) != len(images):
            raise UserError(f"{len(images):,} images, but {len(labels):,} classes")
        return images, labels

    def plot(
        self, what: str = "filters", data: Any = None, *, path: str | Path | None = None
    ) -> Figure:
        """Draws a figure, which a notebook shows.

        Args:
          what: `filters`, those of the first convolution; `feature_maps`, of one image after them;
            `curves`, the metrics over the epochs; `confusion_matrix`; or `mistakes`, the most
            confident ones.
          data: of `feature_maps` one image; of the last two a dataset or (images, classes), see
            `evaluate`. None: the test images of the network's run.
          path: where to write it as well, replacing what is there: FILE.png, FILE.svg or FILE.pdf.

        Returns:
          The figure, of Matplotlib's, which pyplot does not hold.

        Raises:
          UserError: there is nothing of the kind to draw, or the file cannot be written.
        """
        if not isinstance(what, str) or what not in FIGURES:
            raise UserError(f"what to plot must be one of {', '.join(FIGURES)}; not {show(what)}")
        if path is not None:
            figures.check_suffix(path)  # before what takes seconds
        figure = settle(self._draw(what, data))
        if path is not None:
            figures.save(figure, path)
        return figure

    def _draw(self, what: str, data: Any) -> Figure:
        title = figures.title_of(self.model, self.config.data.name if self.config else "")
        if what == "filters":
            return figures.plot_filters(self.model, self.normalise(self._blank), title)
        if what == "feature_maps":
            return self._draw_feature_maps(data, title)
        if what == "curves":
            if not self.history:
                raise UserError(f"{show(self.source)} has no curves: they are of runs, or members")
            train = self.config and self.config.train
            seam, measured = train and train.schedule_epochs, train.measurements if train else ()
            return curves.plot_curves(
                self.history, title=title, seam=seam, measured=names_of(measured)
            )
        images, labels = self.examples(self.load_data(as_warning) if data is None else data)
        logits, names = self.logits(images), self.class_names
        if what == "mistakes":
            return results.plot_mistakes(images, labels, logits, names, title=title)
        confusion = results.confusion_matrix(labels, logits.argmax(axis=-1), len(names))
        return results.plot_confusion_matrix(confusion, names, title=title)

    def _draw_feature_maps(self, data: Any, title: str) -> Figure:
        names, index, about = self.class_names, 0, []
        if data is None:
            images, labels = self.examples(self.load_data(as_warning))
            probabilities = self.probabilities(images)
            index = results.example_index(labels, probabilities.argmax(axis=-1), probabilities)
            about = [f"test image {index}", f"true class: {names[labels[index]]}"]
        else:
            images = self.prepare(data)
            if len(images) != 1:
                raise UserError(f"feature maps are of one image, not of {len(images):,}")
            probabilities = self.probabilities(images)
        image, best = images[index], int(probabilities[index].argmax())
        percent = 100 * float(probabilities[index, best])
        captions = [*about, f"predicted: {names[best]}", f"probability: {percent:.1f} %"]
        normalised = self.normalise(image[None])
        return figures.plot_feature_maps(self.model, image, normalised, captions, title)

    def load_data(self, say: Say) -> Dataset:
        """Loads the data that the network was trained on, see `run_data`.

        Args:
          say: is given a remark if they changed since.

        Raises:
          UserError: they are not known, or cannot be read.
        """
        if self.config is None or self.folder is None:
            raise UserError(f"{show(self.source)} does not say what data it was trained on")
        return load_data(self.config, self.folder, self.source, say)

    def _labels(self, classes: np.ndarray) -> Int[np.ndarray, " n"]:
        """The number of each class.

        Raises:
          UserError: there is no such class.
        """
        count = len(self.class_names)
        if classes.dtype.kind in "iu":
            wrong = classes[(classes < 0) | (classes >= count)]
            labels = classes.astype(np.int32)
        else:
            numbers = {name: number for number, name in enumerate(self.class_names)}
            labels = np.array([numbers.get(str(name), -1) for name in classes.ravel()], np.int32)
            wrong = classes.ravel()[labels < 0]
        if classes.ndim != 1 or len(wrong):
            what = show(wrong[0]) if len(wrong) else f"an array of shape {classes.shape}"
            raise UserError(
                f"classes must be numbers 0 to {count - 1}, or names of class_names; not {what}"
            )
        return labels

    def save(self, path: str | Path, *, force: bool = False) -> Path:
        """Writes the weights, and what is needed to use them, as a safetensors file.

        Args:
          path: the file; `lenet_jax.load` reads it.
          force: whether a file that differs is replaced.

        Raises:
          UserError: the file cannot be written, or there is another.
        """
        path = expand(path)
        if path.suffix != ".safetensors":
            raise UserError(f"{show(path)}: the name must end in .safetensors")
        weights.write(path, self.state_dict, self.metadata, force=force)
        return path

    def predict(self, images: Images) -> Int[np.ndarray, " n"]:
        """The most likely class of each image, 0 to k - 1; `class_names` has its name."""
        return self.logits(images).argmax(axis=-1)

    def probabilities(self, images: Images) -> Float[np.ndarray, "n k"]:
        """The probability of each class."""
        return np.asarray(jax.nn.softmax(self.logits(images)))

    def logits(self, images: Images) -> Float[np.ndarray, "n k"]:
        """The network's output."""
        return self.run(forward.logits, self.prepare(images))

    def features(self, images: Images, layer: str | None = None) -> Float[np.ndarray, "n ..."]:
        """What a layer gives, by default the last one before the logits, `fc2.relu`.

        Args:
          images: as everywhere here.
          layer: one of `layers`. Of a LeNet: `conv1`, `conv1.relu`, `conv1.pool`, …, `flatten`,
            `fc1`, `fc1.relu`, …, `fc3`; of a network with tanh `conv1.tanh`, …. Of others the path
            of a module; by default, what the last of them is given.

        Raises:
          UserError: there is no such layer.
        """
        names = list(self.layers)
        if not names or (layer is not None and layer not in names):
            known = f"there are {', '.join(names)}" if names else "its layers are not known"
            raise UserError(f"there is no layer {layer!r}; {known}")
        pixels = self.prepare(images)
        if not self.is_lenet:
            return self.responses(pixels, layer)
        return self.run(functools.partial(forward.activation, layer or names[-2]), pixels)

    def record(self, images: UInt8[np.ndarray, "n h w c"]) -> list[LayerCall]:
        """The calls of the layers for images of this network's size; see `nn.layers.record`."""
        with jax.default_matmul_precision(self.precision):
            return record(nnx.clone(self.model), self.normalise(images))

    def responses(
        self, images: UInt8[np.ndarray, "n h w c"], layer: str | None
    ) -> Float[np.ndarray, "n ..."]:
        """What a layer of any module gives for images of its size; None: what the last is given."""
        outputs = []
        for start in range(0, max(len(images), 1), forward.BATCH):
            calls = self.record(images[start : start + forward.BATCH])
            named = {each.name: each.output for each in calls}
            outputs.append(as_float(calls[-1].inputs if layer is None else named[layer]))
        return np.concatenate(outputs)

    def require_lenet(self, what: str) -> None:
        """Checks that the layers have names.

        Raises:
          UserError: the network is no `LeNet`; `what` needs one.
        """
        if not self.is_lenet:
            raise UserError(
                f"{what} needs a LeNet, whose layers it knows by name; {self.source} is a"
                f" {type(self.model).__name__}"
            )

    @functools.cached_property
    def layers(self) -> dict[str, tuple[int, ...]]:
        """The names of the steps through the network, and the shape of one image's output."""
        if not self.is_lenet:
            return {each.name: each.output.shape[1:] for each in self.record(self._blank)}
        image = jnp.zeros((1, self.image_size, self.image_size, self.channels))
        shapes = jax.eval_shape(self.model.activations, image)
        return {name: shapes[name].shape[1:] for name in step_names(self.model.activation)}

    def prepare(self, images: Images) -> UInt8[np.ndarray, "n size size c"]:
        """Images at the size that the network takes, before normalisation.

        Raises:
          UserError: they are no images, cannot be read, or are arrays of another range or shape.
        """
        return prepare(images, self.channels, self.form, self.image_size)

    def fit(
        self, images: Sequence[UInt8[np.ndarray, "h w c"]]
    ) -> UInt8[np.ndarray, "n size size c"]:
        """Brings images, each of its own size, to the network's."""
        return fit_form(images, self.form, self.image_size)

    def normalise(
        self, images: UInt8[np.ndarray, "n h w c"] | UInt8[Array, "n h w c"]
    ) -> Float[Array, "n h w c"]:
        """What the model takes, of images that `prepare` gave."""
        return ops.normalise(jnp.asarray(images), self.mean, self.std)

    @property
    def image_size(self) -> int:
        """Height and width that the network takes, in pixels."""
        return self.model.image_size if self.image_shape is None else self.image_shape[0]

    @property
    def precision(self) -> str:
        """That of products, see `ops`."""
        return "float32" if self.config is None else self.config.train.precision

    @property
    def _blank(self) -> UInt8[np.ndarray, "1 size size c"]:
        """An image of this network's size."""
        return np.zeros((1, self.image_size, self.image_size, self.channels), np.uint8)

    @property
    def num_params(self) -> int:
        """How many numbers are trained."""
        return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(self.model, nnx.Param)))

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return self.model.conv1.in_features if self.image_shape is None else self.image_shape[2]

    @functools.cached_property
    def state_dict(self) -> dict[str, Shaped[np.ndarray, "..."]]:
        """The weights under PyTorch's names and in its layouts; of others than LeNet, by path."""
        if not self.is_lenet:
            return to_arrays(nnx.state(self.model))
        return to_state_dict(nnx.state(self.model, nnx.Param))

    @functools.cached_property
    def metadata(self) -> dict[str, str]:
        """The metadata of a file of the weights: no more than is known of them."""
        if self.stated is not None:
            return dict(self.stated)
        metadata = make_metadata(self.mean, self.std, self.class_names)
        if self.is_lenet:
            metadata |= architecture_metadata(vars(self.model))
        return metadata | form_metadata(self.form, self.least_energy)

    def run(self, program: Callable[..., PyTree], images: UInt8[np.ndarray, "n h w c"]) -> PyTree:
        """Runs a compiled program over all images, of this network's size, in batches.

        Args:
          program: takes the network's graph definition, mean and std, which are static, its
            parameters, and a batch of pixels; gives arrays with a row for each image.
          images: the pixels.

        Returns:
          What the program gives, for all images.
        """
        return forward.run(program, self.model, self.mean, self.std, self.precision, images)
