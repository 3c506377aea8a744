"""The computation graph of a function, as text.

PyTorch records its graph while the forward pass runs and attaches it to the output (`out.grad_fn`).
JAX traces the function once, before it runs, to a jaxpr, which is formatted here.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Var
from jaxtyping import PyTree

UNKNOWN = "…"  # an input of the body of a loop or branch


class Operation(NamedTuple):
    """One line of the graph.

    Attributes:
      layer: its `jax.named_scope`; empty outside any scope.
      depth: the number of operations that enclose it.
      name: the primitive, or the function with a custom derivative.
      output: dtype and shape, such as `float32[1,28,28,6]`.
      inputs: `%n` for the output of line n (`%n[i]` if it has several), names of parameters and
        of x, and literals.
    """

    layer: str
    depth: int
    name: str
    output: str
    inputs: tuple[str, ...]


def describe(forward: Callable[[Any, Any], Any], params: PyTree, x: PyTree) -> str:
    """The operations of `forward(params, x)` as lines of text, in execution order.

    Each line has a number, the layer, the operation, its output and its inputs; `%3` is the output
    of line 3. The operations of a function with a custom derivative (`custom_vjp`, `custom_jvp`)
    are indented below it, as are the bodies of loops.

    Args:
      forward: a traceable function; its layers are named by `jax.named_scope`.
      params: its first argument: arrays or `jax.ShapeDtypeStruct`s.
      x: its second argument, likewise.
    """
    lines = operations(forward, params, x)
    cells = [
        (f"%{i}", op.layer, "  " * op.depth + op.name, op.output, ", ".join(op.inputs))
        for i, op in enumerate(lines, start=1)
    ]
    cells.insert(0, ("", "layer", "operation", "output", "inputs"))
    *widths, _ = (max(map(len, column)) for column in zip(*cells, strict=True))
    return "\n".join(
        "  ".join((number.rjust(widths[0]), *map(str.ljust, texts, widths[1:]), inputs)).rstrip()
        for number, *texts, inputs in cells
    )


def operations(forward: Callable[[Any, Any], Any], params: PyTree, x: PyTree) -> list[Operation]:
    """The operations of `forward(params, x)` in execution order; see `describe`."""
    closed = jax.make_jaxpr(forward)(params, x)
    inputs = [*_leaf_names(params, ""), *_leaf_names(x, "x")]
    graph: list[Operation] = []
    _append(graph, closed.jaxpr, inputs, "", 0)
    return graph


def _append(
    graph: list[Operation], jaxpr: Jaxpr, inputs: Sequence[str], layer: str, depth: int
) -> list[str]:
    """Appends a jaxpr's operations; returns the names of its outputs."""
    names: dict[Var, str] = dict.fromkeys(jaxpr.constvars, "constant")
    names |= zip(jaxpr.invars, inputs, strict=True)

    def name_of(atom: Var | Literal) -> str:
        return str(np.asarray(atom.val)) if isinstance(atom, Literal) else names[atom]

    for equation in jaxpr.eqns:
        scope = str(equation.source_info.name_stack) or layer
        sources = [name_of(atom) for atom in equation.invars]
        inner = list(bodies(equation.params))
        if equation.primitive.name == "jit":  # jax.numpy's own functions are jitted: inline them
            outputs = _append(graph, inner[0], sources, scope, depth)
        else:
            name = equation.primitive.name
            if name.startswith("custom_"):
                function = inner[0].debug_info.func_name
                name = f"{function} ({name.removesuffix('_call')})"
            shapes = ", ".join(f"{v.aval}".lstrip("~") for v in equation.outvars)
            graph.append(Operation(scope, depth, name, shapes, tuple(sources)))
            outputs = [f"%{len(graph)}"]
            if len(equation.outvars) != 1:
                outputs = [f"%{len(graph)}[{i}]" for i in range(len(equation.outvars))]
            for body in inner:
                known = len(body.invars) == len(sources)
                _append(
                    graph,
                    body,
                    sources if known else [UNKNOWN] * len(body.invars),
                    scope,
                    depth + 1,
                )
        names |= zip(equation.outvars, outputs, strict=True)
    return [name_of(atom) for atom in jaxpr.outvars]


def bodies(params: dict[str, Any]) -> Iterator[Jaxpr]:
    """The programs that an operation calls."""
    for value in params.values():
        for item in value if isinstance(value, tuple) else (value,):
            if isinstance(item, ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, Jaxpr):
                yield item


def _leaf_names(tree: PyTree, root: str) -> list[str]:
    paths = (path for path, _ in jax.tree_util.tree_leaves_with_path(tree))
    names = (jax.tree_util.keystr(path, simple=True, separator=".") for path in paths)
    return [".".join(filter(None, (root, name))).removesuffix(".value") for name in names]
