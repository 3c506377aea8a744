"""Parquet files as the Hugging Face hub stores sets of images: encoded images, and their labels.

pyarrow, which reads them, is an extra: it is imported with the first file.
"""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Shaped

from lenet_jax.data.csv_files import LABELS
from lenet_jax.data.examples import UNKNOWN_SIZE, Examples, Source
from lenet_jax.data.files import check_size, is_folder, walk
from lenet_jax.data.fit import Fit
from lenet_jax.data.image_sources import Content
from lenet_jax.data.npz import SPLITS, combine
from lenet_jax.data.stack import expand, read_stack, several_sizes
from lenet_jax.errors import UserError, printable, show

SUFFIX = ".parquet"
# `train-00000-of-00002.parquet`, `mnist-test.parquet`; or `0000.parquet` in a folder `train`.
NAME = re.compile(
    rf"(?:.*[-._])?(?P<split>{'|'.join(SPLITS)})(?:-\d+-of-(?P<count>\d+)(?:-\w+)?)?\.parquet",
    re.IGNORECASE,
)
METADATA = b"huggingface"
UNLABELLED = -1  # what the hub has in place of labels that are kept secret
ROWS = 64  # read at a time


class Columns(NamedTuple):
    """The columns of a file that count.

    Attributes:
      image: encoded images, alone or as `bytes` beside a path.
      label: None: there is none.
      names: of the labels 0, 1, 2, …; None: the labels are what they are.
    """

    image: str
    label: str | None
    names: tuple[str, ...] | None


class Rows(NamedTuple):
    """The rows of the files of a split."""

    images: list[Content]
    labels: Shaped[np.ndarray, "..."] | None
    names: tuple[str, ...] | None


Files = Mapping[str, Sequence[Path]]


def find(folder: Path) -> list[Files]:
    """The datasets of Parquet files in a folder and below, by split; `all` where there is no name.

    Raises:
      UserError: a folder cannot be read.
    """
    sets: dict[Path, dict[str, list[Path]]] = {}
    for inside, found in walk(folder):
        home = inside.parent if inside.name.lower() in SPLITS and inside != folder else inside
        for entry in found:
            if entry.name.lower().endswith(SUFFIX) and not is_folder(entry):
                split = _split_of(Path(entry.path))
                sets.setdefault(home, {}).setdefault(split, []).append(Path(entry.path))
    return list(sets.values())


def beside(path: Path) -> Files:
    """A file as a dataset; one of `train` with the others in its folder."""
    if _split_of(path) == "train":
        for files in find(path.parent):
            if path in files.get("train", ()):
                return files
    return {"all": [path]}


def load_parquet(files: Files, fit: Fit, *, resizes: bool) -> Source:
    """Loads a dataset from its files by split; a split without labels is left out.

    Args:
      files: from `find` or `beside`.
      fit: fits images of one height and width to the requested size.
      resizes: whether `fit` resizes, so that images may be of several sizes.

    Raises:
      UserError: pyarrow is missing; a file is missing, damaged, or has no images with labels; or
        the images are damaged, or of several sizes.
    """
    first = next((split for split in ("train", "all") if split in files), None)
    if first is None:
        path = next(iter(files.values()))[0]
        raise UserError(f"{show(path.parent)} has {path.name}, but no train-00000-of-….parquet")
    examples: dict[str, Examples] = {}
    others = files["all"] if "all" in files and first != "all" else []
    remarks = [f"{show(path)} is left out: it is neither train, test nor val" for path in others]
    shapes: set[tuple[int, int]] = set()
    contents: list[Content] = []
    names: tuple[str, ...] | None = None
    for split in (first, *sorted(files.keys() - {first, "all"})):
        path = files[split][0]
        rows = _read(files[split])
        if rows.labels is None:
            if split == first:
                raise UserError(f"{show(path)} has no labels: no column is called label")
            remarks.append(f"{show(path)} is left out: it has no labels")
            continue
        images = read_stack(rows.images, fit, shapes, resizes=resizes)
        contents += rows.images if len(shapes) < 2 or resizes else []
        examples[split] = Examples(images, rows.labels, path, path)
        if len(shapes) > 1 and not resizes:
            raise several_sizes([*contents, *rows.images], path.parent)
        names = rows.names if split == first else names
    channels = max(some.images.shape[-1] for some in examples.values())
    examples = {
        split: some._replace(images=expand(some.images, channels))
        for split, some in examples.items()
    }
    source = combine(examples, None if names is None else dict(enumerate(names)))
    size = next(iter(shapes)) if len(shapes) == 1 else UNKNOWN_SIZE
    return source._replace(remarks=(*remarks, *source.remarks), native_size=size)


def _split_of(path: Path) -> str:
    match = NAME.fullmatch(path.name)
    name = path.parent.name if match is None else match["split"]
    return SPLITS.get(name.lower(), "all")


def _read(paths: Sequence[Path]) -> Rows:
    """Reads the files of a split, in their order."""
    match = NAME.fullmatch(paths[0].name)
    if match is not None and match["count"] and int(match["count"]) != len(paths):
        raise UserError(
            f"{show(paths[0].parent)} has {len(paths)} of the {int(match['count'])} files of"
            f" {match['split']}: download the others"
        )
    images: list[Content] = []
    labels: list[Any] = []
    names: tuple[str, ...] | None = None
    for path in paths:
        total = 0
        with _errors(path), _open(path) as file:
            columns = _columns(file.schema_arrow, path)
            names, size = columns.names, path.stat().st_size
            wanted = [columns.image] + ([] if columns.label is None else [columns.label])
            for batch in file.iter_batches(ROWS, columns=wanted):
                if columns.label is not None:
                    labels += batch.column(columns.label).to_pylist()
                for image in batch.column(columns.image).to_pylist():
                    content = image["bytes"] if isinstance(image, dict) else image
                    where = f"{path}, row {len(images)}"
                    if not content:
                        raise UserError(f"{show(Path(where), 120)}, has no image in the file")
                    images.append(Content(where, content))
                    total += len(content)
                check_size(total, size, show(path))  # equal images are stored once
    if not images:
        raise UserError(f"{show(paths[0])} has no rows")
    if all(label == UNLABELLED for label in labels):
        return Rows(images, None, names)
    if None in labels:
        raise UserError(f"{show(paths[0])}, row {labels.index(None)}, has no label")
    return Rows(images, np.array(labels), names)


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Any]:
    """A `pyarrow.parquet.ParquetFile` that fits into memory."""
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        groups = range(file.metadata.num_row_groups)
        claimed = sum(file.metadata.row_group(group).total_byte_size for group in groups)
        check_size(claimed, path.stat().st_size, show(path))
        yield file


@contextlib.contextmanager
def _errors(path: Path) -> Iterator[None]:
    """Turns what pyarrow raises, also if it is missing, into a `UserError`."""
    try:
        from pyarrow import ArrowException
    except ImportError as error:
        raise UserError(
            f"{show(path)} needs pyarrow to be read, which is not installed\n"
            "Install it: pip install pyarrow, or pip install '.[parquet]' in the repository."
        ) from error
    try:
        yield
    except MemoryError as error:
        raise UserError(f"{show(path)} does not fit into memory") from error
    except (ArrowException, OSError, ValueError, LookupError) as error:
        raise UserError(
            f"{show(path)} is damaged, or no Parquet: {printable(error, 80)}"
        ) from error


def _columns(schema: Any, path: Path) -> Columns:
    """The columns of images and of labels, by the hub's metadata, or by their names and types."""
    features = _features(schema)
    kinds = {name: feature.get("_type") for name, feature in features.items()}
    images = [field.name for field in schema if _holds_images(field.type)]
    marked = [name for name in images if kinds.get(name) == "Image"]
    if not images:
        names = ", ".join(map(show, schema.names[:8]))
        raise UserError(f"{show(path)} has no column of encoded images; it has {names}")
    called = {name.lower(): name for name in reversed(schema.names)}
    labels = [called[name] for name in LABELS if name in called]
    labels += [name for name in schema.names if kinds.get(name) == "ClassLabel"]
    label = labels[0] if labels else None
    if label is not None and not _holds_labels(schema.field(label).type):
        kind = show(schema.field(label).type, 40)
        raise UserError(f"{show(path)}, column {show(label)} holds {kind}, not integers or names")
    names = features.get(label or "", {}).get("names")
    is_named = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return Columns((marked or images)[0], label, tuple(names) if is_named and names else None)


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """What the hub says of each column; empty if it says nothing, or something else."""
    try:
        features = json.loads((schema.metadata or {})[METADATA])["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _holds_images(kind: Any) -> bool:
    from pyarrow import types

    if types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        kind = kind.field("bytes").type
    return types.is_binary(kind) or types.is_large_binary(kind)


def _holds_labels(kind: Any) -> bool:
    from pyarrow import types

    kind = kind.value_type if types.is_dictionary(kind) else kind
    return types.is_integer(kind) or types.is_string(kind) or types.is_large_string(kind)
