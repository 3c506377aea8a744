"""Sweeps at URLs, for whoever reads a sweep from its folder."""

from lenet_jax.errors import UserError, is_url


def fetch(path: str) -> str:
    """The folder of a copy, of a sweep at a URL; any other path as it is.

    Raises:
      UserError: there is no sweep at the URL, or it cannot be read.
    """
    if not is_url(path):
        return path
    from lenet_jax.storage.sweep_url import SweepAtUrl  # late: mistakes are reported at once

    store = SweepAtUrl(path)
    store.pull()
    if store.plan() is None:
        raise UserError(f"{path} has no sweep")
    return str(store.path)
