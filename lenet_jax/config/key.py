"""A config key: the type of its values, and its default."""

from typing import NamedTuple


class Key(NamedTuple):
    """A key of `base.py`, or an argument of a network's constructor.

    Attributes:
      kind: of the values; `object` where it is not known: any number, text, tuple or boolean.
      default: None of a key that may be None.
      required: whether there is no default.
    """

    kind: type
    default: object = None
    required: bool = False

    @property
    def optional(self) -> bool:
        """Whether the key may be None, as a placeholder may."""
        return self.default is None and not self.required
