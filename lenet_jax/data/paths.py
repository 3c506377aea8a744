"""What lies at a path that a user gives as a dataset, and how it is read."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lenet_jax.data import csv_files, file_set
from lenet_jax.data.examples import Source
from lenet_jax.data.files import ARCHIVES, DEPTH, entries, is_folder, kind, sibling, walk
from lenet_jax.data.fit import Fit
from lenet_jax.data.npz import load_npz
from lenet_jax.data.spelling import suggest
from lenet_jax.errors import UserError, show

READ = (
    "datasets are read from idx files (train-images-idx3-ubyte, …), an .npz, a .csv, a .parquet, or"
    " a folder of images for each class"
)
MAX_NAMES = 6  # listed in a message


def is_path(name: str) -> bool:
    """Whether a dataset's name is a path: it looks like one, exists, or names files that do."""
    looks_like_a_path = name.startswith(("/", "./", "../", "~")) or name.count("/") > 1
    if looks_like_a_path or not name:
        return looks_like_a_path
    return _exists(Path(name), name)


def resolve(name: str, folder: Path) -> str:
    """A dataset's name as a process in `folder` meant it: with the whole path if it is there."""
    path = folder / name
    relative = not Path(name).is_absolute() and not name.startswith(("~", "tfds:"))
    return str(path) if relative and name != "mnist" and _exists(path, name) else name


def _exists(path: Path, name: str) -> bool:
    """Whether there is a file or a folder at the path of a name, or files that it names."""
    if kind(path) is not None:
        return True
    # `emnist-letters` of the files in this folder, `ROOT/FashionMNIST` of those below ROOT.
    if kind(path.parent) != "folder":
        return False
    sets = file_set.find(path.parent, DEPTH if "/" in name else 0)
    return any(files.is_called(path.name) for files in sets)


def load_path(path: Path, fit: Fit, *, resizes: bool) -> Source:
    """Reads the dataset at a path; see `dataset.load` for what that may be.

    Args:
      path: a folder, a file, or a folder with the name of one of the datasets in it.
      fit: fits images of one height and width to the requested size.
      resizes: whether it resizes, so that image files may be of several sizes.

    Raises:
      UserError: there is nothing, or nothing that can be read, or several datasets.
    """
    found = kind(path)
    if found == "file":
        return _load_file(path, fit, resizes=resizes)
    if found == "folder":
        return _load_folder(path, fit, resizes=resizes)
    sets = file_set.find(path.parent) if kind(path.parent) == "folder" else []
    near = sibling(path)
    if sets and (near is None or any(files.is_called(path.name) for files in sets)):
        return file_set.read(file_set.choose(sets, path.parent, path.name))
    near = near or suggest(path.name) or sibling(path, similar=True)
    hint = f"; did you mean data.name={show(near)}?" if near else ""
    raise UserError(f"data.name: there is no file or folder {show(path)}{hint}")


def _load_file(path: Path, fit: Fit, *, resizes: bool) -> Source:
    part = file_set.part_of(path.name)
    if part is not None:
        prefix, _ = part
        sets = file_set.find(path.parent, 0)
        same = [files for files in sets if files.prefix.lower() == prefix.lower()]
        return file_set.read(file_set.choose(same, path.parent))
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return load_npz(path)
    if csv_files.is_csv(path.name):
        return csv_files.load_csv(csv_files.beside(path))
    if suffix == ".parquet":
        from lenet_jax.data import parquet  # imports Pillow

        return parquet.load_parquet(parquet.beside(path), fit, resizes=resizes)
    if suffix in ARCHIVES:
        raise UserError(f"data.name: {show(path)} is packed; unpack it, and give the folder")
    raise UserError(f"data.name: {show(path)} is a file of a kind that is not read; {READ}")


def _load_folder(folder: Path, fit: Fit, *, resizes: bool) -> Source:
    from lenet_jax.data import class_folders, parquet  # which import Pillow

    sets = file_set.find(folder)
    if sets:
        return file_set.read(file_set.choose(sets, folder))
    names = [entry.name for entry in entries(folder)]
    archives = [name for name in names if name.lower().endswith(".npz")]
    if len(archives) == 1:
        return load_npz(folder / archives[0])
    if archives:
        raise _several(folder, archives)
    layout = class_folders.find(folder)
    if layout is not None:
        return class_folders.load_class_folders(layout, fit, resizes=resizes)
    hub = parquet.find(folder)
    if len(hub) == 1:
        return parquet.load_parquet(hub[0], fit, resizes=resizes)
    if hub:
        homes = [next(iter(files.values()))[0].parent for files in hub]
        raise _several(folder, [str(home.relative_to(folder)) for home in homes])
    tables = csv_files.find(folder)
    if len(tables) == 1:
        read = {path.name for path in tables[0].values()}
        unread = [name for name in names if csv_files.is_csv(name) and name not in read]
        others = [name for name in unread if name.removesuffix(".gz") not in read]
        return csv_files.load_csv(tables[0], others)
    if tables:
        raise _several(folder, [files["train"].name for files in tables])
    raise _no_dataset(folder, names)


def _no_dataset(folder: Path, names: Sequence[str]) -> UserError:
    """The error over a folder with these entries, in which nothing is read."""
    from lenet_jax.data import class_folders  # imports Pillow

    packed = [name for name in names if Path(name).suffix.lower() in ARCHIVES]
    if packed:
        return UserError(
            f"data.name: {show(folder)} holds archives; unpack them first: {_shorten(packed)}"
        )
    holds = f"it has {_shorten(names)}" if names else "it is empty"
    if any(class_folders.is_image(folder / name) for name in names):
        holds = "its images are not in a folder for each class"
    elif below := _files_below(folder):
        if any(map(class_folders.is_image, below)):
            holds += "; the images in its folders are not in a folder for each class"
        else:
            types = Counter(file.suffix.lower() or "without suffix" for file in below)
            shown = _shorten([name for name, _ in types.most_common()])
            holds += f"; the files in its folders, of type {shown}, are no images"
    return UserError(f"data.name: {show(folder)} has no dataset that is read; {holds}\n{READ}")


def _several(folder: Path, names: Sequence[str]) -> UserError:
    return UserError(
        f"data.name: {show(folder)} has several datasets; give the path of one: {_shorten(names)}"
    )


def _files_below(folder: Path) -> list[Path]:
    """The files in the folders of a folder."""
    return [
        Path(entry.path)
        for inside, found in walk(folder)
        for entry in found
        if inside != folder and not is_folder(entry)
    ]


def _shorten(names: Sequence[str]) -> str:
    shown = ", ".join(map(show, names[:MAX_NAMES]))
    return f"{shown}, …" if len(names) > MAX_NAMES else shown
