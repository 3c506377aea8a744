"""What the figures of a sweep show: the errors of its settings, and the title."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from lenet_jax.plots import settings as plots
from lenet_jax.plots.corruptions import CLEAN, MEAN
from lenet_jax.statistics import Summary, summarise
from lenet_jax.storage.chunk import CORRUPTED, MEAN_CORRUPTION_ERROR
from lenet_jax.sweeps.results import Setting, choose, ranking

MOST_MAPPED = 40  # settings in the heat map of corruptions


def for_plot(
    settings: Sequence[Setting], curves: Mapping[int, Mapping[str, np.ndarray]]
) -> list[plots.Setting]:
    """The data of the figure for each setting.

    Args:
      settings: from `by_setting`.
      curves: the metrics of each member by name, one value per epoch; or none at all.
    """
    winner, shown = choose(settings), []
    for index, setting in enumerate(settings):
        test = [100 * (1 - row["test_accuracy"]) for row in setting.done]
        split = "valid" if setting.validated else "train"
        errors = [
            100 * (1 - _held(curves[row["member"]][f"{split}_accuracy"]))
            for row in setting.done
            if curves
        ]
        shown.append(
            plots.Setting(
                name=setting.name,
                overrides=setting.overrides,
                diverged=len(setting.rows) - len(setting.done),
                stuck=setting.stuck,
                errors=np.array(errors),
                test_errors=test,
                test=summarise(test, 100.0),
                best=winner is not None and winner[0] == index,
                validated=setting.validated or not setting.done,
                chance=100 * (1 - setting.chance) if setting.chance else None,
            )
        )
    return shown


def errors_by_corruption(settings: Sequence[Setting]) -> dict[str, dict[str, Summary]]:
    """The errors of each setting on clean and corrupted test images, and their mean, in %, by name.

    Nothing if the sweep did not test on them; of many settings the `MOST_MAPPED` best.
    """
    names = [name for name in settings[0].rows[0] if name.startswith(CORRUPTED)]
    if not names:
        return {}
    shown = range(len(settings))
    if len(settings) > MOST_MAPPED:
        shown = ranking(settings)[:MOST_MAPPED] or shown[:MOST_MAPPED]
    errors = {}
    for setting in (settings[index] for index in shown):
        columns = {CLEAN: "test_accuracy"} | {name.removeprefix(CORRUPTED): name for name in names}
        values = {
            name: [100 * (1 - row[column]) for row in setting.done]
            for name, column in columns.items()
        }
        values[MEAN] = [100 * row[MEAN_CORRUPTION_ERROR] for row in setting.done]
        errors[setting.name] = {name: summarise(own, 100.0) for name, own in values.items()}
    return errors


def title(name: str, summary: Mapping[str, Any]) -> str:
    """The title of a sweep's picture and page: its name, what it trained, and if all is there."""
    about = summary.get("about")
    so_far = "" if summary["status"] == "done" else ", so far"
    return name + (f", {about}" if about else "") + so_far


def _held(curve: Float[np.ndarray, " epochs"]) -> Float[np.ndarray, " epochs"]:
    """A curve whose last value stays where a member had stopped, as its network does."""
    missing = np.isnan(curve)
    if not missing.any():
        return curve
    trained = curve[~missing]
    return np.pad(trained, (0, len(curve) - len(trained)), "edge")
