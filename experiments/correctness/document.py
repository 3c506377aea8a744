"""`docs/correctness.md`: what was compared with what, and the largest errors."""

from collections.abc import Mapping
from typing import Any

INTRODUCTION = """\
# Correctness

What the package computes, compared with what does not share its code: NumPy, SciPy and PyTorch in
float64, and repetition to the bit. Check your own machine or GPU with

```sh
.venv/bin/python -m experiments.correctness
```

which takes some minutes, and writes this page. An error is the largest difference in an array,
divided by the largest number that is expected there; float32 has a precision of 6e-8. A case is one
array or number. Layers are compared for {sizes}.
With `pip install torch`, PyTorch is compared too.

"""
AFTER = """
Measured on {hardware} at revision {revision}, with {versions}; the numbers
are in [{name}]({path}).

The test suite has more: PyTorch's recorded answers (`tests/test_torch_parity.py`,
`tests/training/test_optim.py`) and 200 training steps beside PyTorch. `experiments.faults` kills
runs, and `experiments.accelerator` compares the layers on an accelerator, in every precision
([results](../results/accelerator_nvidia_h200.json) of an earlier version).
"""
HEADER = ("what", "compared with", "cases", "largest error", "allowed")


def write(record: Mapping[str, Any], name: str) -> str:
    """The page in Markdown, of what `results/NAME` holds."""
    rows = [HEADER, ("---", "---", "---:", "---:", "---:")]
    for row in record["comparisons"]:
        allowed = "to the bit" if row["bound"] == 0 else f"{row['bound']:.0e}"
        error = "0" if row["error"] == 0 else f"{row['error']:.1e}"
        marked = error if row["holds"] else f"**{error}**"
        rows.append((row["subject"], row["oracle"], f"{row['cases']:,}", marked, allowed))
    table = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    environment = record["environment"]
    hardware = f"{environment['cores']} cores of an {environment['processor']}"
    versions = ", ".join(f"{k} {v}" for k, v in environment["versions"].items())
    return (
        INTRODUCTION.format(sizes=record["sizes"])
        + table
        + AFTER.format(
            hardware=hardware,
            revision=(environment["git_revision"] or "unknown")[:12],
            versions=versions,
            name=f"results/{name}",
            path=f"../results/{name}",
        )
    )
