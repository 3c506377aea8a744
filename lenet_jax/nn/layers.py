"""The layers of any module: what each gives in a forward pass, and the first convolution."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax import lax
from jax.core import Tracer
from jaxtyping import Array, Float

from lenet_jax.nn.calls import call


class LayerCall(NamedTuple):
    """A call of a layer.

    Attributes:
      name: its path, such as `blocks.0.conv`; of its second call `blocks.0.conv:2`.
      layer: the module.
      inputs: what it was given first.
      output: what it gave.
    """

    name: str
    layer: nnx.Module
    inputs: Any
    output: Array


class Field(NamedTuple):
    """What the units of a convolution see of its images; each is (vertical, horizontal), in pixels.

    Attributes:
      size: of what a unit sees.
      step: from one unit to the next.
      before: how far outside the image the first one begins.
    """

    size: tuple[int, int]
    step: tuple[int, int]
    before: tuple[int, int]


def record(
    model: nnx.Module, images: Float[Array, "b h w c"], *, traced: bool = False
) -> list[LayerCall]:
    """The calls of a module's layers in evaluation, in the order in which they ended.

    Layers that are called inside `nnx.scan`, `nnx.jit` and the like are left out, as are those that
    give something else than one array.

    Args:
      model: in its mode of evaluation; what the pass changes in it stays changed.
      images: normalised.
      traced: whether calls whose output is traced are recorded too, as all are if the images are.
    """
    names = {id(layer): ".".join(map(str, path)) for path, layer in nnx.iter_modules(model) if path}
    calls, running, counts = list[LayerCall](), set[int](), dict[str, int]()

    def recorded(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def run(self: nnx.Module, *args: Any, **kwargs: Any) -> Any:
            own = id(self)
            if own not in names or own in running:  # one of a transformation's, or `super()`
                return function(self, *args, **kwargs)
            running.add(own)
            try:
                output = function(self, *args, **kwargs)
            finally:
                running.discard(own)
            if isinstance(output, jax.Array) and (traced or not isinstance(output, Tracer)):
                counts[names[own]] = count = counts.get(names[own], 0) + 1
                name = names[own] if count == 1 else f"{names[own]}:{count}"
                calls.append(LayerCall(name, self, args[0] if args else None, output))
            return output

        return run

    with _calls_of({type(layer) for _, layer in nnx.iter_modules(model)}, recorded):
        call(model, images)
    return calls


def output_shapes(
    graphdef: nnx.GraphDef, variables: nnx.State, image_shape: tuple[int, int, int]
) -> dict[str, tuple[int, ...]]:
    """What shape each layer's first output has for one image, in the order in which they end.

    Args:
      graphdef: of a module in its mode of evaluation.
      variables: its variables, which may be abstract.
      image_shape: height, width, channels.
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def forward(variables: nnx.State, images: jax.Array) -> None:
        model = nnx.merge(graphdef, variables, copy=True)
        for each in record(model, images, traced=True):
            shapes[each.name] = each.output.shape[1:]

    jax.eval_shape(forward, variables, jax.ShapeDtypeStruct((1, *image_shape), np.float32))
    return shapes


@contextlib.contextmanager
def _calls_of(
    classes: set[type], change: Callable[[Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    """Has classes' own `__call__` changed, for a while."""
    changed = []
    try:
        for each in classes:
            own = [vars(base)["__call__"] for base in each.__mro__ if "__call__" in vars(base)]
            if own:
                changed.append((each, vars(each).get("__call__")))
                each.__call__ = change(own[0])
        yield
    finally:
        for each, own in changed:
            if own is None:  # it was inherited
                del each.__call__
            else:
                each.__call__ = own


def first_convolution(
    model: nnx.Module, calls: Sequence[LayerCall]
) -> tuple[str, Any, LayerCall | None] | None:
    """The first two-dimensional `nnx.Conv` of a module; None if it has none.

    Args:
      model: the module.
      calls: of its layers, see `record`.

    Returns:
      Its name, itself, and its call; that is None if it is not among `calls`, such as inside
      `nnx.scan`: then it is the first by the order of attributes.
    """
    for each in calls:
        if _is_convolution(each.layer) and np.ndim(each.output) == 4:
            return each.name, each.layer, each
    for path, layer in nnx.iter_modules(model):
        if _is_convolution(layer):
            return ".".join(map(str, path)), layer, None
    return None


def _is_convolution(layer: Any) -> bool:
    return isinstance(layer, nnx.Conv) and len(layer.kernel.shape) == 4


def field(convolution: nnx.Conv, size: tuple[int, int]) -> Field | None:
    """What the units of a convolution see; None if that is no rectangle of its images.

    Args:
      convolution: two-dimensional.
      size: height and width of its images.
    """

    def pair(value: Any) -> tuple[int, int]:
        vertical, horizontal = np.broadcast_to(np.asarray(value), 2).tolist()
        return vertical, horizontal

    if pair(convolution.input_dilation) != (1, 1):
        return None
    step, dilation = pair(convolution.strides), pair(convolution.kernel_dilation)
    kernel = convolution.kernel.shape[:2]
    seen = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    padding: Any = convolution.padding
    if padding in ("CIRCULAR", "REFLECT"):
        before = [(side - 1) // 2 for side in seen]
    elif isinstance(padding, str):
        before = [low for low, _ in lax.padtype_to_pads(size, seen, step, padding)]
    else:
        sides = (padding, padding) if isinstance(padding, int) else padding
        before = [side if isinstance(side, int) else side[0] for side in sides]
    return Field(pair(seen), step, pair(before))


def as_float(array: Any) -> Float[np.ndarray, "..."]:
    """An array of floats of any precision in float32, for NumPy."""
    return np.asarray(array).astype(np.float32)
