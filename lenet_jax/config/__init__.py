"""Configs: every key, its rules, config files and command-line flags."""

from lenet_jax.config.file import (
    Config,
    build,
    call_file,
    differing_keys,
    from_dict,
    load,
    load_json,
    one_line,
    replace,
    run_file,
    to_dict,
    validate,
)

__all__ = [
    "Config",
    "build",
    "call_file",
    "differing_keys",
    "from_dict",
    "load",
    "load_json",
    "one_line",
    "replace",
    "run_file",
    "to_dict",
    "validate",
]
