"""The name of a trained network, as commands, configs and `lenet_jax.load` take it.

RUN, FILE      a run directory; a file of weights
SWEEP:7        a sweep's member, after its best epoch on validation
SWEEP:7@3      the same after epoch 3, if its weights were recorded; 0: before the first
"""

import operator
import re
from typing import Any, NamedTuple

from lenet_jax.errors import UserError, expand, is_url, show


class NetworkName(NamedTuple):
    """What a name says.

    Attributes:
      path: of the run, the file or the sweep, as it was written.
      member: the sweep's, by its number; None: the name has none.
      epoch: after which; None: the best on validation, which results.csv is of.
    """

    path: str
    member: int | None = None
    epoch: int | None = None

    def __str__(self) -> str:
        """As it is written."""
        member = "" if self.member is None else f":{self.member}"
        return self.path + member + ("" if self.epoch is None else f"@{self.epoch}")

    @property
    def label(self) -> str:
        """Of the member, as a file may be called: `member_7_epoch_3`."""
        return f"member_{self.member}" + ("" if self.epoch is None else f"_epoch_{self.epoch}")


def parse(text: str) -> NetworkName:
    """What a name says; a file or a folder that is called so is just that.

    `SWEEP@7`, as members were once spelled, is `SWEEP:7`.
    """
    number = r"(\d{1,9})"
    found = re.fullmatch(rf"(.+):{number}@{number}", text) or re.fullmatch(
        rf"(.+)[:@]{number}", text
    )
    if found is None or (not is_url(text) and expand(text).exists()):
        return NetworkName(text)
    path, *numbers = found.groups()
    return NetworkName(path, *map(int, numbers))


def whole(name: str, value: Any) -> int | None:
    """A member's number, or an epoch's, as a caller gives it; None if there is none.

    Raises:
      UserError: it is no whole number.
    """
    try:
        return None if value is None else operator.index(value)
    except TypeError:
        raise UserError(f"{name} must be a whole number, not {show(repr(value))}") from None
