"""What suits each kind of device, as one table: every other module asks it.

A row is set from measurements of `python -m experiments.accelerator`, whose `--decide` prints the
row that the results of a device imply. A device that nothing was measured on has the row of its
platform. Keys of the config and flags override what a row says; see docs/accelerators.md.

No row changes what a config says: the precision of products and the images a gradient are the
config's on every device, so that one config is one computation. What would be faster is said.
"""

import dataclasses
from typing import Any, Literal


@dataclasses.dataclass(frozen=True)
class Defaults:
    """What suits a kind of device.

    Attributes:
      platform: JAX's name of the platform; empty: any.
      kind: how JAX's name of the device begins; empty: any.
      backends: of LeNet's layers under `model.backend=auto`, the first that is available.
      rewrites: whether convolutions and pools of other networks run in fast forms.
      shares_batches: whether devices share the batches of a single run.
      strategy: how the members of a population train on a device, under `--strategy=auto`.
      members: the most that train at once on a device, without `--chunk_size`.
      share_of_memory: of what is available, that a population may need.
      windows_held: memory of training LeNet, in units of an image's windows and phases. XLA plans
        0.9 of them for `phase` and `vmap` on a CPU and 0.6 on an H200; TPUs pad arrays.
      compiler_options: for `jax.jit`, of all networks.
      lenet_options: further ones, of LeNet's layers; see `nn.ops.compiler_options`.
      whole_batches: whether one gradient for a whole batch is faster than micro-batches.
      fast_precision: of products, that is faster at the same test accuracy; empty: none.
      results: the file with the measurements; empty: not measured.
    """

    platform: str
    kind: str = ""
    backends: tuple[Literal["native", "pallas", "phase", "plain"], ...] = ("phase",)
    rewrites: bool = False
    shares_batches: bool = False
    strategy: Literal["map", "vmap"] = "vmap"
    members: int = 1024
    share_of_memory: float = 0.8
    windows_held: float = 2.0
    compiler_options: tuple[tuple[str, Any], ...] = ()
    lenet_options: tuple[tuple[str, Any], ...] = ()
    whole_batches: bool = False
    fast_precision: str = ""
    results: str = ""

    def faster(self, config: Any) -> str | None:
        """The flags with which a config would train faster, in one line; None without any."""
        train, flags = config.train, []
        if self.whole_batches and train.micro_batch_size < train.batch_size:
            flags.append(f"--config.train.micro_batch_size={train.batch_size}")
        if self.fast_precision and train.precision == "float32":
            flags.append(f"--config.train.precision={self.fast_precision}")
        return f"faster on this device: {' '.join(flags)}" if flags else None


TABLE = (
    Defaults(
        "cpu",
        backends=("native", "phase"),  # the former needs a C++ compiler
        rewrites=True,
        shares_batches=True,
        strategy="map",  # a network this small then stays in the cache
        members=4,  # so that an interruption loses at most a minute of work
        # Eigen's matrix product, faster here than YNNPACK's
        compiler_options=(("xla_cpu_experimental_ynn_fusion_type", ""),),
        lenet_options=(("xla_cpu_multi_thread_eigen", False),),
        results="results/benchmark_cpu.json",
    ),
    Defaults(
        "gpu",
        kind="NVIDIA H200",
        whole_batches=True,
        fast_precision="tensorfloat32",
        results="results/accelerator_nvidia_h200.json",
    ),
    Defaults("gpu"),
    Defaults("tpu", windows_held=4.0),
    Defaults(""),
)


def defaults_of(device: Any) -> Defaults:
    """The first row that fits a device of JAX's."""
    return next(
        row
        for row in TABLE
        if row.platform in ("", device.platform) and device.device_kind.startswith(row.kind)
    )
