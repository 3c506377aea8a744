"""Whether JAX starts on the devices that the environment asks for, and what to do if not."""

import functools
import importlib.util
import os
import re
import subprocess
import sys
from importlib import metadata

from lenet_jax import machine
from lenet_jax.errors import UserError, printable, show

# What to install for each of JAX's platforms, beside the CPU.
EXTRAS = {
    "cuda": ("NVIDIA GPUs", "jax[cuda13]"),
    "gpu": ("NVIDIA GPUs", "jax[cuda13]"),
    "tpu": ("TPUs", "jax[tpu]"),
    "rocm": ("AMD GPUs", "jax[rocm7-local]"),
}
# Flags that need no trial: ours, and the one that is common on CPUs.
KNOWN_FLAGS = re.compile(
    r"--xla_(force_host_platform_device_count=\d+|gpu_deterministic_ops=true|gpu_autotune_level=0)"
)
FLAG_ERRORS = re.compile(
    r"Unknown flags? in XLA_FLAGS: .*|Couldn't interpret value .*|Could not open file \S+"
)


def require_device() -> None:
    """Starts JAX on the devices that the environment asks for, or on the best there are.

    Raises:
      UserError: it does not start: there is no such device, a driver fails, or a value in the
        environment is wrong.
    """
    _check_xla_flags(os.environ.get("XLA_FLAGS", ""))
    try:
        import jax
    except (ImportError, RuntimeError, ValueError) as error:
        raise UserError(
            f"JAX does not start: {printable(error)}\n"
            f"Check its installation, and in the environment: {_jax_variables()}"
        ) from error
    try:
        machine.devices()
    except (RuntimeError, AssertionError) as error:  # the latter: no GPU is visible
        platforms = jax.config.jax_platforms  # pyright: ignore[reportAttributeAccessIssue]
        from jax.extend import backend

        backend.clear_backends()  # some may have started
        text = _explain_platforms(platforms, str(error)) if platforms else _explain(str(error))
        raise UserError(text) from error


def _explain(error: str) -> str:
    """Why JAX's choice of a device does not start, and what to check."""
    return (
        f"JAX does not start: {printable(_reason(error))}\n"
        f"Check the device's driver, and in the environment: {_jax_variables()}"
    )


def _explain_platforms(platforms: str, error: str) -> str:
    """What is wrong with the platforms that were asked for, what there is, and what to do."""
    names, installed = platforms.replace(" ", "").split(","), _installed_platforms()
    first = f"JAX_PLATFORMS={show(platforms)}:"
    if failing := [name for name in names if name in installed and name != "cpu"]:
        reason = printable(_reason(error) or "no device is visible")
        return (
            f"{first} {failing[0]} does not start: {reason}\n"
            "Check its driver, or unset JAX_PLATFORMS to run on what there is."
        )
    lower = [name.lower() for name in names]
    if lower != names and {*EXTRAS, *installed} >= {*lower}:
        return f"{first} devices are named in lower case: JAX_PLATFORMS={','.join(lower)}"
    first += f" there is no such device here; installed: {', '.join(installed)}"
    best = "Unset it to run on the best of these, or"
    if any(name not in (*EXTRAS, *installed) for name in names):
        known = dict.fromkeys(["cpu", *EXTRAS, *installed])
        return f"{first}\n{best} name one of {', '.join(known)}."
    missing = next((name for name in names if name in EXTRAS), None)
    if missing is None:  # the CPU, which is always there
        return _explain(error)
    devices, extra = EXTRAS[missing]
    return f'{first}\n{best} install JAX for {devices}: pip install "{extra}"'


def _reason(error: str) -> str:
    """JAX's error without what it says around the reason."""
    return re.sub(r"Unable to initialize backend '\w+': | \((set JAX_|you may need).*", "", error)


def _jax_variables() -> str:
    names = sorted(name for name in os.environ if name.startswith("JAX_"))
    return printable(", ".join(names) or "nothing", 140)


def _installed_platforms() -> list[str]:
    """The platforms that the installed packages support."""
    plugins = [entry.name for entry in metadata.entry_points(group="jax_plugins")]
    found = [name for name in ("cuda", "rocm") if any(name in plugin for plugin in plugins)]
    found += ["gpu"] if found else []
    return ["cpu", *found, *(["tpu"] if importlib.util.find_spec("libtpu") else [])]


@functools.cache
def _check_xla_flags(flags: str) -> None:
    """Tries XLA_FLAGS in another process, since XLA ends one that has wrong ones.

    Raises:
      UserError: XLA does not take them.
    """
    if all(map(KNOWN_FLAGS.fullmatch, flags.split())):
        return
    script = "from jaxlib import xla_client; xla_client.CompileOptions()"
    trial = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    if trial.returncode and (reason := FLAG_ERRORS.search(trial.stderr)):
        raise UserError(
            f"XLA_FLAGS={show(flags)}: {printable(reason[0])}\nCorrect it, or unset XLA_FLAGS."
        )
