"""Weights files, valid and invalid; PyTorch's own only with torch installed."""

import io
import json
import struct
import sys
import zipfile

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lenet_jax.errors import UserError
from lenet_jax.inference.load import load_model
from lenet_jax.inference.state_dict import to_state_dict
from lenet_jax.storage import weights
from tests.golden import make_network as golden
from tests.support.weights import ONE_PATH, SIZES, WITHOUT_TORCH, random_params, refusal


def with_header(header, values=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + values


def entry(shape, end, dtype="F32"):
    return {"conv1.bias": {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}}


BAD_FILES = {
    "empty": b"",
    "garbage": bytes(range(256)),
    "pickle": b"cbuiltins\nprint\n(S'run'\ntR.",
    "long_header": struct.pack("<Q", 2**63) + b"{}",
    "header_past_the_end": struct.pack("<Q", 90_000_000) + b"{}",
    "huge_shape": with_header(entry([10**9, 10**9], 4 * 10**18)),
    "overflowing_shape": with_header(entry([2**63, 2**63], 8), bytes(8)),
    "huge_but_empty_shape": with_header(entry([0, 2**62, 2**62], 0)),
    "too_many_axes": with_header(entry([1] * 100, 4), bytes(4)),
    "values_missing": with_header(entry([3], 12), bytes(8)),
    "wrong_shape": with_header(entry([3], 8), bytes(8)),
    "unknown_dtype": with_header(entry([3], 12, "F\n32"), bytes(12)),
    "eight_bits": with_header(entry([3], 3, "F8_E4M3"), bytes(3)),
    "deep_header": with_header(b'{"a":' * 10_000 + b"1" + b"}" * 10_000),
    "no_entries": with_header({}),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_file_is_refused_in_one_line(capsys, tmp_path, name):
    path = tmp_path / "network.safetensors"
    path.write_bytes(BAD_FILES[name])
    named, _ = refusal(capsys, "inspect", path).split(" ", 1)
    assert str(path).endswith(named.removeprefix("…"))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_truncated_file_is_refused(capsys, saved, share):
    path = saved({})
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert f"{path} is not a valid safetensors file: " in refusal(capsys, "inspect", path)


@settings(max_examples=200, suppress_health_check=ONE_PATH)
@given(st.binary(max_size=300), st.booleans())
def test_random_bytes_are_refused(tmp_path, content, framed):
    path = tmp_path / "network.safetensors"
    path.write_bytes(with_header(content) if framed else content)
    with pytest.raises(UserError):
        load_model(path)


VALID = safetensors.numpy.save(to_state_dict(random_params(**SIZES)))


HEADER_LENGTH = 8 + struct.unpack("<Q", VALID[:8])[0]


edits = st.lists(
    st.tuples(
        # The header is short, and where the trouble is.
        st.integers(0, HEADER_LENGTH - 1) | st.integers(0, len(VALID) - 1),
        st.sampled_from(b'0123456789[]{},:"FBIU\\') | st.integers(0, 255),
        st.integers(0, 2),
    ),
    min_size=1,
    max_size=4,
)


def edited(content, edits):
    """The content with bytes replaced (0), inserted (1) or taken out (2)."""
    content = bytearray(content)
    for place, byte, kind in edits:
        content[place : place + (kind != 1)] = b"" if kind == 2 else bytes([byte])
    return content


@settings(max_examples=200, suppress_health_check=ONE_PATH)
@given(edits)
@example([(HEADER_LENGTH + 3, 0x7F, 0), (HEADER_LENGTH + 2, 0xC0, 0)])  # a NaN
def test_mangled_file_is_read_or_refused(tmp_path, edits):
    path = tmp_path / "network.safetensors"
    path.write_bytes(edited(VALID, edits))
    try:
        model, _ = load_model(path)
    except UserError as error:
        assert str(error).startswith(str(path))
        assert str(error).count("\n") <= 2
    else:
        for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)):
            assert np.isfinite(leaf).all()


def test_paths_that_are_not_weights_files(capsys, tmp_path):
    missing = tmp_path / "network.safetensors"
    assert refusal(capsys, "inspect", missing) == (
        f"{missing} cannot be read: No such file or directory\n"
    )
    assert f"{tmp_path}/model.safetensors cannot be read" in refusal(capsys, "inspect", tmp_path)
    other = tmp_path / "network.bin"
    other.write_bytes(VALID)
    assert set(weights.read(other)[0]) == set(safetensors.numpy.load(VALID))
    other.write_bytes(b"import numpy as np")
    said = refusal(capsys, "inspect", other)
    assert said.startswith(f"{other} is not a weights file: it is neither safetensors nor PyTorch")


def test_writing_fails_whole(tmp_path, state_dict):
    with pytest.raises(UserError, match="cannot be written: "):
        weights.write(tmp_path / "none" / "network.safetensors", state_dict, {})
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(UserError, match="cannot be written: "):
        weights.write(tmp_path / "folder.safetensors", state_dict, {})
    assert [path.name for path in tmp_path.iterdir()] == ["folder.safetensors"]


def test_pt_file_needs_torch(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch", None)  # as if it were not installed
    path = tmp_path / "network.pt"
    path.write_bytes(b"")
    said = refusal(capsys, "inspect", path)
    assert f"reading {path} needs PyTorch: pip install torch" in said
    assert "safetensors.torch.save_file(network.state_dict()" in said


def torch_archive(pickled):
    """A file in `torch.save`'s format with another pickle."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("network/data.pkl", pickled)
        archive.writestr("network/version", "3\n")
    return content.getvalue()


@pytest.mark.torch
@pytest.mark.parametrize("zipped", [True, False])
def test_program_in_a_pt_file_is_not_run(capsys, tmp_path, zipped):
    pytest.importorskip("torch", reason=WITHOUT_TORCH)
    path, proof = tmp_path / "network.pt", tmp_path / "it_was_run"
    program = f"cbuiltins\nopen\n(S'{proof}'\nS'w'\ntR.".encode()
    path.write_bytes(torch_archive(program) if zipped else program)
    assert f"{path} is not a weights file: " in refusal(capsys, "inspect", path)
    assert not proof.exists()


@pytest.mark.torch
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda torch, net: torch.nn.Linear(1, 1), "it holds more than weights"),
        (lambda torch, net: torch.zeros(3), "it holds a Tensor, not a state_dict"),
        (
            lambda torch, net: net.state_dict() | {"fc1.bias": torch.zeros(1).expand(10**12)},
            "its tensors claim to be larger than the file",
        ),
        (
            lambda torch, net: net.state_dict() | {"fc1.bias": torch.zeros(11).to_sparse()},
            "PyTorch cannot read it (",
        ),
    ],
    ids=["module", "tensor", "expanded", "sparse"],
)
@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_pt_file_of_something_else_is_refused(capsys, tmp_path, make, message):
    torch = pytest.importorskip("torch", reason=WITHOUT_TORCH)
    path = tmp_path / "network.pt"
    torch.save(make(torch, network()), path)
    assert message in refusal(capsys, "inspect", path)


def network():
    return golden.torch_network(**golden.SIZES)


@pytest.mark.torch
def test_archive_that_unpacks_to_more_is_refused(capsys, tmp_path):
    pytest.importorskip("torch", reason=WITHOUT_TORCH)
    path = tmp_path / "network.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("network/data.pkl", bytes(10**6))
    assert "its entries claim to be larger than the file" in refusal(capsys, "inspect", path)


@pytest.mark.torch
def test_mangled_pt_file_is_read_or_refused(tmp_path):
    torch = pytest.importorskip("torch", reason=WITHOUT_TORCH)
    path = tmp_path / "network.pt"
    torch.save(network().state_dict(), path)
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    pickled = next(name for name in entries if name.endswith("data.pkl"))

    @settings(max_examples=100)
    @given(st.data(), st.booleans())
    def mangle(draws, inside):
        original = entries[pickled] if inside else content
        places = st.tuples(
            st.integers(0, len(original) - 1), st.integers(0, 255), st.integers(0, 2)
        )
        mangled = edited(original, draws.draw(st.lists(places, min_size=1, max_size=4)))
        if inside:
            with zipfile.ZipFile(path, "w") as archive:
                for name, data in (entries | {pickled: bytes(mangled)}).items():
                    archive.writestr(name, data)
        else:
            path.write_bytes(mangled)
        try:
            load_model(path)
        except UserError as error:
            assert str(error).count("\n") <= 2

    mangle()


def test_every_flipped_bit_of_a_file_is_found(tmp_path):
    file = tmp_path / "a.safetensors"
    state = {"weight": np.arange(4, dtype=np.float32), "bias": np.ones(2, np.float32)}
    weights.write(file, state, {"mean": "33.3", "classes": "a\nb"})
    assert weights.read(file)[1] == {"mean": "33.3", "classes": "a\nb"}
    content, read = file.read_bytes(), 0
    for bit in range(8 * 8, 8 * len(content), 7):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        between_values = changed[bit // 8] in b" \t\n\r" and content[bit // 8] in b" \t\n\r"
        if between_values or b'"sha256"' not in changed:  # the sum's name: all else is as it was
            continue
        file.write_bytes(changed)
        with pytest.raises(UserError):
            weights.read(file)
        read += 1
    assert read > 300
