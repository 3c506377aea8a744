import ctypes
import os
import shlex
import subprocess
import sys
from functools import partial
from inspect import unwrap
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lenet_jax import machine
from lenet_jax.errors import UserError
from lenet_jax.nn import cpu_kernels, native, ops
from tests.support.backends import NATIVE

SCRIPT = """
import sys
from lenet_jax.nn import cpu_kernels, native
if "refuse" in sys.argv:
    import subprocess
    run = subprocess.run
    def refuse(command, **options):
        assert "-shared" not in command, "it compiles again"
        return run(command, **options)
    subprocess.run = refuse
import jax.numpy as jnp
ones = jnp.ones
out = cpu_kernels.conv_pool_relu(ones((1, 6, 6, 3)), ones((5, 5, 1, 2)), ones(2))
assert out.shape == (2, 1, 1, 3) and (out == 26).all()
"""


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """The state of a new process: nothing is loaded, and the cache is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(native, "_registered", set())
    cached = native.missing, native.key, native._macros
    for function in cached:
        function.cache_clear()
    yield monkeypatch
    for function in cached:
        function.cache_clear()


def run_script(cache: Path, *arguments: str, times: int = 1) -> None:
    """Runs the script, as often at once as asked, with a compiler that optimises nothing.

    That takes a third of the time. It writes a line for each library to a file beside the cache.
    """
    optimising, log = shlex.join(native._compiler()), shlex.quote(f"{cache}-log")
    count = f'case "$*" in *-shared*) echo built >> {log};; esac'
    fast = compiler(cache.with_name(f"{cache.name}-cxx"), f'{count}\nexec {optimising} "$@" -O0')
    environment = os.environ | {"XDG_CACHE_HOME": str(cache), "CXX": fast}
    command = [sys.executable, "-c", SCRIPT, *arguments]
    started = [subprocess.Popen(command, env=environment) for _ in range(times)]
    assert [process.wait() for process in started] == [0] * times


def compiler(path: Path, script: str) -> str:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.slow
@pytest.mark.compiler
def test_the_library_is_cached_and_rebuilt_if_it_is_damaged(tmp_path):
    run_script(tmp_path)
    libraries = list((tmp_path / "lenet_jax").glob("*.so"))
    assert len(libraries) == len(native.LENET)
    run_script(tmp_path, "refuse")
    library = libraries[0]
    intact = library.read_bytes()
    library.write_bytes(intact[:1000])
    run_script(tmp_path)
    unit = library.stem.split("-")[2]
    (library,) = (tmp_path / "lenet_jax").glob(f"*-{unit}-*.so")
    assert len(library.read_bytes()) == len(intact)


@pytest.mark.slow
@pytest.mark.compiler
def test_processes_that_start_together_build_each_library_once(tmp_path):
    run_script(tmp_path / "cache", times=2)
    assert (tmp_path / "cache-log").read_text() == "built\n" * len(native.LENET)


@pytest.mark.slow
@pytest.mark.compiler
def test_without_a_cache_folder_the_library_still_loads(tmp_path):
    (tmp_path / "lenet_jax").write_text("in the way")
    run_script(tmp_path)


@pytest.fixture
def taken(fresh) -> list[Path | str | None]:
    """What `native._load` loads: the path of a library, or the folder of one that it builds."""
    taken, library = [], ctypes.CDLL(None)

    def load(path):
        taken.append(Path(path))
        return library

    def build(unit, folder):
        taken.extend(["built", folder])
        return library

    fresh.setattr("ctypes.CDLL", load)
    fresh.setattr(native, "key", lambda: "k")
    fresh.setattr(native, "_build", build)
    return taken


@pytest.fixture
def cached(fresh, tmp_path):
    """A library in the cache folder."""
    folder = tmp_path / "cache" / "lenet_jax"
    folder.mkdir(parents=True)
    library = folder / f"native-k-linear-{native._hash(b'code')}.so"
    library.write_bytes(b"code")
    library.chmod(0o600)
    return library


def test_a_library_of_this_user_alone_is_loaded(cached, taken):
    native._load("linear")
    assert taken == [cached]


@pytest.mark.skipif(not machine.POSIX, reason="Windows has no modes")
def test_a_folder_that_others_may_write_is_closed_to_them(cached, taken):
    cached.parent.chmod(0o777)
    native._load("linear")
    assert taken == [cached]
    assert cached.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(not machine.POSIX, reason="Windows has no owners")
@pytest.mark.parametrize("kind", ["written by others", "a link", "of another user"])
def test_a_library_that_others_may_have_put_there_is_built_again(cached, taken, monkeypatch, kind):
    if kind == "written by others":
        cached.chmod(0o666)
    elif kind == "a link":
        cached.replace(cached.with_name("elsewhere"))
        cached.symlink_to("elsewhere")
    else:
        give_to_another_user(cached, monkeypatch)
    native._load("linear")
    assert taken == ["built", cached.parent]
    assert not cached.is_symlink() and not cached.exists()


@pytest.mark.skipif(not machine.POSIX, reason="Windows has no owners")
@pytest.mark.parametrize("kind", ["a link", "of another user"])
def test_a_cache_folder_that_is_not_ours_is_not_used(cached, taken, monkeypatch, capsys, kind):
    folder = cached.parent
    if kind == "a link":
        folder.rename(folder.with_name("elsewhere"))
        folder.symlink_to("elsewhere")
    else:
        give_to_another_user(folder, monkeypatch)
    native._load("linear")
    assert taken == ["built", None]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {folder} ")


def give_to_another_user(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lstat = Path.lstat

    def lstat_of_another(self):
        state = lstat(self)
        return os.stat_result((*state[:4], os.geteuid() + 1, *state[5:])) if self == path else state

    monkeypatch.setattr(Path, "lstat", lstat_of_another)


def test_without_a_compiler_auto_is_phase(fresh):
    fresh.setenv("PATH", "")
    assert native.missing() == "there is no C++ compiler here, no c++ or g++ or clang++"
    assert ops.choose_backend("auto") == "phase"
    x, kernel = jnp.ones((2, 6, 6, 1)), jnp.ones((5, 5, 1, 3))
    np.testing.assert_array_equal(ops.conv_pool_relu(x, kernel, jnp.ones(3)), 26)
    with pytest.raises(UserError, match="Install g") as error:
        ops.conv_pool_relu(x, kernel, jnp.ones(3), backend="native")
    assert len(str(error.value).splitlines()) <= 3


@pytest.mark.parametrize("name", ["no-such-compiler", "'unclosed quotation"])
def test_a_missing_compiler_is_named(fresh, name):
    fresh.setenv("CXX", name)
    assert native.missing() == f"there is no C++ compiler here, no {name}"


@pytest.mark.parametrize(
    ("cxx", "command"),
    [
        ("{} -m64 -DX", ["{}", "-m64", "-DX"]),
        ("'{}' '-DX=a b'", ["{}", "-DX=a b"]),
        ("{}", ["{}"]),  # a path with a space needs no quotation
    ],
)
def test_cxx_keeps_its_flags(fresh, tmp_path, cxx, command):
    (tmp_path / "a folder").mkdir()
    name = "a folder/g++" if cxx == "{}" else "g++"
    path = compiler(tmp_path / name, "exit 1")
    fresh.setenv("CXX", cxx.format(path))
    assert native._compiler() == [word.format(path) for word in command]


def test_a_launcher_before_the_compiler_is_kept(fresh, tmp_path):
    compiler(tmp_path / "ccache", "exit 1")
    fresh.setenv("PATH", str(tmp_path))
    fresh.setenv("CXX", "ccache g++")
    assert native._compiler() == ["ccache", "g++"]


@pytest.mark.parametrize("name", ["cl", "cl.exe /nologo", "clang-cl"])
def test_msvc_is_refused_and_auto_is_phase(fresh, name):
    fresh.setenv("CXX", name)
    assert native.missing() == f"{name.split()[0]} lacks the vector extensions of GCC and Clang"
    assert ops.choose_backend("auto") == "phase"


@pytest.mark.parametrize(
    ("system", "machine", "expected"),
    [
        ("linux", "x86_64", {"-march=native", "-fPIC"}),
        ("darwin", "arm64", {"-mcpu=native", "-fPIC"}),
        ("win32", "AMD64", {"-march=native", "-Wl,/EXPORT:linear_forward"}),
    ],
)
def test_flags_are_those_of_the_system(monkeypatch, system, machine, expected):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    flags = native._flags("linear")
    assert expected < set(flags)
    assert ("-fPIC" in flags) == (system != "win32")


def test_a_compiler_error_is_reported_in_one_line(fresh, tmp_path):
    fails = "echo '-shared: what is that?' >&2; echo 'fatal error: no C++17' >&2; exit 1"
    fresh.setenv("CXX", compiler(tmp_path / "ancient", fails) + " -v")
    source = "lenet_jax/nn/cpp/convolution.cc"
    message = f"{tmp_path}/ancient does not compile {source}: fatal error: no C++17"
    assert native.missing() == message
    fresh.setenv("CXX", compiler(tmp_path / "mute", "exit 1"))
    with pytest.raises(UserError, match="mute does not compile"):
        native.load()


def test_a_library_that_does_not_load_is_reported_in_one_line(fresh, tmp_path):
    writes = 'for word; do last=$word; done; [ -w "$last" ] && exit; echo nonsense > "$last"'
    fresh.setenv("CXX", compiler(tmp_path / "liar", writes))
    assert (native.missing() or "").startswith(f"what {tmp_path}/liar made of")


@pytest.mark.compiler
def test_a_call_refuses_arrays_of_other_types():
    native.load()
    out = jax.ShapeDtypeStruct((4, 16), jnp.float32)
    call = jax.ffi.ffi_call("linear_forward", out)
    with pytest.raises(jax.errors.JaxRuntimeError, match="other types"):
        call(jnp.ones((3, 16)), jnp.ones((3, 4), jnp.int32), jnp.ones(4))


def test_a_compiler_that_hangs_is_given_up(fresh, tmp_path):
    fresh.setattr(native, "LONGEST_BUILD", 0.2)
    fresh.setenv("CXX", compiler(tmp_path / "slow", "exec cat /dev/zero > /dev/null"))
    assert native.missing() == (
        f"{tmp_path}/slow takes more than 0.2 s to compile lenet_jax/nn/cpp/convolution.cc"
    )


@pytest.mark.compiler
def test_without_a_cache_each_unit_is_registered_once(tmp_path):
    (tmp_path / "file").write_text("no folder")
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "file")}
    code = "import jax; jax.devices()\n"  # XLA is asked only once there is a device
    code += "from lenet_jax.nn import native; native.load(); native.load(native.LENET)"
    code += "; assert native.missing() is None; native.load(native.LENET[:1])"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_what_is_started_early_fails_in_load_alone_and_without_jax(tmp_path):
    code = "import sys; from lenet_jax.nn import native; native.start()"
    code += "; print('jax' in sys.modules); print(native.missing())"
    compiler(tmp_path / "mute", "exit 1")
    environment = os.environ | {"CXX": str(tmp_path / "mute"), "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    first, second = done.stdout.splitlines()
    assert (first, done.stderr) == ("False", "")
    assert second.startswith(f"{tmp_path}/mute does not compile")


@pytest.mark.parametrize(
    ("size", "dtype", "message"),
    [(3, "float32", "not 3×3 of float32"), (5, "float16", "not 5×5 of float16")],
)
@pytest.mark.parametrize("backend", [NATIVE])
def test_unsupported_sizes_and_dtypes_are_refused_or_left_to_phase(size, dtype, message, backend):
    x, kernel = jnp.ones((2, size + 1, size + 1, 1), dtype), jnp.ones((size, size, 1, 3), dtype)
    bias = jnp.ones(3, dtype)
    with pytest.raises(ValueError, match=message):
        ops.conv_pool_relu(x, kernel, bias, backend=backend)
    np.testing.assert_array_equal(ops.conv_pool_relu(x, kernel, bias), size**2 + 1)


@pytest.mark.parametrize("backend", ["plain", NATIVE])
def test_non_finite_values_propagate(backend):
    x = np.ones((1, 8, 8, 1), np.float32)
    x[0, 0, 0] = np.nan  # in the window of the first phase of the first block alone
    kernel = np.ones((5, 5, 1, 1), np.float32)
    out = ops.conv_pool_relu(jnp.asarray(x), jnp.asarray(kernel), jnp.zeros(1), backend=backend)
    np.testing.assert_array_equal(np.isnan(out[0, :, :, 0]), [[True, False], [False, False]])
    x[0, 0, 0], x[0, 0, 1] = 1, np.inf
    out = ops.conv_pool_relu(jnp.asarray(x), jnp.asarray(kernel), jnp.zeros(1), backend=backend)
    np.testing.assert_array_equal(np.isinf(out[0, :, :, 0]), [[True, False], [False, False]])


@pytest.mark.compiler
def test_a_non_finite_cotangent_affects_only_its_own_image():
    x, kernel = jnp.ones((3, 8, 8, 20)), jnp.ones((5, 5, 3, 2))
    _, vjp = jax.vjp(cpu_kernels.conv_pool_relu, x, kernel, jnp.ones(2))
    cotangent = np.ones((2, 2, 2, 20), np.float32)
    cotangent[0, 0, 0, 17] = np.nan
    of_x, of_kernel, of_bias = vjp(jnp.asarray(cotangent))
    np.testing.assert_array_equal(np.isnan(of_x).any(axis=(0, 1, 2)), np.arange(20) == 17)
    assert np.isnan(of_x[:, :5, :5, 17]).all()
    np.testing.assert_array_equal(np.isnan(of_kernel).all(axis=(0, 1, 2)), [True, False])
    np.testing.assert_array_equal(np.isnan(of_bias), [True, False])


@pytest.mark.compiler
@pytest.mark.parametrize(("channels", "filters"), [(1, 1), (2, 7), (5, 13), (16, 32)])
def test_no_sum_depends_on_other_images_of_the_batch(channels, filters):
    """Nor on how filters are split into tiles: one alone gives the same bits."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(channels, 12, 16, 33)).astype(np.float32)
    kernel = rng.normal(size=(5, 5, channels, filters)).astype(np.float32)
    bias = rng.normal(size=filters).astype(np.float32)
    cotangent = rng.normal(size=(filters, 4, 6, 33)).astype(np.float32)
    out, vjp = jax.vjp(cpu_kernels.conv_pool_relu, *map(jnp.asarray, (x, kernel, bias)))
    of_x = vjp(jnp.asarray(cotangent))[0]
    for image, filter_ in ((0, 0), (32, filters - 1), (17, filters // 2)):
        image_alone, bias_alone = jnp.asarray(x[..., image : image + 1]), jnp.asarray(bias)
        alone, vjp = jax.vjp(
            cpu_kernels.conv_pool_relu, image_alone, jnp.asarray(kernel), bias_alone
        )
        np.testing.assert_array_equal(alone[..., 0], out[..., image])
        of_x_alone = vjp(jnp.asarray(cotangent[..., image : image + 1]))[0]
        np.testing.assert_array_equal(of_x_alone[..., 0], of_x[..., image])
        filter_alone = jnp.asarray(kernel[..., filter_ : filter_ + 1])
        alone = cpu_kernels.conv_pool_relu(
            image_alone, filter_alone, bias_alone[filter_ : filter_ + 1]
        )
        np.testing.assert_array_equal(alone[0, ..., 0], out[filter_, ..., image])


@pytest.mark.compiler
@pytest.mark.parametrize("active", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("channels", "filters"), [(1, 6), (16, 32), (33, 5)])
def test_gradients_of_wide_layers_at_any_share_of_active_units(channels, filters, active):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 10, 12, channels)).astype(np.float32)
    kernel = rng.normal(size=(5, 5, channels, filters)).astype(np.float32)
    size = np.sqrt(25 * channels)  # of the convolution, so that the bias decides what is active
    bias = np.where(rng.random(filters) < active, 9 * size, -9 * size).astype(np.float32)
    cotangent = rng.normal(size=(20, 3, 4, filters)).astype(np.float32)

    def gradients(backend: ops.Backend):
        arrays = map(jnp.asarray, (x, kernel, bias))
        out, vjp = jax.vjp(partial(ops.conv_pool_relu, backend=backend), *arrays)
        return np.mean(np.asarray(out) > 0), vjp(jnp.asarray(cotangent))

    (share, actual), (_, expected) = gradients("native"), gradients("plain")
    assert share == np.mean(bias > 0)
    for fast, plain in zip(actual, expected, strict=True):
        np.testing.assert_allclose(fast, plain, rtol=1e-4, atol=1e-5 * float(abs(plain).max()))


@pytest.mark.compiler
@pytest.mark.parametrize(("batch", "inputs", "units"), [(32, 400, 120), (17, 84, 10), (1, 7, 33)])
def test_linear_equals_a_matrix_product_and_its_gradients(batch, inputs, units):
    rng = np.random.default_rng(0)
    shapes = (batch, inputs), (inputs, units), (units,)
    x, kernel, bias = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in shapes)
    cotangent = jnp.asarray(rng.normal(size=(batch, units)), jnp.float32)
    out, vjp = jax.vjp(lambda *a: ops.linear(*a, backend="native"), x, kernel, bias)
    exact = [np.asarray(a, np.float64) for a in (x, kernel, bias, cotangent)]
    expected = (
        exact[0] @ exact[1] + exact[2],
        *(exact[3] @ exact[1].T, exact[0].T @ exact[3], exact[3].sum(axis=0)),
    )
    for actual, value in zip((out, *vjp(cotangent)), expected, strict=True):
        np.testing.assert_allclose(actual, value, rtol=1e-5, atol=1e-5 * np.abs(value).max())


@pytest.mark.compiler
def test_linear_leaves_other_dtypes_to_xla():
    shapes = (2, 3), (3, 4), (4,)
    x, kernel, bias = (jnp.ones(shape, "float16") for shape in shapes)
    np.testing.assert_array_equal(ops.linear(x, kernel, bias), 4)
    with pytest.raises(ValueError, match="float16"):
        ops.linear(x, kernel, bias, backend="native")


@pytest.mark.compiler
def test_vmap_over_networks():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 6, 14, 14, 16)), jnp.float32)
    kernels = jnp.asarray(rng.normal(size=(2, 5, 5, 6, 3)), jnp.float32)

    def total(x, kernel):
        return jnp.sum(cpu_kernels.conv_pool_relu(x, kernel, jnp.ones(3)) ** 2)

    gradient = jax.grad(total, argnums=(0, 1))
    together = jax.jit(jax.vmap(gradient))(x, kernels)
    for index in range(2):
        alone = gradient(x[index], kernels[index])
        jax.tree.map(lambda a, b, i=index: np.testing.assert_array_equal(a[i], b), together, alone)


@pytest.mark.compiler
def test_shapes_that_do_not_fit_are_refused_before_the_kernels():
    with pytest.raises(ValueError, match=r"\(5, 3\).*\(5000, 4\).*\(4,\)"):
        unwrap(cpu_kernels.linear)(jnp.ones((5, 3)), jnp.ones((5000, 4)), jnp.ones(4))
    for x, kernel, bias in (
        ((2, 8, 8, 16), (5, 5, 1, 4), (4,)),
        ((1, 8, 8, 16), (5, 3, 1, 4), (4,)),
        ((1, 8, 8, 16), (5, 5, 1, 4), (3,)),
        ((1, 9, 8, 16), (5, 5, 1, 4), (4,)),
    ):
        with pytest.raises(ValueError, match=r"do not fit|no even size"):
            unwrap(cpu_kernels.conv_pool_relu)(*map(jnp.ones, (x, kernel, bias)))


def draw_layer(channels, filters, sides=(14, 12), batch=21):
    rng = np.random.default_rng(channels)
    shapes = (channels, *sides, batch), (5, 5, channels, filters), (filters,)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


@pytest.mark.compiler
@pytest.mark.parametrize("batch", [1, 2, 4, 5, 8, 9])
@pytest.mark.parametrize("width", [6, 8, 10, 12, 14, 20])
def test_few_images_give_the_bits_of_many(batch, width):
    x, kernel, bias = draw_layer(3, 7, (8, width), 16)
    few = x[..., :batch]
    ours, vjp = jax.vjp(cpu_kernels.conv_pool_relu, few, kernel, bias)
    many, vjp_many = jax.vjp(cpu_kernels.conv_pool_relu, x, kernel, bias)
    np.testing.assert_array_equal(ours, many[..., :batch])
    cotangent = jnp.cos(jnp.arange(many.size, dtype=jnp.float32)).reshape(many.shape)
    of_x, *_ = vjp(cotangent[..., :batch])
    np.testing.assert_array_equal(of_x, vjp_many(cotangent)[0][..., :batch])


@pytest.mark.compiler
@pytest.mark.parametrize("batch", [1, 3, 17])
def test_a_linear_layer_s_gradient_takes_any_number_of_images(batch):
    x, kernel, bias = (
        jnp.asarray(np.random.default_rng(batch).normal(size=shape), jnp.float32)
        for shape in ((30, batch), (30, 11), (11,))
    )
    value, vjp = jax.vjp(cpu_kernels.linear, x, kernel, bias)
    _, of_kernel, of_bias = vjp(jnp.ones_like(value))
    np.testing.assert_allclose(of_kernel, x.sum(1, keepdims=True).repeat(11, 1), rtol=1e-5)
    np.testing.assert_array_equal(of_bias, batch)


ROUNDS = pytest.mark.skipif(
    not native.has_bfloat16(), reason="this processor does not multiply bfloat16"
)


def rounded(array):
    return jnp.asarray(array).astype(jnp.bfloat16).astype(jnp.float32)


@ROUNDS
@pytest.mark.parametrize(("channels", "filters"), [(2, 6), (3, 17), (6, 12), (7, 1)])
def test_bfloat16_is_the_layer_of_rounded_arrays(channels, filters):
    x, kernel, bias = draw_layer(channels, filters)
    layer = cpu_kernels.conv_pool_relu
    ours, exact = layer(x, kernel, bias, "bfloat16"), layer(x, kernel, bias)
    expected = layer(rounded(x), rounded(kernel), bias)
    scale = float(jnp.abs(expected).max())
    np.testing.assert_allclose(ours / scale, expected / scale, atol=1e-6)
    assert 1e-4 < float(jnp.abs(ours - exact).max()) / scale < 1e-2


@ROUNDS
def test_of_bfloat16_ties_stay_ties_and_gradients_are_those_of_float32():
    x, kernel, bias = draw_layer(6, 12)
    x = jnp.broadcast_to(x[:, :1, :1], x.shape)  # all windows of an image are equal

    def total(x, precision):
        return cpu_kernels.conv_pool_relu(x, kernel, bias, precision).sum()

    ours, exact = (jax.grad(total)(x, name) for name in ("bfloat16", "float32"))
    np.testing.assert_array_equal(ours, exact)
    assert jnp.any(ours != 0)


@ROUNDS
def test_mapped_bfloat16_is_each_network_s_own():
    x, kernel, bias = draw_layer(4, 5)
    kernels = jnp.stack([kernel, -kernel])
    layer = partial(cpu_kernels.conv_pool_relu, precision="bfloat16")
    mapped = jax.vmap(layer, (None, 0, None))(x, kernels, bias)
    for ours, own in zip(mapped, kernels, strict=True):
        np.testing.assert_array_equal(ours, layer(x, own, bias))


@pytest.mark.compiler
def test_a_processor_without_bfloat16_computes_in_float32(monkeypatch):
    monkeypatch.setattr(native, "_macros", lambda: b"#define __AVX512F__ 1")
    x, kernel, bias = draw_layer(6, 4)
    layer = cpu_kernels.conv_pool_relu
    np.testing.assert_array_equal(layer(x, kernel, bias, "bfloat16"), layer(x, kernel, bias))
