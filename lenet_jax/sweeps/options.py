"""How a sweep is run."""

from typing import NamedTuple

from lenet_jax.training.population import Strategy


class Options(NamedTuple):
    """The options of a sweep, besides its config and sweep file."""

    workdir: str
    save: str = "best"
    shared_data_order: bool = False
    strategy: Strategy = "auto"
    chunk_size: int | None = None
    worker: tuple[int, int] = (1, 1)
    collect: bool = False
    dry_run: bool = False
