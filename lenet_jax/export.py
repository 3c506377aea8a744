"""Takes a trained network out of this package: `python -m lenet_jax.export --workdir=RUN …`.

What is written is read again and gives the run's logits, or nothing is left behind.

`stablehlo` and `onnx` take pixels, uint8 of shape (batch, height, width, channels), for any batch,
with the normalisation inside; they compute convolution, ReLU and pooling one after the other (the
`plain` backend), which other compilers know best. `safetensors` and `torch` hold the weights under
PyTorch's names; `torch` has a Python file beside them which defines the network.
"""

import contextlib
import importlib.util
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8

from lenet_jax.errors import UserError
from lenet_jax.terminal import arguments as command

if TYPE_CHECKING:
    from lenet_jax.inference.network import Network

PROGRAM = "python -m lenet_jax.export"
SUFFIXES = {
    "stablehlo": ".stablehlo",
    "safetensors": ".safetensors",
    "torch": "_torch.safetensors",
    "onnx": ".onnx",
}
PLATFORMS = ("cpu", "cuda", "tpu")
COMPARED = 500  # images whose logits must agree
TOLERANCE = 1e-5  # per unit of the largest logit, or absolute below 1

Predict = Callable[[np.ndarray], np.ndarray]  # from pixels to logits


def main(argv: Sequence[str], program: str = PROGRAM) -> int:
    """Runs the command: the exit code.

    Args:
      argv: its arguments.
      program: what starts it, for the help.
    """
    parser = command.make_parser(program, "Write a trained network for other programs.")
    parser.add_argument("--format", required=True, choices=tuple(SUFFIXES), help="what to write")
    parser.add_argument("--out", metavar="FILE", help="default: in the folder `export` of DIR")
    arguments = parser.parse_args(argv)
    path = command.network_path(arguments)
    suffix = SUFFIXES[arguments.format].removeprefix("_torch")
    if arguments.out and not arguments.out.endswith(suffix):
        raise UserError(f"--out={arguments.out}: the name must end in {suffix}")

    from lenet_jax.machine import use_compilation_cache  # late: a mistake is told at once

    use_compilation_cache()
    from lenet_jax.inference.load import load

    network = load(path, arguments.member)
    stem = path.stem if path.is_file() else "model"
    stem = stem if arguments.member is None else f"member_{arguments.member}"
    folder = path.parent if path.is_file() else path / "export"
    out = Path(arguments.out or folder / f"{stem}{SUFFIXES[arguments.format]}")
    for line in export(network, arguments.format, out):
        print(line)
    return command.DONE


def export(network: "Network", kind: str, out: Path) -> list[str]:
    """Writes a network, reads it again, and compares.

    Args:
      network: what to write.
      kind: `stablehlo`, `safetensors`, `torch` or `onnx`.
      out: the file; its folder is made.

    Returns:
      What was done, in words: the files, and the largest difference between the logits.

    Raises:
      UserError: the file cannot be written, what the format needs is not installed, or the logits
        differ.
    """
    writers = {
        "stablehlo": _write_stablehlo,
        "safetensors": _write_safetensors,
        "torch": _write_torch,
        "onnx": _write_onnx,
    }
    images, whose = _images(network)
    draft = out.with_name(f".draft.{out.name}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        beside, predict = writers[kind](network, draft)
        parts = [predict(images[:1]), predict(images[1:])]  # any batch must do
        logits = network.logits(images)
        difference = float(np.abs(np.concatenate(parts) - logits).max())
        largest = float(np.abs(logits).max())
        if not difference <= TOLERANCE * max(1.0, largest):
            raise UserError(
                f"{out} was not written: read again, it gives logits that differ by"
                f" {difference:.1e} from the run's, which go up to {largest:.1f}"
            )
        for name, text in beside(out.name).items():
            out.with_name(name).write_text(text)
        draft.replace(out)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()
    files = [out, *map(out.with_name, beside(out.name))]
    return [
        *(f"{file}  {file.stat().st_size:,} bytes" for file in files),
        f"read again: the logits of {len(images)} {whose} differ by {difference:.1e} at most",
    ]


def _images(network: "Network") -> tuple[UInt8[np.ndarray, "n h w c"], str]:
    """Test images of the run's data; where it is not at hand, noise."""
    from lenet_jax import data

    if network.config is not None:
        with contextlib.suppress(UserError):
            return data.load(**network.config.data).test.images[:COMPARED], "test images"
    shape = COMPARED, network.image_size, network.image_size, network.channels
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8), "random images"


def _nothing_beside(name: str) -> dict[str, str]:
    return {}


def _write_stablehlo(
    network: "Network", draft: Path
) -> tuple[Callable[[str], dict[str, str]], Predict]:
    import jax
    import jax.export

    batch = jax.export.symbolic_shape("batch")[0]
    size, channels = network.image_size, network.channels
    pixels = jax.ShapeDtypeStruct((batch, size, size, channels), np.uint8)
    exported = jax.export.export(jax.jit(_logits_of(network)), platforms=PLATFORMS)(pixels)
    draft.write_bytes(exported.serialize())
    again = jax.jit(jax.export.deserialize(bytearray(draft.read_bytes())).call)
    return _nothing_beside, lambda images: np.asarray(again(images))


def _write_safetensors(
    network: "Network", draft: Path
) -> tuple[Callable[[str], dict[str, str]], Predict]:
    from lenet_jax.inference.load import load
    from lenet_jax.storage import weights as state_file

    state_file.write(draft, network.state_dict, network.notes)
    return _nothing_beside, load(draft).logits


def _write_torch(
    network: "Network", draft: Path
) -> tuple[Callable[[str], dict[str, str]], Predict]:
    try:
        import torch
    except ImportError as error:
        raise UserError(
            "--format=torch reads what it wrote with PyTorch itself: pip install torch\n"
            "Without it, --format=safetensors writes the same weights."
        ) from error
    from lenet_jax.inference import state_dict as torch_bridge
    from lenet_jax.inference import torch_source as torch_module
    from lenet_jax.storage import weights as state_file

    sizes = torch_bridge.infer_sizes(network.state_dict)

    def beside(name: str) -> dict[str, str]:
        text = torch_module.source(sizes, network.mean, network.std, network.class_names, name)
        return {f"{name.removesuffix('.safetensors')}.py": text}

    state_file.write(draft, network.state_dict, network.notes)
    spec = importlib.util.spec_from_loader("exported_lenet", loader=None)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    (text,) = beside(draft.name).values()
    exec(compile(text, "exported_lenet.py", "exec"), module.__dict__)
    model = module.load(draft)

    def predict(images: UInt8[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n k"]:
        pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        with torch.no_grad():
            return model(module.normalise(pixels)).numpy()

    return beside, predict


def _write_onnx(network: "Network", draft: Path) -> tuple[Callable[[str], dict[str, str]], Predict]:
    try:
        import jax2onnx  # pyright: ignore[reportMissingImports]
        import onnxruntime  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise UserError(
            "--format=onnx needs jax2onnx, which is not here\n"
            "Install it, and what it needs: pip install '.[onnx]'"
        ) from error
    import jax

    shape = "batch", network.image_size, network.image_size, network.channels
    pixels = jax.ShapeDtypeStruct(shape, np.uint8)
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # it warns of shapes it does without
    model = jax2onnx.to_onnx(
        _logits_of(network),
        [pixels],
        model_name="lenet",
        input_names=["pixels"],
        output_names=["logits"],
    )
    draft.write_bytes(model.SerializeToString())
    session = onnxruntime.InferenceSession(draft, providers=["CPUExecutionProvider"])
    return _nothing_beside, lambda images: session.run(["logits"], {"pixels": images})[0]


def _logits_of(network: "Network") -> Callable:
    """The network as a function of pixels."""
    return lambda pixels: network.model.activations(network.normalise(pixels))["fc3"]


if __name__ == "__main__":
    sys.exit(command.run(main, sys.argv[1:]))
