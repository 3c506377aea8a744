"""Keys that do nothing beside the others, of which a user who gives them should hear."""

from collections.abc import Collection
from operator import attrgetter

from lenet_jax.config.file import Config

# Of a key, the one that decides, and its values under which the key does something.
USED_BY: dict[str, tuple[str, tuple[str, ...]]] = {
    "optimizer.momentum": ("optimizer.name", ("sgd",)),
    "optimizer.dampening": ("optimizer.name", ("sgd",)),
    "optimizer.b1": ("optimizer.name", ("adam", "adamw")),
    "optimizer.b2": ("optimizer.name", ("adam", "adamw")),
    "optimizer.eps": ("optimizer.name", ("adam", "adamw")),
    "optimizer.mu": ("optimizer.name", ("diagonal_lm",)),
    "optimizer.samples": ("optimizer.name", ("diagonal_lm",)),
    "schedule.final_scale": ("schedule.name", ("cosine", "linear")),
    "schedule.step_epochs": ("schedule.name", ("step",)),
    "schedule.step_scale": ("schedule.name", ("step",)),
    "schedule.boundaries": ("schedule.name", ("piecewise",)),
    "schedule.factors": ("schedule.name", ("piecewise",)),
    "schedule.pct_start": ("schedule.name", ("one_cycle",)),
    "schedule.div_factor": ("schedule.name", ("one_cycle",)),
    "schedule.final_div_factor": ("schedule.name", ("one_cycle",)),
}
# Of a key, the one without which it does nothing: where that is 0 or None.
NEEDS = {
    "augment.elastic_sigma": "augment.elastic_alpha",
    "prune.method": "prune.amount",
    "prune.scope": "prune.amount",
    "seeds.prune": "prune.amount",
    "seeds.label_noise": "data.label_noise",
    "seeds.subset": "data.subset",
}


def unused(config: Config, given: Collection[str], swept: Collection[str] = ()) -> list[str]:
    """A remark on each key that was given, or is swept, and does nothing.

    Args:
      config: the config.
      given: the keys that the command line sets.
      swept: those that differ between members.
    """
    remarks, named = list[str](), {*given, *swept}
    for key, (by, values) in USED_BY.items():
        name = attrgetter(by)(config)
        if key in named and by not in swept and name not in values:
            remarks.append(f"{key} does nothing with {by}={name}: it is for {' and '.join(values)}")
    for key, other in NEEDS.items():
        value = attrgetter(other)(config)
        if key in named and other not in swept and not value:
            remarks.append(f"{key} does nothing with {other}={value}")
    late = [b for b in config.schedule.boundaries if b >= config.train.num_epochs]
    if late and config.schedule.name == "piecewise" and "schedule.boundaries" in given:
        remarks.append(
            f"schedule.boundaries: {', '.join(f'{b:g}' for b in late)} lie beyond the run's"
            f" {config.train.num_epochs} epochs"
        )
    return remarks
