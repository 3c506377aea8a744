"""The files that a user's file imports from beside it: they are its code, too."""

import ast
import functools
import importlib.util
from pathlib import Path

OWN = "lenet_jax"  # whose files a run records as its revision


def files_of(where: str) -> dict[Path, str]:
    """The files that the code of a network or loss is in, with the names of their modules.

    They are the file itself, first, and those that it imports, or that these import, from its
    folder or below it; of a module, from its package. Those of this package are left out.

    Args:
      where: `FILE.py` or `package.module`; the packages above a module are imported.
    """
    if where.endswith(".py"):
        return _imported(Path(where), Path(where).parent, "")
    path = _module_file(where)
    return {} if path is None else _imported(path, root_of(where, path), where)


def root_of(where: str, path: Path) -> Path:
    """The folder from which `FILE.py` or `package.module`, which is in a file, imports its own."""
    if where.endswith(".py"):
        return path.parent
    return path.parents[where.count(".") + (path.name == "__init__.py")]


def _module_file(where: str) -> Path | None:
    """The file of a module; None if it has none, or there is none, which importing it reports."""
    try:
        spec = importlib.util.find_spec(where)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin)


def _imported(first: Path, root: Path, module: str) -> dict[Path, str]:
    """As `files_of`, of a file below a folder; `module` is its name, or empty."""
    top, files = module.partition(".")[0], {first: module}
    waiting = [first]
    while waiting:
        path = waiting.pop()
        parts = files[path].split(".")
        package = tuple(parts if path.name == "__init__.py" else parts[:-1])
        for name in _imports(path.read_bytes() if path.is_file() else b"", package):
            outermost = name.partition(".")[0]
            if not outermost or outermost == OWN or (top and outermost != top):
                continue
            base = root.joinpath(*name.split("."))
            for file in (base.with_name(f"{base.name}.py"), base / "__init__.py"):
                if file.is_file() and file not in files:
                    files[file] = name
                    waiting.append(file)
    return {path: files[path] for path in (first, *sorted(files.keys() - {first}))}


@functools.lru_cache(maxsize=4096)
def _imports(text: bytes, package: tuple[str, ...]) -> list[str]:
    """The names of modules that a text may import; of `from a import b` both `a` and `a.b`."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError):  # which running it reports
        return []
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [each.name for each in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = [*above, *filter(None, [node.module])]
            names += [".".join(base), *(".".join([*base, each.name]) for each in node.names)]
    return names
