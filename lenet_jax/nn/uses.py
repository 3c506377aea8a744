"""The squares of a program's derivatives at each use of a weight.

A weight that is shared, as that of a kernel is by all places of a map, has many uses; its
derivative is the sum of theirs. Some methods want the sum of their squares instead, which no
gradient has.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, Literal, Var
from jaxtyping import Array

from lenet_jax.nn.rewrite import ELEMENTWISE, fast_forms

# Each element that these give is a sum of elements of an operand: squares go back as they came.
REARRANGEMENTS = frozenset(
    (
        *("broadcast_in_dim", "concatenate", "copy", "dynamic_slice", "expand_dims", "gather"),
        *("pad", "reduce_sum", "reshape", "rev", "scatter", "scatter-add", "slice", "split"),
        *("squeeze", "transpose"),
    )
)
PRODUCTS = frozenset(("conv_general_dilated", "dot_general"))  # of two operands
Form = Callable[[Callable[..., Any]], Callable[..., Any]]


def vjp_of_squares(
    function: Callable[[Any, Any], Array], weights: Any, inputs: Any, *, fast: bool = False
) -> tuple[Array, Callable[[Array], Any]]:
    """The value of a function, and what maps its cotangent to sums of squares, one for each weight.

    They are sums over the weight's uses of the square of the derivative along this use alone. A use
    is a place where an element of `inputs`, or what is computed of it, meets the weight: a product
    of the two, a sum. What is computed of weights alone, before, is taken for a sum too, one term
    for each path. A weight that goes through another kind of operation, such as a loop or a
    function with a rule of its own, has the square of its whole derivative.

    Args:
      function: of weights and inputs, to an array.
      weights: a pytree of arrays.
      inputs: likewise.
      fast: whether convolutions and pools get fast forms, see `fast_forms`.
    """
    form = fast_forms if fast else _as_it_is
    closed = jax.make_jaxpr(function)(weights, inputs)
    leaves, treedef = jax.tree.flatten(weights)
    others = [_Input(leaf) for leaf in jax.tree.leaves(inputs)]
    tapes: list[_Tape] = []

    def run(leaves: list[Array], offsets: Any) -> tuple[Array, list[list[Any]]]:
        tapes.append(tape := _Tape(iter(offsets), len(leaves)))
        tracked = [_Weight(leaf, index) for index, leaf in enumerate(leaves)]
        (out,) = tape.evaluate(closed.jaxpr, closed.consts, [*tracked, *others])
        return _array(out), [step.operands for step in tape.steps]

    jax.eval_shape(functools.partial(run, offsets=()), leaves)
    shapes = [aval for step in tapes.pop().steps if step.is_use for aval in step.avals]
    zeros = [jnp.zeros(aval.shape, aval.dtype) for aval in shapes]
    value, pull_back, operands = jax.vjp(form(run), leaves, zeros, has_aux=True)
    (tape,) = tapes

    def squares(cotangent: Array) -> Any:
        gradients, at_uses = pull_back(cotangent)
        sums, opaque = tape.pull_back([jnp.square(g) for g in at_uses], operands, form)
        return jax.tree.unflatten(
            treedef,
            [
                jnp.square(gradient)
                if index in opaque
                else sums.get(index, jnp.zeros_like(gradient))
                for index, gradient in enumerate(gradients)
            ],
        )

    return value, squares


@dataclasses.dataclass(frozen=True)
class _Input:
    """What depends on the inputs."""

    array: Any


@dataclasses.dataclass(frozen=True)
class _Weight:
    """What depends on weights alone; `number` names it."""

    array: Any
    number: int


@dataclasses.dataclass(frozen=True)
class _Step:
    """An operation that has weights among its operands.

    Attributes:
      equation: the operation.
      operands: arrays.
      weights: which of them are weights, and the numbers of these.
      is_use: whether others are inputs.
      outs: the numbers of what it gives, unless this is a use.
      avals: shapes and dtypes of what it gives.
    """

    equation: Any
    operands: list[Any]
    weights: dict[int, int]
    is_use: bool
    outs: list[int]
    avals: list[Any]


class _Tape:
    """Runs a program, and notes what happens to its weights."""

    def __init__(self, offsets: Iterator[Array], count: int):
        """Creates an empty tape; `offsets` are added to what the uses give, if there are any.

        Args:
          offsets: one for each array that a use gives.
          count: how many weights there are; what is computed of them has the numbers from there on.
        """
        self.offsets, self.steps, self.count = offsets, list[_Step](), count

    def evaluate(self, jaxpr: Jaxpr, consts: Sequence[Any], args: Sequence[Any]) -> list[Any]:
        """Runs a program of `_Input`, `_Weight` and plain arrays, which depend on neither."""
        values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))

        def read(atom: Var | Literal) -> Any:
            return atom.val if isinstance(atom, Literal) else values[atom]

        for equation in jaxpr.eqns:
            outs = self.apply(equation, [read(atom) for atom in equation.invars])
            values |= zip(equation.outvars, outs, strict=True)
        return [read(atom) for atom in jaxpr.outvars]

    def apply(self, equation: Any, args: Sequence[Any]) -> list[Any]:
        """Runs one operation."""
        if equation.primitive.name in ("jit", "pjit"):  # a function that is only compiled apart
            inner = equation.params["jaxpr"]
            return self.evaluate(inner.jaxpr, inner.consts, args)
        operands = [_array(arg) for arg in args]
        outs = _bind(equation, operands)
        weights = {i: arg.number for i, arg in enumerate(args) if isinstance(arg, _Weight)}
        is_use = any(isinstance(arg, _Input) for arg in args)
        if not weights or not all(jnp.issubdtype(out.dtype, jnp.inexact) for out in outs):
            return [_Input(out) if is_use else out for out in outs]
        numbers = list(range(self.count, self.count + len(outs)))
        self.count += len(outs)
        avals = [jax.typeof(out) for out in outs]
        self.steps.append(_Step(equation, operands, weights, is_use, numbers, avals))
        if not is_use:
            return [_Weight(out, number) for out, number in zip(outs, numbers, strict=True)]
        return [_Input(out + next(self.offsets, jnp.zeros((), out.dtype))) for out in outs]

    def pull_back(
        self, at_uses: Sequence[Array], operands: Sequence[list[Any]], form: Form
    ) -> tuple[dict[int, Array], set[int]]:
        """Sums of squares by the weights' numbers, and those whose way here is not known."""
        sums, opaque, left = dict[int, Array](), set[int](), list(at_uses)
        for step, arrays in zip(reversed(self.steps), reversed(operands), strict=True):
            if step.is_use:
                count = len(step.avals)
                given, left = left[len(left) - count :], left[: len(left) - count]
            elif not sums.keys().isdisjoint(step.outs) or not opaque.isdisjoint(step.outs):
                zeros = (jnp.zeros(aval.shape, aval.dtype) for aval in step.avals)
                given = [sums.pop(n, z) for n, z in zip(step.outs, zeros, strict=True)]
            else:
                continue
            known = opaque.isdisjoint(step.outs) and _is_known(step.equation)
            for place, number in step.weights.items():
                if not known:
                    opaque.add(number)
                    continue
                new = _squares(step.equation, arrays, place, given, form)
                sums[number] = sums[number] + new if number in sums else new
        return sums, opaque


def _is_known(equation: Any) -> bool:
    name = equation.primitive.name
    return name in ELEMENTWISE or name in REARRANGEMENTS or name in PRODUCTS


def _squares(
    equation: Any, operands: list[Any], place: int, given: list[Array], form: Form
) -> Array:
    """The squares for one operand, of those for what an operation gives."""
    name = equation.primitive.name
    if name in PRODUCTS:
        operands = [jnp.square(operand) for operand in operands]

    def along(operand: Array) -> list[Any]:
        return _bind(equation, [*operands[:place], operand, *operands[place + 1 :]])

    if name in ELEMENTWISE:
        _, slopes = jax.jvp(along, operands[place : place + 1], [jnp.ones_like(operands[place])])
        return _sum_to(jnp.square(slopes[0]) * given[0], jnp.shape(operands[place]))
    _, pull_back = jax.vjp(form(along), operands[place])
    return pull_back(given)[0]


def _sum_to(array: Array, shape: tuple[int, ...]) -> Array:
    """The sum over those axes along which an operand of this shape has been repeated."""
    if not shape:
        return jnp.sum(array)
    axes = [axis for axis, size in enumerate(shape) if size != array.shape[axis]]
    return jnp.sum(array, axes, keepdims=True)


def _as_it_is(function: Callable[..., Any]) -> Callable[..., Any]:
    return function


def _bind(equation: Any, operands: Sequence[Any]) -> list[Any]:
    primitive = equation.primitive
    outs = primitive.bind(*operands, **primitive.get_bind_params(equation.params))
    return list(outs) if primitive.multiple_results else [outs]


def _array(value: Any) -> Any:
    return value.array if isinstance(value, _Input | _Weight) else value
