"""Configs: every key, its rules, config files and command-line flags."""

from lenet_jax.config.file import (
    Config,
    differing_keys,
    flatten,
    from_dict,
    load,
    load_json,
    replace,
    saved_config,
    to_dict,
    validate,
)

__all__ = [
    "Config",
    "differing_keys",
    "flatten",
    "from_dict",
    "load",
    "load_json",
    "replace",
    "saved_config",
    "to_dict",
    "validate",
]
