"""Sweeps at a URL: fsspec's memory file system, with injected failures, and a server of S3."""

import contextlib
import io
import os
import shutil
import subprocess
import sys
from collections import Counter
from concurrent.futures import wait

import pytest
from fsspec.implementations.memory import MemoryFileSystem

import lenet_jax
from lenet_jax import config as configs
from lenet_jax import inspect, main, sweep
from lenet_jax.errors import UnreachableError, UserError, run_command
from lenet_jax.reading import read_json
from lenet_jax.storage import remote, url_copy
from lenet_jax.storage.columns import Columns
from lenet_jax.storage.formats import ChunkResults
from lenet_jax.storage.sums import MANIFEST, write_manifest
from lenet_jax.storage.sweep_url import find_sweep
from lenet_jax.storage.url_copy import UrlCopy
from lenet_jax.sweeps import file, train
from lenet_jax.sweeps import run as sweeps_run
from lenet_jax.sweeps.members import Members
from lenet_jax.sweeps.options import Options
from lenet_jax.sweeps.run import run
from tests.support import tiny
from tests.support.root import ROOT

pytestmark = pytest.mark.slow

URL = "memory://bucket/studies/seeds"
CHUNK = "/bucket/studies/seeds/chunks/0001.tar"
SWEEP = file.sweep("seed", range(4))
OBJECTS = {
    *("sweep.json", "config.json", "environment.json", "chunks/0000.tar", "chunks/0001.tar"),
    *("results.csv", "history.npz", "summary.json", "sweep.html", "winner.py"),
}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tiny.write_idx_folder(tmp_path_factory.mktemp("data") / "bars")
    values = {**tiny.MLP, "data.name": str(folder), "train.num_epochs": 1}
    return configs.load("configs/notes.py", values.items())


@pytest.fixture(scope="module")
def local(tmp_path_factory, config):
    """The same sweep in a folder; at URLs its chunks are copied rather than trained again."""
    path = tmp_path_factory.mktemp("sweeps") / "local"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweeps_run, "draw", lambda *_: {})
        assert start(config, path)[0] == 0
    return path


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch, no_figures):
    """A function that goes to a machine, whose copies are its own; one without copies at first."""

    def enter(name):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        return tmp_path / name / "lenet_jax" / "sweeps"

    monkeypatch.setattr(MemoryFileSystem, "store", {})
    monkeypatch.setattr(MemoryFileSystem, "pseudo_dirs", [""])
    monkeypatch.setattr(remote, "PAUSE", 0)
    enter("first")
    return enter


@pytest.fixture
def trained(local, monkeypatch):
    """The numbers of the chunks that were trained."""
    numbers = []

    def train_chunk(self, chunk, folder, *args):
        numbers.append(chunk.number)
        for path in (local / "chunks" / f"{chunk.number:04d}").iterdir():
            shutil.copy(path, folder)
        return (read_json(folder / "results.json", ChunkResults) or {})["rows"]

    monkeypatch.setattr(train.ChunkTrainer, "train", train_chunk)
    return numbers


@pytest.fixture
def there(config, trained):
    """The sweep is at the URL, from the first machine."""
    assert start(config)[0] == 0
    trained.clear()


@pytest.fixture
def failing(monkeypatch):
    """How many requests fail yet, by method and the end of the object's name."""
    failures = Counter()

    def wrap(method):
        def request(self, path, *args, **kwargs):
            for (name, end), left in failures.items():
                if name == method and left and path.endswith(end):
                    failures[name, end] -= 1
                    raise OSError(5, "the server is out of order")
            return original(self, path, *args, **kwargs)

        original = getattr(MemoryFileSystem, method)
        monkeypatch.setattr(MemoryFileSystem, method, request)

    for method in ("cat_file", "pipe_file", "ls"):
        wrap(method)
    return failures


def start(config, url=URL, **options):
    all_options = Options(str(url), **{"chunk_size": 2, "save": "all"} | options)
    with contextlib.redirect_stdout(io.StringIO()) as output:
        code = run(config, Members(config, Columns.of(SWEEP)), all_options, ["python"])
    return code, output.getvalue()


def at_url(name):
    return bytes(MemoryFileSystem.store[f"/bucket/studies/seeds/{name}"].getbuffer())


def test_another_machine_goes_on_from_what_the_url_has(config, local, there, trained, machine):
    prefix = "/bucket/studies/seeds/"
    assert {name.removeprefix(prefix) for name in MemoryFileSystem.store} == OBJECTS
    first = at_url("chunks/0000.tar")
    for name in ("chunks/0001.tar", "results.csv", "summary.json"):
        del MemoryFileSystem.store[prefix + name]
    folder = machine("second")
    code, output = start(config)
    assert (code, trained) == (0, [1]) and "1 of 2 chunks is already done" in output
    assert at_url("chunks/0000.tar") == first and len(list(folder.glob("*/chunks/0*"))) == 2
    assert at_url("results.csv") == (local / "results.csv").read_bytes()
    machine("third")
    assert start(config, collect=True)[0] == 0 and trained == [1]


def test_jobs_of_an_array_need_no_folder_in_common(config, local, trained, machine):
    assert start(config, plan_only=True)[0] == 0
    for number in (1, 2):
        machine(f"node{number}")
        assert start(config, worker=(number, 2))[0] == 0
    machine("first")
    assert start(config, collect=True)[0] == 0 and trained == [0, 1]
    assert at_url("results.csv") == (local / "results.csv").read_bytes()


def test_a_sweep_at_a_url_is_loaded_with_its_networks(there, machine, capsys, tmp_path):
    machine("second")
    results = lenet_jax.load_sweep(URL)
    assert len(results.rows) == 4 and results.network(3).source.endswith(":3")
    assert lenet_jax.load(f"{URL}:2").source.endswith(":2")
    assert run_command(inspect.main, [f"--workdir={URL}", "--member=1"]) == 2
    assert "of a sweep at a URL, --out must say where to write" in capsys.readouterr().err
    with pytest.raises(UserError, match="memory://bucket/none has no sweep"):
        lenet_jax.load_sweep("memory://bucket/none")


def test_requests_that_fail_are_repeated(config, trained, machine, failing):
    tries = remote.TRIES - 1
    failing |= {("pipe_file", "sweep.json"): tries, ("pipe_file", "0001.tar"): tries}
    assert start(config)[0] == 0
    assert not failing.total() and CHUNK in MemoryFileSystem.store
    machine("second")
    failing |= {("ls", "chunks"): tries, ("cat_file", "sweep.json"): tries}
    assert len(lenet_jax.load_sweep(URL).rows) == 4
    assert not failing.total()


def test_what_cannot_be_uploaded_is_kept_and_uploaded_later(config, trained, machine, failing):
    failing["pipe_file", ".tar"] = 1000
    with pytest.raises(UnreachableError) as caught:
        start(config)
    lines = str(caught.value).splitlines()
    assert len(lines) == 3 and lines[0].startswith(f"{URL} cannot be written: ")
    folder = next(machine("first").iterdir())
    assert str(folder)[-40:] in lines[1] and "Run the same command again" in lines[2]
    assert len(list(folder.glob("chunks/0*"))) == 2 and CHUNK not in MemoryFileSystem.store
    failing.clear()
    assert start(config)[0] == 0 and trained == [0, 1]
    assert CHUNK in MemoryFileSystem.store and at_url("results.csv")


def test_a_failed_upload_is_said_once_while_others_are_trained(there, failing):
    copy = UrlCopy(URL)
    failing["pipe_file", ".tar"] = 1000
    MemoryFileSystem.store.pop(CHUNK)
    copy.upload(copy.folder / "chunks" / "0001")
    wait([future for _, future in copy._uploads])
    problem = copy.take_problem()
    assert problem is not None and "out of order, 4 times; what is trained is kept in" in problem
    assert copy.take_problem() is None
    failing.clear()
    assert copy.flush() == [] and CHUNK in MemoryFileSystem.store


def test_an_upload_that_fails_in_any_way_is_said_and_repeated(there, monkeypatch):
    copy, content = UrlCopy(URL), at_url("chunks/0001.tar")
    results = iter([OSError(5, "the disk is out of order"), ValueError("overflow")])

    def pack(folder):
        if error := next(results, None):
            raise error
        return remote.pack(folder)

    monkeypatch.setattr(url_copy, "pack", pack)
    MemoryFileSystem.store.pop(CHUNK)
    for said in ("chunks/0001 cannot be uploaded: [Errno 5] the disk is out of order; ", None):
        copy.upload(copy.folder / "chunks" / "0001")
        wait([future for _, future in copy._uploads])
        problem = copy.take_problem()
        assert said in problem if said and problem else problem is said
    assert copy.flush() == [] and at_url("chunks/0001.tar") == content


HANGING = """
import sys, threading
from pathlib import Path
from lenet_jax.storage import url_copy
from lenet_jax.storage.remote import Remote

begun = threading.Event()
url_copy.ENDING = 0.1
url_copy.pack = lambda folder: begun.set() or threading.Event().wait()
copy = url_copy.UrlCopy("memory://bucket/x")
for chunk in range(9):
    copy.upload(Path(str(chunk)))
begun.wait()
copy.close()
"""


def test_python_ends_though_an_upload_hangs():
    subprocess.run([sys.executable, "-c", HANGING], check=True, cwd=ROOT, timeout=60)


@pytest.mark.parametrize("request_of", [("ls", "chunks"), ("cat_file", "0001.tar")])
def test_what_cannot_be_read_is_said_before_anything_is_trained(
    config, there, trained, machine, failing, request_of
):
    machine("second")
    failing[request_of] = remote.TRIES
    with pytest.raises(UserError, match=f"{URL} cannot be read: .*out of order, 4 times") as caught:
        start(config)
    assert len(str(caught.value).splitlines()) == 2
    assert start(config)[0] == 0 and trained == []


def test_a_first_write_that_fails_leaves_no_sweep(config, trained, machine, failing):
    failing["pipe_file", "sweep.json"] = 1000
    with pytest.raises(UnreachableError):
        start(config)
    assert not MemoryFileSystem.store and not list(machine("first").glob("*/sweep.json"))
    assert trained == []


def test_damage_at_the_url_is_found_wherever_it_is(there, machine):
    content = at_url("chunks/0001.tar")
    rows, refused = list(lenet_jax.load_sweep(URL).rows), 0
    for number, place in enumerate(range(0, len(content), len(content) // 40)):
        machine(f"machine{number}")
        changed = bytearray(content)
        changed[place] ^= 1 << number % 8
        MemoryFileSystem().pipe_file(CHUNK, bytes(changed))
        try:
            assert lenet_jax.load_sweep(URL).rows == rows  # of padding, and times of entries
        except UserError as error:
            refused += 1
            assert f"{URL}/chunks/0001.tar is damaged: " in str(error)
    assert refused > 20
    machine("last")
    MemoryFileSystem().pipe_file(CHUNK, content[: len(content) // 2])
    with pytest.raises(UserError, match=r"studies/seeds/chunks/0001.tar is damaged: "):
        lenet_jax.load_sweep(URL)


def test_a_damaged_plan_is_named_with_what_to_do(config, there, machine):
    plan = CHUNK.replace("chunks/0001.tar", "sweep.json")
    MemoryFileSystem().pipe_file(plan, at_url("sweep.json")[:40])
    machine("second")
    for use in (lambda: lenet_jax.load_sweep(URL), lambda: start(config)):
        with pytest.raises(UserError, match=r"studies/seeds/sweep.json.*\nPut back") as error:
            use()
        assert len(str(error.value).splitlines()) == 2


def test_a_chunk_of_another_place_is_refused(there, machine):
    MemoryFileSystem().pipe_file(CHUNK, at_url("chunks/0000.tar"))
    machine("second")
    with pytest.raises(UserError, match=r"0001.tar is damaged: it is not chunk 1 of the plan"):
        lenet_jax.load_sweep(URL)


def test_of_two_drivers_the_first_chunk_stays(config, there, trained, machine, monkeypatch):
    theirs = at_url("chunks/0001.tar").replace(b'"seconds": ', b'"seconds":1')
    other = remote.unpack(theirs)
    folder = machine("first") / "theirs"
    folder.mkdir()
    for name in other.keys() - {MANIFEST}:
        (folder / name).write_bytes(other[name])
    write_manifest(folder)
    theirs = remote.pack(folder)
    assert theirs != at_url("chunks/0001.tar")
    MemoryFileSystem().rm_file(CHUNK)
    machine("second")
    train_chunk = train.ChunkTrainer.train

    def train_slowly(self, chunk, *args):
        MemoryFileSystem().pipe_file(CHUNK, theirs)  # meanwhile, by the other driver
        return train_chunk(self, chunk, *args)

    monkeypatch.setattr(train.ChunkTrainer, "train", train_slowly)
    assert start(config)[0] == 0 and trained == [1]
    assert at_url("chunks/0001.tar") == theirs
    assert remote.pack(find_sweep(URL).folder(1)) == theirs


def test_a_copy_of_another_sweep_is_refused(config, there):
    text = at_url("sweep.json").replace(b'"save": "all"', b'"save": "best"')
    assert text != at_url("sweep.json")
    MemoryFileSystem().pipe_file(f"{URL}/sweep.json", text)
    with pytest.raises(UserError, match="is the copy of another sweep than memory://"):
        start(config)


FLAGS = ["--config=configs/notes.py:smoke"]


@pytest.mark.parametrize(
    ("command", "flags", "message"),
    [
        (main.main, [*FLAGS, "--workdir=s3://a/b"], "--workdir=s3://a/b: here it must be a file"),
        (sweep.main, [*FLAGS, "--workdir=nfs2://a/b"], "nfs2://a/b: Protocol not known: nfs2"),
        (
            sweep.main,
            [*FLAGS, f"--workdir={URL}", "--executor=slurm"],
            "--executor=slurm needs a --workdir that is a folder",
        ),
        (sweep.main, [*FLAGS, f"--workdir={URL}", "--collect"], "no sweep yet: nothing to collect"),
    ],
)
def test_what_cannot_be_at_a_url_is_refused(environment, capsys, command, flags, message):
    more = ["--sweep=configs/sweeps/seeds.py:4"] if command is sweep.main else []
    assert run_command(command, [*flags, *more]) == 2
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) <= 3
    assert not MemoryFileSystem.store


def test_a_sweep_at_a_server_of_s3(config, trained, machine, monkeypatch):
    required = bool(os.environ.get("LENET_JAX_REQUIRE_S3"))
    if not required:
        pytest.importorskip("s3fs")
        pytest.importorskip("moto.server")
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        port = server.get_host_and_port()[1]
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "test")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        url = "s3://bucket/studies/seeds"
        with pytest.raises(UserError, match="cannot be written: no such bucket"):
            start(config, url)
        system = s3fs.S3FileSystem(use_listings_cache=False)
        system.mkdir("bucket")
        assert start(config, url)[0] == 0
        paths = {path.removeprefix("bucket/studies/seeds/") for path in system.find("bucket")}
        assert paths == OBJECTS
        first = system.cat_file(f"{url}/chunks/0000.tar")
        assert not remote.Remote(url).create("chunks/0000.tar", b"of another driver")
        system.rm_file(f"{url}/chunks/0001.tar")
        machine("second")
        assert "1 of 2 chunks is already done" in start(config, url)[1] and trained == [0, 1, 1]
        assert system.cat_file(f"{url}/chunks/0000.tar") == first
        machine("third")
        assert len(lenet_jax.load_sweep(url).rows) == 4
    finally:
        server.stop()
