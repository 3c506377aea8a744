"""What of a config compiled functions take as arguments: hyperparameters and seeds."""

from collections.abc import Collection, Mapping
from typing import Any

from lenet_jax.config.file import Config
from lenet_jax.config.networks import find_class, traced_arguments

# Nested dicts and tuples of scalars, each of which may be traced: see `hyperparameters`.
Hyperparameters = Mapping[str, Any]
# Of the augmentation: if all are 0 there is none.
STRENGTHS = ("shift", "rotate", "scale", "shear", "squeeze", "elastic_alpha")
UNCOMPILED = ("train.patience", "train.initial_weights", "data.label_noise")
SECTIONS = ("optimizer", "schedule", "augment")  # whose numbers are hyperparameters


def hyperparameters(config: Config) -> dict[str, Any]:
    """The hyperparameters of a config that compiled functions take as arguments."""
    sections = {
        name: {k: float(v) for k, v in config[name].items() if is_number(v)} for name in SECTIONS
    }
    traced = traced_arguments(find_class(config.model.name))
    values = {name: config.model[name] for name in traced}
    return {
        **sections,
        "model": {name: value for name, value in values.items() if value is not None},
        "label_smoothing": config.train.label_smoothing,
        "max_grad_norm": config.train.max_grad_norm,
        "ema_decay": config.train.ema_decay,
        "class_weights": tuple(map(float, config.data.class_weights)),
    }


def compiled_value(path: str, value: Any, traced: Collection[str] = ()) -> Any:
    """What compiled functions depend on in the value of a config key.

    Configs that agree in it, key by key, have the same spec, and the same structure of
    hyperparameters, but for `augments`, `is_elastic` and the values of `traced`.

    Args:
      path: of the key.
      value: of the key.
      traced: the keys that a network of the user's own declares as traced.
    """
    section = path.partition(".")[0]
    if section in ("seed", "seeds") or path in UNCOMPILED:
        return None
    if section == "prune":  # masks are arguments; whether there are any is not
        return {"prune.amount": value != 0, "prune.weights": value is not None}.get(path)
    if path == "data.class_weights":
        return len(value)
    smooth = path in ("train.label_smoothing", "train.max_grad_norm", "train.ema_decay")
    varies = smooth or section in SECTIONS or path in traced
    return float if varies and is_number(value) else value


def seeds(config: Config) -> dict[str, int]:
    """The seeds of initial weights, data order, augmentation, subset, label noise and pruning."""
    return {k: config.seed if v is None else v for k, v in config.seeds.items()}


def is_number(value: object) -> bool:
    """Whether a value is an int or a float, and no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)
