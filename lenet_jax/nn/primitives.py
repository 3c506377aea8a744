"""Layers as JAX primitives whose derivatives of every order are fast kernels again.

A layer that is linear in its input and in its weights has one trilinear form,

    T(x, kernel, cotangent) = Σ cotangent · layer(x, kernel),

and its value and both gradients are the derivatives of T in one argument each. Each of the three is
linear in the two arguments that are left, so that the derivatives of the three are these three
again: forward mode, reverse mode and any composition of them need no other code. A convolution that
is read at the winners of a max-pool is such a layer too; the winners are constants of it.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

Function = Callable[..., Any]


class Trilinear:
    """A layer `apply(x, kernel, bias, *constants)` and its two gradients.

    All three functions are differentiable to any order, and map over images and networks.

    The batch is the last axis of `x`, of the cotangent and of the constants.
    """

    def __init__(
        self,
        name: str,
        apply: Function,
        kernel_gradient: Function,
        input_gradient: Function,
        *,
        together: bool = False,
    ):
        """Builds primitives from three functions of arrays, which may call foreign code.

        Args:
          name: of the layer, in jaxprs.
          apply: (x, kernel, bias, *constants) → the layer's value.
          kernel_gradient: (x, cotangent, *constants, groups) → the gradients of kernel and bias of
            each of so many groups of images, which lie one after the other in the batch.
          input_gradient: (kernel, cotangent, *constants) → the gradient of x.
          together: JAX maps the three functions, see `map_networks`; they never see groups.
        """
        self._apply = make_primitive(name, lambda *args: (apply(*args),))
        self._kernel_gradient = make_primitive(
            f"{name}_kernel_gradient", kernel_gradient, ("groups",)
        )
        self._input_gradient = make_primitive(
            f"{name}_input_gradient", lambda *args: (input_gradient(*args),)
        )
        ad.primitive_jvps[self._apply] = self._apply_jvp
        ad.primitive_jvps[self._kernel_gradient] = self._kernel_gradient_jvp
        ad.primitive_jvps[self._input_gradient] = self._input_gradient_jvp
        ad.primitive_transposes[self._apply] = self._apply_transpose
        ad.primitive_transposes[self._kernel_gradient] = self._kernel_gradient_transpose
        ad.primitive_transposes[self._input_gradient] = self._input_gradient_transpose
        if together:
            map_networks(self._apply, lambda *args: (apply(*args),))
            map_networks(self._kernel_gradient, kernel_gradient, groups=1)
            map_networks(self._input_gradient, lambda *args: (input_gradient(*args),))
            return
        batching.primitive_batchers[self._apply] = self._map_apply
        batching.primitive_batchers[self._kernel_gradient] = self._map_kernel_gradient
        batching.primitive_batchers[self._input_gradient] = self._map_input_gradient

    def apply(self, x: Array, kernel: Array, bias: Array, *constants: Array) -> Array:
        """The layer's value."""
        return self._apply.bind(x, kernel, bias, *constants)[0]

    def kernel_gradient(self, x: Array, cotangent: Array, *constants: Array) -> list[Array]:
        """The gradients of kernel and bias, summed over the images."""
        gradients = self._kernel_gradient.bind(x, cotangent, *constants, groups=1)
        return [gradient[0] for gradient in gradients]

    def input_gradient(self, kernel: Array, cotangent: Array, *constants: Array) -> Array:
        """The gradient of x."""
        return self._input_gradient.bind(kernel, cotangent, *constants)[0]

    def tangent(self, primals: Sequence[Array], tangents: Sequence[Any], value: Array) -> Any:
        """The tangent of `apply`'s value; a symbolic zero if all given tangents are."""
        x, kernel, bias, *constants = primals
        of_x, of_kernel, of_bias, *_ = tangents
        terms = []
        if not isinstance(of_x, ad.Zero):
            terms.append(self.apply(of_x, kernel, jnp.zeros_like(bias), *constants))
        if not (isinstance(of_kernel, ad.Zero) and isinstance(of_bias, ad.Zero)):
            weights = map(ad.instantiate_zeros, (of_kernel, of_bias))
            terms.append(self.apply(x, *weights, *constants))
        return _sum(terms, value)

    def _apply_jvp(self, primals: Sequence[Array], tangents: Sequence[Any]) -> Any:
        value = self.apply(*primals)
        return [value], [self.tangent(primals, tangents, value)]

    def _apply_transpose(
        self, cotangents: Sequence[Any], x: Any, kernel: Any, bias: Any, *constants: Array
    ) -> list[Any]:
        none = [None] * len(constants)
        cotangent = cotangents[0]
        asked = tuple(map(ad.is_undefined_primal, (x, kernel, bias)))
        if isinstance(cotangent, ad.Zero):
            operands = zip((x, kernel, bias), asked, strict=True)
            return [ad.Zero(operand.aval) if a else None for operand, a in operands] + none
        of_x = None
        if asked[0]:
            of_x = self.input_gradient(kernel, cotangent, *constants)
            if not asked[2]:
                return [of_x, None, None, *none]
            x = jnp.zeros_like(of_x)  # on which the bias's gradient does not depend
        gradients = self.kernel_gradient(x, cotangent, *constants)
        return [of_x, *(g if a else None for g, a in zip(gradients, asked[1:], strict=True)), *none]

    def _kernel_gradient_jvp(
        self, primals: Sequence[Array], tangents: Sequence[Any], *, groups: int
    ) -> Any:
        x, cotangent, *constants = primals
        of_x, of_cotangent, *_ = tangents
        values = self._kernel_gradient.bind(*primals, groups=groups)
        kernel_terms, bias_terms = [], []
        if not isinstance(of_x, ad.Zero):
            kernel_terms.append(
                self._kernel_gradient.bind(of_x, cotangent, *constants, groups=groups)[0]
            )
        if not isinstance(of_cotangent, ad.Zero):
            of_kernel, of_bias = self._kernel_gradient.bind(
                x, of_cotangent, *constants, groups=groups
            )
            kernel_terms.append(of_kernel)
            bias_terms.append(of_bias)
        return values, [_sum(kernel_terms, values[0]), _sum(bias_terms, values[1])]

    def _kernel_gradient_transpose(
        self, cotangents: Sequence[Any], x: Any, cotangent: Any, *constants: Array, groups: int
    ) -> list[Any]:
        kernels, biases = map(ad.instantiate_zeros, cotangents)

        def by_group(array: Array) -> Array:
            return jnp.moveaxis(array.reshape(*array.shape[:-1], groups, -1), -2, 0)

        none = [None] * len(constants)
        grouped = list(map(by_group, constants))
        if ad.is_undefined_primal(x):
            args = (kernels, by_group(cotangent), *grouped)
            return [_over_groups(self.input_gradient, args), None, *none]
        args = (by_group(x), kernels, biases, *grouped)
        return [None, _over_groups(self.apply, args), *none]

    def _input_gradient_jvp(self, primals: Sequence[Array], tangents: Sequence[Any]) -> Any:
        kernel, cotangent, *constants = primals
        of_kernel, of_cotangent, *_ = tangents
        value = self.input_gradient(*primals)
        terms = []
        if not isinstance(of_kernel, ad.Zero):
            terms.append(self.input_gradient(of_kernel, cotangent, *constants))
        if not isinstance(of_cotangent, ad.Zero):
            terms.append(self.input_gradient(kernel, of_cotangent, *constants))
        return [value], [_sum(terms, value)]

    def _input_gradient_transpose(
        self, cotangents: Sequence[Any], kernel: Any, cotangent: Any, *constants: Array
    ) -> list[Any]:
        none = [None] * len(constants)
        (of_x,) = map(ad.instantiate_zeros, cotangents)
        if ad.is_undefined_primal(kernel):
            return [self.kernel_gradient(of_x, cotangent, *constants)[0], None, *none]
        zeros = jnp.zeros(kernel.shape[-1:], kernel.dtype)
        return [None, self.apply(of_x, kernel, zeros, *constants), *none]

    def _map_apply(self, args: Sequence[Array], axes: Sequence[int | None]) -> Any:
        return map_images(self._apply, args, axes, weights=(1, 2))

    def _map_input_gradient(self, args: Sequence[Array], axes: Sequence[int | None]) -> Any:
        return map_images(self._input_gradient, args, axes, weights=(0,))

    def _map_kernel_gradient(
        self, args: Sequence[Array], axes: Sequence[int | None], *, groups: int
    ) -> Any:
        size = _mapped_size(args, axes)
        if not size:
            return _map_nothing(self._kernel_gradient, args, axes, groups=groups)
        merged = [_merge(arg, axis, size) for arg, axis in zip(args, axes, strict=True)]
        gradients = self._kernel_gradient.bind(*merged, groups=size * groups)
        split = [g.reshape(size, groups, *g.shape[1:]) for g in gradients]
        return split, [0] * len(split)


def make_linear(name: str, function: Function, transpose: Function) -> tuple[Function, Function]:
    """Two linear functions of arrays with the batch last, each the other's transpose.

    Args:
      name: of the function, in jaxprs.
      function: from one array to one.
      transpose: what reverse mode takes in place of the function's own derivative.
    """
    forth = make_primitive(name, lambda x: (function(x),))
    back = make_primitive(f"{name}_transpose", lambda x: (transpose(x),))
    for primitive, other in ((forth, back), (back, forth)):
        ad.deflinear2(primitive, lambda cotangents, _, other=other: other.bind(*cotangents))
        batching.primitive_batchers[primitive] = partial(map_images, primitive, weights=())
    return lambda x: forth.bind(x)[0], lambda x: back.bind(x)[0]


def make_primitive(name: str, function: Function, static: tuple[str, ...] = ()) -> Primitive:
    """A primitive that runs a function of arrays; its derivatives are the caller's to define.

    Args:
      name: of the primitive, in jaxprs.
      function: returns a sequence of arrays.
      static: the names of its parameters that are not arrays.
    """
    primitive = Primitive(name)
    primitive.multiple_results = True
    primitive.def_impl(jax.jit(function, static_argnames=static))

    def abstract_eval(*args: Any, **params: Any) -> list[ShapedArray]:
        outs = jax.eval_shape(lambda *a: function(*a, **params), *args)
        return [ShapedArray(out.shape, out.dtype) for out in outs]

    primitive.def_abstract_eval(abstract_eval)
    mlir.register_lowering(primitive, mlir.lower_fun(function, multiple_results=True))
    return primitive


def map_images(
    primitive: Primitive,
    args: Sequence[Array],
    axes: Sequence[int | None],
    weights: Sequence[int],
) -> Any:
    """The batching rule of a layer: more images are a longer batch; other weights, another call.

    Args:
      primitive: what is mapped; its arguments but the weights have the batch last.
      args: its arguments.
      axes: which of their axes is mapped; None: none.
      weights: the positions of the arguments that have no batch.
    """
    size = _mapped_size(args, axes)
    if not size:
        return _map_nothing(primitive, args, axes)
    if any(axes[index] is not None for index in weights):
        front = [
            arg if axis is None else jnp.moveaxis(arg, axis, 0)
            for arg, axis in zip(args, axes, strict=True)
        ]
        mapped = [arg for arg, axis in zip(front, axes, strict=True) if axis is not None]

        def call(slices: list[Array]) -> Any:
            rest = iter(slices)
            own = [
                arg if axis is None else next(rest) for arg, axis in zip(front, axes, strict=True)
            ]
            return primitive.bind(*own)

        outs = lax.map(call, mapped)
        return outs, [0] * len(outs)
    merged = [
        arg if index in weights else _merge(arg, axis, size)
        for index, (arg, axis) in enumerate(zip(args, axes, strict=True))
    ]
    outs = primitive.bind(*merged)
    split = [out.reshape(*out.shape[:-1], size, -1) for out in outs]
    return split, [out.ndim - 2 for out in split]


def map_networks(primitive: Primitive, function: Function, **params: Any) -> None:
    """Gives a primitive the batching rule that JAX maps its function: all networks at once.

    The mapped function is a primitive again. Its derivatives, which only a derivative of a mapped
    function asks for, are those of the networks one after the other.

    Args:
      primitive: what is mapped.
      function: what it runs.
      params: the parameters that it is always bound with.
    """

    def run(*args: Array, levels: tuple[tuple[bool, ...], ...]) -> Sequence[Array]:
        mapped = partial(function, **params)
        for level in reversed(levels):  # the outermost is the first
            mapped = jax.vmap(mapped, [0 if is_mapped else None for is_mapped in level])
        return mapped(*args)

    def one_after_the_other(*args: Array, levels: tuple[tuple[bool, ...], ...]) -> Any:
        def call(own: list[Array]) -> Any:
            rest = iter(own)
            each = [next(rest) if m else arg for arg, m in zip(args, levels[0], strict=True)]
            if len(levels) > 1:
                return many.bind(*each, levels=levels[1:])
            return primitive.bind(*each, **params)

        return lax.map(call, [arg for arg, m in zip(args, levels[0], strict=True) if m])

    def batch(args: Sequence[Array], axes: Sequence[int | None], **bound: Any) -> Any:
        if not _mapped_size(args, axes):
            return _map_nothing(many if "levels" in bound else primitive, args, axes, **bound)
        front = [
            arg if axis is None else jnp.moveaxis(arg, axis, 0)
            for arg, axis in zip(args, axes, strict=True)
        ]
        level = tuple(axis is not None for axis in axes)
        outs = many.bind(*front, levels=(level, *bound.get("levels", ())))
        return outs, [0] * len(outs)

    def differentiate(
        primals: Sequence[Array], tangents: Sequence[Any], *, levels: tuple[tuple[bool, ...], ...]
    ) -> Any:
        function = partial(one_after_the_other, levels=levels)
        return jax.jvp(function, (*primals,), (*map(ad.instantiate_zeros, tangents),))

    many = make_primitive(f"{primitive.name}_of_many", run, ("levels",))
    ad.primitive_jvps[many] = differentiate
    batching.primitive_batchers[primitive] = batch
    batching.primitive_batchers[many] = batch


def _mapped_size(args: Sequence[Array], axes: Sequence[int | None]) -> int:
    return next(a.shape[axis] for a, axis in zip(args, axes, strict=True) if axis is not None)


def _map_nothing(
    primitive: Primitive, args: Sequence[Array], axes: Sequence[int | None], **params: Any
) -> Any:
    """The values over a mapped axis of size 0."""
    shapes = [
        jax.ShapeDtypeStruct(arg.shape if axis is None else np.delete(arg.shape, axis), arg.dtype)
        for arg, axis in zip(args, axes, strict=True)
    ]
    outs = jax.eval_shape(partial(primitive.bind, **params), *shapes)
    return [jnp.zeros((0, *out.shape), out.dtype) for out in outs], [0] * len(outs)


def _merge(array: Array, axis: int | None, size: int) -> Array:
    """The mapped axis in front of the batch, and one with it."""
    if axis is None:
        array = jnp.broadcast_to(array[..., None, :], (*array.shape[:-1], size, array.shape[-1]))
    else:
        array = jnp.moveaxis(array, axis, -2)
    return array.reshape(*array.shape[:-2], -1)


def _over_groups(function: Function, args: Sequence[Array]) -> Array:
    """A function of each group of images, which have the groups in front; their batches joined."""
    if args[0].shape[0] == 1:
        return function(*(arg[0] for arg in args))
    values = jnp.moveaxis(lax.map(lambda own: function(*own), args), 0, -2)
    return values.reshape(*values.shape[:-2], -1)


def _sum(terms: Sequence[Array], like: Array) -> Any:
    """The sum of tangents; a symbolic zero if there are none."""
    if not terms:
        return ad.Zero(jax.typeof(like).to_tangent_aval())
    return terms[0] if len(terms) == 1 else terms[0] + terms[1]
