"""The cells of the error table: a network, a way to train it, and its images."""

import itertools
import sys
from pathlib import Path
from typing import NamedTuple

CONFIG = "configs/lenet_1998.py"
TRAININGS, IMAGES = ("then", "now"), ("plain", "distorted")
BOOSTED = "boosted_lenet4"


class Network(NamedTuple):
    """A row of the paper's table.

    Attributes:
      title: its name there.
      plain, distorted: its error there in percent, without and with distorted images; None: the
        paper gives none.
    """

    title: str
    plain: float | None
    distorted: float | None = None


NETWORKS = {
    "linear": Network("linear classifier", 12.0),
    "mlp_300": Network("28×28-300-10", 4.7, 3.6),
    "mlp_300_100": Network("28×28-300-100-10", 3.05, 2.5),
    "lenet1": Network("LeNet-1", 1.7),
    "lenet4": Network("LeNet-4", 1.1),
    BOOSTED: Network("boosted LeNet-4", None, 0.7),
    "lenet5": Network("LeNet-5", 0.95, 0.8),
}
# Beside what a config has: planar affine transformations, which the paper does not quantify.
DISTORTED = {
    "augment.shift": 2.0,
    "augment.rotate": 10.0,
    "augment.scale": 0.1,
    "augment.shear": 10.0,
}
# A step for each image, as in the paper, to see what batches of 2 change.
ONE_BY_ONE = {"train.batch_size": 1, "train.micro_batch_size": 1}


class Cell(NamedTuple):
    """A network, a way to train it, and its images."""

    network: str
    training: str
    images: str

    def __str__(self) -> str:
        """`lenet5_then_plain`."""
        return "_".join(self)

    @property
    def published(self) -> float | None:
        """The paper's error in percent."""
        row = NETWORKS[self.network]
        return row.distorted if self.images == "distorted" else row.plain

    @property
    def config(self) -> str:
        """The argument of `configs/lenet_1998.py`."""
        return self.network + ",then" * (self.training != "now")

    @property
    def changes(self) -> dict[str, float]:
        """Beside what the config has."""
        single = ONE_BY_ONE if self.training == "single" else {}
        return single | (DISTORTED if self.images == "distorted" else {})

    def command(self, seeds: range, folder: Path) -> list[str]:
        """The sweep over seeds."""
        changes = [f"--config.{key}={value}" for key, value in self.changes.items()]
        return [
            *(sys.executable, "-m", "lenet_jax.sweep", f"--config={CONFIG}:{self.config}"),
            *(f"--sweep=configs/sweeps/seeds.py:{seeds.start}-{seeds[-1]}", f"--workdir={folder}"),
            *("--save=none", *changes),
        ]


CELLS = [
    cell
    for cell in map(Cell._make, itertools.product(NETWORKS, TRAININGS, IMAGES))
    # The second and third network learn distorted images, whatever the first does.
    if cell.network != BOOSTED or cell.images == "distorted"
]
CELLS.insert(CELLS.index(Cell("lenet1", "then", "distorted")), Cell("lenet1", "single", "plain"))
