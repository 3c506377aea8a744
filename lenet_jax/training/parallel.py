"""Data parallelism for one network: each device takes its share of every batch.

On a CPU the devices are its cores. All of them hold the same parameters and data; gradients and
metrics are summed over `AXIS` inside the compiled function. The devices may be those of several
processes, see `replicas`.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree, ScalarLike, Shaped

from lenet_jax import machine
from lenet_jax.device_defaults import defaults_of
from lenet_jax.errors import UserError
from lenet_jax.nn import ops

AXIS = "devices"
Tree = TypeVar("Tree", bound=PyTree)


def count_sharing(batch_size: int, micro_batch_size: int) -> int:
    """The number of devices that share a batch, with at least one micro-batch each.

    Only the cores of a CPU do: a batch is little work for one accelerator, let alone for several.
    Between processes all do, whatever they are, and as many of each process.

    Raises:
      UserError: several processes cannot share it equally.
    """
    devices, processes = machine.devices(), jax.process_count()
    if processes > 1:
        return _count_sharing_processes(batch_size, micro_batch_size, processes)
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
    everywhere = NamedSharding(_mesh(num_devices), PartitionSpec())
    if jax.process_count() > 1:
        return jax.tree.map(functools.partial(_replicate_from_host, everywhere), tree)
    return jax.device_put(tree, everywhere)


def own_share(x: Shaped[jax.Array, "n ..."], num_devices: int) -> Shaped[jax.Array, "m ..."]:
    """The device's share of the leading axis, which is split over all devices."""
    if num_devices == 1:
        return x
    return x.reshape(num_devices, -1, *x.shape[1:])[lax.axis_index(AXIS)]


def own_index(num_devices: int) -> ScalarLike:
    """The device's place among those that share the work, counted from 0."""
    return 0 if num_devices == 1 else lax.axis_index(AXIS)


def sum_over_devices(tree: Tree, num_devices: int) -> Tree:
    """Sums a tree of float32 over the devices, as one array, so that they synchronise once.

    On CPUs the sum has the order of the devices, also between processes.
    """
    if num_devices == 1:
        return tree
    flat, unravel = ravel_pytree(tree)
    if jax.process_count() == 1:
        return unravel(lax.psum(flat, AXIS))
    shares = lax.all_gather(flat, AXIS)  # Gloo's sum has another order
    total = functools.reduce(jnp.add, [shares[device] for device in range(num_devices)])
    return unravel(lax.optimization_barrier(total))


def _count_sharing_processes(batch_size: int, micro_batch_size: int, processes: int) -> int:
    each = jax.local_device_count()
    if batch_size % micro_batch_size == 0:
        micro_batches = batch_size // micro_batch_size
        for count in range(each * processes, 0, -processes):
            if micro_batches % count == 0:
                return count
    raise UserError(
        f"{processes} processes cannot share a batch of {batch_size:,} images equally, in"
        f" micro-batches of {micro_batch_size:,}\n"
        "Choose train.micro_batch_size so that the micro-batches of a batch are a multiple of the"
        " processes."
    )


def _replicate_from_host(sharding: NamedSharding, x: Any) -> jax.Array:
    """An array on the devices of all processes, each of which has its values."""
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_replicate_from_host(sharding, jax.random.key_data(x)))
    values = np.asarray(x)
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])


def _mesh(num_devices: int) -> Mesh:
    """The first devices, as many of each process."""
    devices, processes = machine.devices(), jax.process_count()
    of_each = [[d for d in devices if d.process_index == index] for index in range(processes)]
    chosen = [device for own in of_each for device in own[: num_devices // processes]]
    return jax.make_mesh((num_devices,), (AXIS,), devices=chosen)
