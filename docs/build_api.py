"""Writes the API reference, a page a module, from the docstrings: `python -m docs.build_api DIR`.

A warning, such as an annotation that names nothing, is an error.
"""

import pkgutil
import sys
import warnings
from pathlib import Path

import pdoc

import lenet_jax


def main(folder: Path) -> None:
    """Writes the pages into a folder; `index.html` lists them."""
    warnings.simplefilter("error")
    # Modules are named one by one, because pdoc leaves out those of a package with `__all__`. Those
    # of the other packages come twice.
    warnings.filterwarnings("ignore", "The module specification .* has already been added")
    warnings.filterwarnings("ignore", ".*ArrayTree failed")  # a forward reference of optax
    pdoc.render.configure(docformat="google")
    modules = pkgutil.walk_packages(lenet_jax.__path__, "lenet_jax.")
    pdoc.pdoc("lenet_jax", *(module.name for module in modules), output_directory=folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
