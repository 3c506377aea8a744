import functools
import io
import json
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

import lenet_jax
from lenet_jax import data, errors, predict
from tests.support.photos import photo

pytestmark = pytest.mark.slow


@pytest.fixture
def digits(tmp_path):
    """Three photos of digits in a folder, beside two files that are none."""
    folder = tmp_path / "digits"
    folder.mkdir()
    for digit in (0, 3, 7):
        Image.fromarray(photo(digit)).save(folder / f"{digit}.jpg")
    Image.fromarray(255 - photo(3)).save(folder / "white 3.png")
    (folder / "broken.png").write_bytes((folder / "3.jpg").read_bytes()[:500])
    (folder / "readme.txt").write_text("no picture")
    return folder


@pytest.fixture
def run(run_command):
    return functools.partial(run_command, predict.main)


def test_a_folder_is_classified_and_what_is_broken_is_named(run, notes_run, digits):
    code, out, error = run(f"--workdir={notes_run}", digits)
    assert code == 2
    left_out, mistake = error.splitlines()
    assert left_out == "1 file left out: 1 is not an image (.txt 1)"
    assert mistake.startswith(f"{digits / 'broken.png'} ")
    header, *lines, _, remark = out.splitlines()
    assert header.split() == ["image", "class", "runner-up"]
    for line, name, digit in zip(lines, ("0.jpg", "3.jpg", "7.jpg"), "037", strict=False):
        words = line.removeprefix(str(digits / name)).split()
        assert words[0] == digit and words[2] == "%" and words[3] != digit
        assert line.endswith("inverted")
    assert len(lines) == 4 and not lines[3].endswith("inverted")
    assert remark == "3 of 4 were dark on light and are inverted: the network knows light on dark."
    assert all(len(line) == len(lines[0]) for line in lines[:3])


def test_json_says_the_same(run, notes_run, digits):
    code, out, error = run("--json", f"--weights={notes_run / 'model.safetensors'}", digits)
    assert code == 2 and "broken.png" in error
    rows = json.loads(out)
    assert [row["class"] for row in rows] == ["0", "3", "7", "3"]
    assert [row["inverted"] for row in rows] == [True, True, True, False]
    for row in rows:
        assert 0 <= row["runner_up_probability"] <= row["probability"] <= 1
        assert row["runner_up"] != row["class"]


def test_images_of_the_data_are_classified_as_in_evaluation(run, notes_run, tmp_path):
    test = data.load("mnist", image_size=28).test
    for index in range(40):
        Image.fromarray(test.images[index, ..., 0]).save(tmp_path / f"{index:02}.png")
    code, out, error = run("--json", f"--workdir={notes_run}", tmp_path)
    assert code == 0 and error == ""
    rows = json.loads(out)
    assert not any(row["inverted"] for row in rows)
    hits = np.array([int(row["class"]) for row in rows]) == test.labels[:40]
    assert hits.sum() >= 38


def test_each_character_has_a_row_and_a_place(run, notes_run, tmp_path):
    page = np.concatenate([photo(2), photo(7), photo(4)], axis=1)
    Image.fromarray(page).save(tmp_path / "a.png")
    code, out, _ = run("--json", f"--workdir={notes_run}", tmp_path / "a.png")
    rows = json.loads(out)
    assert code == 0
    assert [row["class"] for row in rows] == ["2", "7", "4"]
    lefts = [row["box"][0] for row in rows]
    assert lefts == sorted(lefts) and all(
        200 * i <= left < 200 * (i + 1) for i, left in enumerate(lefts)
    )
    code, out, _ = run(f"--workdir={notes_run}", tmp_path / "a.png")
    assert sum(line.startswith(str(tmp_path)) for line in out.splitlines()) == 3
    assert f" at {lefts[0]}," in out
    code, out, _ = run("--json", "--one", f"--workdir={notes_run}", tmp_path / "a.png")
    assert len(json.loads(out)) == 1
    code, out, _ = run("--one", f"--workdir={notes_run}", tmp_path / "a.png")
    assert "the largest of 3, inverted" in out


def test_a_guess_and_characters_that_touch_are_marked(run, notes_run, tmp_path):
    touching = np.full((100, 160), 240, np.uint8)
    touching[20:80, 35:125] = 20
    touching[30:70, 45:75] = touching[30:70, 85:115] = 240
    Image.fromarray(touching).save(tmp_path / "00.png")
    code, out, _ = run("--json", f"--workdir={notes_run}", tmp_path / "00.png")
    (row,) = json.loads(out)
    assert code == 0 and row["may_be_several"] and row["characters"] == 1
    assert row["guess"] == (row["probability"] < 0.5)
    _, out, _ = run(f"--workdir={notes_run}", tmp_path / "00.png")
    assert "may be several characters" in out and ("a guess" in out) == row["guess"]


def test_an_empty_page_is_named(run, notes_run, tmp_path):
    Image.new("L", (300, 200), 240).save(tmp_path / "empty.png")
    code, out, error = run(f"--workdir={notes_run}", tmp_path / "empty.png")
    assert (code, out) == (2, "")
    assert error == f"{tmp_path / 'empty.png'}: no character found\n"


def test_what_is_unlike_the_classes_is_marked(run, notes_run, tmp_path):
    y, x = np.indices((200, 200)) - 100
    star = np.where((np.abs(x * y) < 300) & (np.hypot(x, y) < 90), 20, 240).astype(np.uint8)
    Image.fromarray(star).save(tmp_path / "star.png")
    _, out, _ = run("--json", f"--workdir={notes_run}", tmp_path / "star.png")
    (row,) = json.loads(out)
    assert row["unlike"] is (row["energy"] < lenet_jax.load(notes_run).least_energy)
    if row["unlike"]:
        _, out, _ = run(f"--workdir={notes_run}", tmp_path / "star.png")
        assert "unlike any class" in out and "may be none of the classes" in out


def test_a_member_of_a_sweep(run, sweep, digits):
    for which in ([f"--workdir={sweep}", "--member=7"], [f"--workdir={sweep}:7"]):
        code, out, _ = run(*which, "--json", digits / "3.jpg")
        assert code == 0
        assert json.loads(out)[0]["class"] == "3"
    code, out, error = run(*which, "--member=3", digits / "3.jpg")
    assert (code, out) == (2, "") and "names a member: omit --member" in error


def test_nothing_but_mistakes_prints_no_table(run, notes_run, digits):
    code, out, error = run(f"--workdir={notes_run}", digits / "readme.txt")
    assert (code, out) == (2, "")
    assert "is not an image of a format that Pillow reads" in error


def test_sources_of_every_kind(run, notes_run, tmp_path, monkeypatch):
    picture = Image.fromarray(photo(3))
    picture.save(tmp_path / "a.webp")
    picture.save(tmp_path / "b.gif", save_all=True, append_images=[Image.fromarray(photo(5))])
    with zipfile.ZipFile(tmp_path / "c.zip", "w") as archive:
        archive.write(tmp_path / "a.webp", "in/a.webp")
        archive.writestr("notes.txt", "")
    stdin = io.TextIOWrapper(io.BytesIO((tmp_path / "a.webp").read_bytes()))
    monkeypatch.setattr(sys, "stdin", stdin)
    monkeypatch.chdir(tmp_path)
    code, out, error = run("--json", f"--workdir={notes_run}", "*.webp", "b.gif", "c.zip", "-")
    assert (code, error) == (0, "1 file left out: 1 is not an image (.txt 1)\n")
    rows = json.loads(out)
    assert [row["image"] for row in rows] == ["a.webp", "b.gif", "c.zip/in/a.webp", "-"]
    assert [row["class"] for row in rows] == ["3"] * 4
    assert [row["first_only"] for row in rows] == [False, True, False, False]
    _, out, _ = run(f"--workdir={notes_run}", "b.gif")
    assert out.splitlines()[1].endswith("inverted, the first of several frames or pages")


NAMES = [b"new\nline.png", "é数.png".encode(), "a\u202egnp.png".encode(), b"\xff.png", b"\x1bc.png"]


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "latin-1", "cp1252"])
@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_odd_names_are_escaped_in_any_encoding(encoding, flags, notes_run, tmp_path, monkeypatch):
    folder = tmp_path / "n"
    folder.mkdir()
    for name in NAMES:
        path = folder / os.fsdecode(name)
        Image.fromarray(photo(3)).save(path)
        path.with_name(f"broken {path.name}").write_bytes(b"no image")
    out, error = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", error)
    monkeypatch.setattr("lenet_jax.machine.use_compilation_cache", lambda: None)
    code = errors.run_command(predict.main, [f"--workdir={notes_run}", str(folder), *flags])
    assert code == 2
    error.flush()
    shown, refused = (stream.buffer.getvalue().decode(encoding) for stream in (out, error))
    *named, last = refused.splitlines()
    assert len(named) == 2 and all("is not an image" in line for line in named)
    assert last == f"and {len(NAMES) - 2} more images could not be read"
    for text in (shown, refused):
        assert text.replace("\n", "").isprintable()
    if flags:
        names = {row["image"] for row in json.loads(shown)}
        assert names == {str(folder / os.fsdecode(name)) for name in NAMES}
    else:
        assert len(shown.splitlines()) == 1 + len(NAMES) + 2
        assert "new\\nline.png" in shown and "a\\u202egnp.png" in shown


def test_an_image_that_is_named_twice_has_no_place(run, notes_run, tmp_path):
    Image.fromarray(photo(3)).save(tmp_path / "a.png")
    _, out, _ = run(f"--workdir={notes_run}", tmp_path / "a.png", tmp_path / "a.png")
    assert out.count("a.png") == 2 and " at " not in out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "required: IMAGE"),
        (["a.png"], "missing --workdir=DIR or --weights=FILE"),
        (["--workdir=a", "--weights=b", "a.png"], "not both of --workdir"),
        (["--workdir=nowhere", "a.png"], "nowhere does not exist"),
        (["--workdir=.", "."], "the folder . has no images in it"),
        (["--workdir=.", "--member=x", "a.png"], "invalid int value"),
        (["--workdir=.", "a.png"], "is not a run directory"),
        (["--works=.", "a.png"], "unrecognized arguments: --works=."),
    ],
)
def test_mistakes_are_told_in_three_lines(run, words, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, error = run(*words)
    assert (code, out) == (2, "")
    assert told in error
    assert len(error.splitlines()) <= 3


def test_help_and_mistakes_need_no_jax():
    code = (
        "import sys; from lenet_jax import errors, predict\n"
        "assert errors.run_command(predict.main, ['--workdir=nowhere', 'a.png']) == 2\n"
        "assert not {'jax', 'numpy', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_many_images_that_cannot_be_read_are_three_lines(run, notes_run, tmp_path):
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes(b"no image")
    code, _, error = run(f"--workdir={notes_run}", *sorted(tmp_path.iterdir()))
    assert code == 2
    assert [line.split()[0] for line in error.splitlines()[:2]] == [
        str(tmp_path / f"{number}.png") for number in range(2)
    ]
    assert error.splitlines()[2:] == ["and 3 more images could not be read"]
