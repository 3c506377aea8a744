"""Exports a trained network: `python -m lenet_jax.export --workdir=RUN --format=FORMAT`.

Every export of a network is reloaded and verified against the run's logits; if they differ by more
than the precision of the run explains, nothing is written.

`stablehlo` and `onnx` take pixels, uint8 of shape (batch, height, width, channels), for any batch
size, and normalise them; they compute convolution, ReLU and pooling as separate operations (the
`plain` backend), which other compilers optimise best. `safetensors` and `torch` hold the weights
under PyTorch's names; `torch` adds a Python file that defines the network. `zoo` writes every
network of a sweep in that form, whose weights are read again and compared, and a table of them, see
`lenet_jax.sweeps.zoo`.
"""

import argparse
import contextlib
import functools
import importlib.util
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8

from lenet_jax import machine
from lenet_jax.errors import ExitCode, UserError, expand, print_remarks, run_program, writing
from lenet_jax.nn import native
from lenet_jax.storage.fetching import fetch
from lenet_jax.storage.files import (
    check_replaceable,
    name_draft,
    publish,
    refuse_link,
    write_atomically,
)
from lenet_jax.terminal.arguments import add_force, description, find_network, make_parser

if TYPE_CHECKING:
    from lenet_jax.inference.network import Network

PROGRAM = "python -m lenet_jax.export"
SUFFIXES = {
    "stablehlo": ".stablehlo",
    "safetensors": ".safetensors",
    "torch": "_torch.safetensors",
    "onnx": ".onnx",
}
ZOO = "zoo"
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
COMPARED = 500  # images whose logits are compared
# By precision: relative to the largest logit, absolute if that is below 1.
TOLERANCES = {"float32": 1e-5, "tensorfloat32": 5e-3, "bfloat16": 5e-2}

Predict = Callable[[np.ndarray], np.ndarray]  # from pixels to logits


def main(argv: Sequence[str], program: str = PROGRAM) -> int:
    """Runs the command and returns its exit code.

    Args:
      argv: its arguments.
      program: the program's name, for the help.
    """
    parser = make_parser(program, "Export a trained network for use in other programs.")
    parser.add_argument(
        "--format", required=True, choices=(*SUFFIXES, ZOO), help="what to write; zoo: of a sweep"
    )
    parser.add_argument("--out", metavar="FILE", help="default: in DIR/export; of a zoo a folder")
    add_force(parser)
    arguments = parser.parse_args(argv)
    name = find_network(arguments, fetch)
    path = expand(name.path)
    if arguments.format == ZOO:
        return _export_zoo(path, name.member, arguments)
    suffix = SUFFIXES[arguments.format].removeprefix("_torch")
    if arguments.out and not arguments.out.endswith(suffix):
        torch = "\nThe weights go there; a .py that defines the network is written beside it."
        raise UserError(
            f"--out={arguments.out}: the name must end in {suffix}"
            + torch * (arguments.format == "torch")
        )

    # Late: an error in the arguments is reported at once.
    from lenet_jax.device import require_device
    from lenet_jax.machine import use_compilation_cache

    use_compilation_cache()
    require_device()
    from lenet_jax.inference.description import Description
    from lenet_jax.inference.load import load

    remarks: list[str] = []
    given = Description(**description(arguments))
    network = load(path, name.member, given, remarks.append, name.epoch)
    stem = path.stem if path.is_file() else "model"
    stem = stem if name.member is None else name.label
    folder = path.parent if path.is_file() else path / "export"
    out = expand(arguments.out or folder / f"{stem}{SUFFIXES[arguments.format]}")
    with writing(out):
        if arguments.out is None and path.is_dir():
            refuse_link(folder)
        lines = export(network, arguments.format, out, force=arguments.force)
    for line in lines:
        print(line)
    print_remarks(remarks)
    return ExitCode.DONE


def _export_zoo(path: Path, member: int | None, arguments: argparse.Namespace) -> int:
    """Writes the networks of a sweep, and returns the exit code."""
    from lenet_jax.device import require_device
    from lenet_jax.machine import use_compilation_cache

    use_compilation_cache()
    require_device()
    from lenet_jax.sweeps.collected import load_results
    from lenet_jax.sweeps.zoo import write_zoo

    given = [name for name, value in description(arguments).items() if value is not None]
    given += ["member"] if member is not None else []
    if given:
        raise UserError(f"--format=zoo takes all networks of a sweep as they are: no --{given[0]}")
    results = load_results(path)
    out = expand(arguments.out or path / "export" / ZOO)
    with writing(out):
        if arguments.out is None:
            refuse_link(path / "export")
        lines = write_zoo(results, out, force=arguments.force)
    for line in lines:
        print(line)
    return ExitCode.DONE


def export(network: "Network", kind: str, out: Path, *, force: bool = False) -> list[str]:
    """Writes a network, reloads it, and compares the logits.

    Args:
      network: the network to export.
      kind: `stablehlo`, `safetensors`, `torch` or `onnx`.
      out: the file; its folder is created.
      force: whether files that differ are replaced.

    Returns:
      Lines to print: the files, and the largest difference between the logits.

    Raises:
      UserError: there is another file, a required package is not installed, or the logits differ.
      OSError: the file cannot be written; the error's `filename` is `out`.
    """
    writers = {
        "stablehlo": _write_stablehlo,
        "safetensors": _write_safetensors,
        "torch": _write_torch,
        "onnx": _write_onnx,
    }
    images, source = _images(network)
    draft = name_draft(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        companions, predict = writers[kind](network, draft)
        reloaded = np.concatenate([predict(images[:1]), predict(images[1:])])  # two batch sizes
        logits = network.logits(images)
        difference = float(np.abs(reloaded - logits).max())
        largest = float(np.abs(logits).max())
        allowed = tolerance(network.precision, machine.devices()[0].platform)
        if not difference <= allowed * max(1.0, largest):
            raise UserError(
                f"{out} was not written: after reloading it, the logits differ by"
                f" {difference:.1e} from the run's, whose largest is {largest:.1f}"
            )
        beside = {out.with_name(name): text for name, text in companions(out.name).items()}
        for file, content in {**beside, out: draft.read_bytes()}.items():
            check_replaceable(file, content, force=force)
        for file, text in beside.items():
            write_atomically(file, text)
        publish(draft, out)
    except OSError as error:
        error.filename = os.fspath(out)
        raise
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()
    return [
        *(f"{file}  {file.stat().st_size:,} bytes" for file in (out, *beside)),
        f"reloaded: the logits of {len(images)} {source} differ by at most {difference:.1e}",
    ]


def tolerance(precision: str, platform: str) -> float:
    """How far apart logits may be that are computed in two ways, relative to the largest.

    Args:
      precision: of the products, `train.precision`.
      platform: of the device; a CPU computes in float32, or in bfloat16 if it multiplies that.
    """
    if platform == "cpu" and not (precision == "bfloat16" and native.has_bfloat16()):
        precision = "float32"
    return TOLERANCES[precision]


def _images(network: "Network") -> tuple[UInt8[np.ndarray, "n h w c"], str]:
    """Test images of the run's data, or noise if the data is not available."""
    if network.config is not None:
        with contextlib.suppress(UserError):
            return network.load_data(lambda _: None).test.images[:COMPARED], "test images"
    shape = COMPARED, network.image_size, network.image_size, network.channels
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8), "random images"


def _no_companions(name: str) -> dict[str, str]:
    return {}


def _write_stablehlo(
    network: "Network", draft: Path
) -> tuple[Callable[[str], dict[str, str]], Predict]:
    import jax
    import jax.export

    batch = jax.export.symbolic_shape("batch")[0]
    size, channels = network.image_size, network.channels
    pixels = jax.ShapeDtypeStruct((batch, size, size, channels), np.uint8)
    logits = jax.jit(_logits_of(network, one_by_one=True))
    exported = jax.export.export(logits, platforms=PLATFORMS)(pixels)
    draft.write_bytes(exported.serialize())
    reloaded = jax.jit(jax.export.deserialize(bytearray(draft.read_bytes())).call)
    return _no_companions, lambda images: np.asarray(reloaded(images))


def _write_safetensors(
    network: "Network", draft: Path
) -> tuple[Callable[[str], dict[str, str]], Predict]:
    from lenet_jax.inference.description import Description
    from lenet_jax.inference.load import load
    from lenet_jax.inference.others import NETWORK
    from lenet_jax.storage import weights

    draft.write_bytes(weights.encode(network.state_dict, network.metadata))
    given = Description(model=None if network.is_lenet else network.metadata[NETWORK])
    # What there is to say was said of the original.
    return _no_companions, load(draft, given=given, say=lambda _: None).logits


def _write_torch(
    network: "Network", draft: Path
) -> tuple[Callable[[str], dict[str, str]], Predict]:
    if not network.is_lenet:
        raise UserError(
            f"--format=torch is for LeNet; {network.source} is a {type(network.model).__name__}\n"
            "--format=safetensors writes the weights of any network, under Flax's names."
        )
    try:
        import torch
    except ImportError as error:
        raise UserError(
            "--format=torch verifies the file with PyTorch itself: pip install torch"
            " (a build for CPUs is enough), or pip install '.[torch]' in the repository\n"
            "Without it, --format=safetensors writes the same weights."
        ) from error
    from lenet_jax.inference.torch_source import source
    from lenet_jax.storage import weights

    def companions(name: str) -> dict[str, str]:
        text = source(network.model, network.mean, network.std, network.class_names)
        return {f"{name.removesuffix('.safetensors')}.py": text}

    draft.write_bytes(weights.encode(network.state_dict, network.metadata))
    spec = importlib.util.spec_from_loader("exported_lenet", loader=None)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    (text,) = companions(draft.name).values()
    exec(compile(text, "exported_lenet.py", "exec"), module.__dict__)
    model = module.load(draft)

    def predict(images: UInt8[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n k"]:
        pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        with torch.no_grad():
            return model(module.normalise(pixels)).numpy()

    return companions, predict


def _write_onnx(network: "Network", draft: Path) -> tuple[Callable[[str], dict[str, str]], Predict]:
    try:
        import jax2onnx  # pyright: ignore[reportMissingImports]
        import onnxruntime  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            "--format=onnx needs jax2onnx, which is not installed\n"
            "Install it and its dependencies: pip install '.[onnx]'"
        ) from error
    import jax

    shape = "batch", network.image_size, network.image_size, network.channels
    pixels = jax.ShapeDtypeStruct(shape, np.uint8)
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # hide warnings about shapes
    names = {"model_name": "lenet", "input_names": ["pixels"], "output_names": ["logits"]}
    convert = functools.partial(jax2onnx.to_onnx, _logits_of(network), [pixels], **names)
    model = convert() if network.is_lenet else _convert_module(network, convert)
    draft.write_bytes(model.SerializeToString())
    session = onnxruntime.InferenceSession(draft, providers=["CPUExecutionProvider"])
    return _no_companions, lambda images: session.run(["logits"], {"pixels": images})[0]


def _convert_module(network: "Network", convert: Callable[[], Any]) -> Any:
    """What `convert` gives of any module.

    Raises:
      UserError: jax2onnx does not know one of its operations, or the module needs to know the size
        of a batch.
    """
    from lenet_jax.config.source import guarded, split
    from lenet_jax.inference.others import NETWORK

    where, _ = split(network.metadata[NETWORK])
    try:
        return guarded(Path(where), convert)
    except UserError as error:
        raise UserError(
            f"--format=onnx: {str(error).splitlines()[0]}\n"
            "jax2onnx cannot convert that; for a batch of any size write x.shape[0], not len(x)."
            " --format=stablehlo takes any network."
        ) from error


def _logits_of(network: "Network", *, one_by_one: bool = False) -> Callable:
    """The network as a function of pixels.

    Args:
      network: the network.
      one_by_one: whether it is mapped over images, so that a module that needs to know the size of
        a batch, as `len(images)` does, finds 1; of a LeNet this is ignored.
    """
    if not network.is_lenet:
        import jax
        from flax import nnx

        from lenet_jax.nn.calls import call

        split = nnx.split(network.model)

        def logits(pixels: "jax.Array") -> "jax.Array":
            model = nnx.merge(*split, copy=True)  # for what a forward pass may change
            return call(model, network.normalise(pixels))

        return jax.vmap(lambda image: logits(image[None])[0]) if one_by_one else logits
    return lambda pixels: network.model.activations(network.normalise(pixels))["fc3"]


if __name__ == "__main__":
    run_program(main, sys.argv[1:])
