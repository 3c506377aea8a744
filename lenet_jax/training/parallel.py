"""Data parallelism for one network: each device takes its share of every batch.

On a CPU the devices are its cores. All of them hold the same parameters and data; gradients and
metrics are summed over `AXIS` inside the compiled function.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree, ScalarLike, Shaped

from lenet_jax import machine
from lenet_jax.device_defaults import defaults_of
from lenet_jax.nn import ops

AXIS = "devices"
Tree = TypeVar("Tree", bound=PyTree)


def count_sharing(batch_size: int, micro_batch_size: int) -> int:
    """The number of devices that share a batch, with at least one micro-batch each.

    Only the cores of a CPU do: a batch is little work for one accelerator, let alone for several.
    """
    devices = machine.devices()
    if not defaults_of(devices[0]).shares_batches or batch_size % micro_batch_size:
        return 1
    micro_batches = batch_size // micro_batch_size
    return max(n for n in range(1, len(devices) + 1) if micro_batches % n == 0)


def compile_shared(
    function: Callable[..., Any],
    num_devices: int,
    donate_argnums: tuple[int, ...] = (),
    options: Mapping[str, Any] | None = None,
) -> Any:
    """`jax.jit` of a function that runs on every device at once; one device: `jax.jit` alone.

    Args:
      function: takes and gives arrays that all devices have.
      num_devices: how many run it.
      donate_argnums: as for `jax.jit`.
      options: of the compiler; None: those of `ops.compiler_options`.
    """
    options = ops.compiler_options() if options is None else dict(options)
    if num_devices > 1:
        everywhere = PartitionSpec()
        function = jax.shard_map(
            function,
            mesh=_mesh(num_devices),
            in_specs=everywhere,
            out_specs=everywhere,
            check_vma=False,  # it cannot know that sums over the axis are the same everywhere
        )
    return jax.jit(function, donate_argnums=donate_argnums, compiler_options=options)


def replicate(tree: Tree, num_devices: int) -> Tree:
    """Copies arrays to every device that shares the work."""
    if num_devices == 1:
        return jax.device_put(tree, machine.devices()[0])
    return jax.device_put(tree, NamedSharding(_mesh(num_devices), PartitionSpec()))


def own_share(x: Shaped[jax.Array, "n ..."], num_devices: int) -> Shaped[jax.Array, "m ..."]:
    """The device's share of the leading axis, which is split over all devices."""
    if num_devices == 1:
        return x
    return x.reshape(num_devices, -1, *x.shape[1:])[lax.axis_index(AXIS)]


def own_index(num_devices: int) -> ScalarLike:
    """The device's place among those that share the work, counted from 0."""
    return 0 if num_devices == 1 else lax.axis_index(AXIS)


def sum_over_devices(tree: Tree, num_devices: int) -> Tree:
    """Sums a tree of float32 over the devices, as one array, so that they synchronise once."""
    if num_devices == 1:
        return tree
    flat, unravel = ravel_pytree(tree)
    return unravel(lax.psum(flat, AXIS))


def _mesh(num_devices: int) -> Mesh:
    return jax.make_mesh((num_devices,), (AXIS,), devices=machine.devices()[:num_devices])
