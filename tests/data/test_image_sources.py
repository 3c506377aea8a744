import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from lenet_jax.data import image_sources
from lenet_jax.data.image_sources import Content, Entry, describe_left_out, find, open_source
from lenet_jax.errors import UserError


def png(**options):
    stream = io.BytesIO()
    Image.new("L", (30, 30), 200).save(stream, "PNG", **options)
    return stream.getvalue()


def write(folder, *names, content=None):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png() if content is None else content)


def names(found, folder=""):
    return [str(image).removeprefix(f"{folder}/" if folder else "") for image in found.images]


def refused(*paths):
    with pytest.raises(UserError) as caught:
        find(paths)
    (line,) = str(caught.value).splitlines()
    assert len(line) < 250
    return line


def test_a_folder_is_walked_in_natural_order(tmp_path):
    write(tmp_path, "10.png", "2.PNG", "1.webp", "b/2.bmp", "b/c/1.tif", "B1.png", "b.jpg", "a")
    write(tmp_path, "1 (2).png", "1.png", "01.png")
    found = find([tmp_path])
    assert names(found, tmp_path) == [
        *("01.png", "1.png", "1.webp", "1 (2).png"),
        *("2.PNG", "10.png", "a", "b.jpg", "b/2.bmp", "b/c/1.tif", "B1.png"),
    ]
    assert not found.left_out
    assert find([str(tmp_path)]) == found


def test_what_is_left_out_of_a_folder_is_counted(tmp_path):
    write(tmp_path, "a.png", ".b.png", "._a.png", "__MACOSX/c.png", "Thumbs.db", "d/Desktop.ini")
    write(tmp_path, "a.txt", "b.txt", "d/c.csv", "noSuffix", "d/page.pdf", content=b"text")
    write(tmp_path, "x.1", "x.2", "x.3", content=b"")
    write(tmp_path, "broken.png", "photo.heic", content=b"text")  # named as images: errors
    (tmp_path / "dead.png").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo.png")
    found = find([tmp_path])
    assert names(found, tmp_path) == ["a.png", "broken.png", "photo.heic"]
    line = describe_left_out(found.left_out)
    assert line.startswith("15 files left out: 8 are not images (.txt 2, ")
    assert ", others 2), " in line
    assert "5 are hidden" in line
    assert line.count("1 is a broken link") == line.count("1 is not a regular file") == 1


def test_links_to_folders_are_followed_once(tmp_path):
    write(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "a" / "up").symlink_to("..")
    (tmp_path / "a" / "b").symlink_to(tmp_path / "b")
    assert len(find([tmp_path]).images) == 2
    assert len(find([str(tmp_path / "**" / "*.png")]).images) == 2


def test_a_folder_that_cannot_be_read_is_said(tmp_path, monkeypatch):
    write(tmp_path, "1.png", "closed/2.png")
    listdir = os.listdir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return listdir(path)

    monkeypatch.setattr(os, "listdir", refuse)
    assert describe_left_out(find([tmp_path]).left_out) == (
        "1 file left out: 1 is a folder that cannot be read"
    )
    assert refused(tmp_path / "closed").endswith("closed cannot be read: Permission denied")


def test_a_pattern_that_the_shell_left_is_expanded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "s/2.png", "s/10.png", "s/a.webp", "s/t/u/3.png", "s/.4.png", "[1].png")
    write(tmp_path, "s/notes.txt", content=b"")
    assert names(find(["s/*.png"])) == ["s/2.png", "s/10.png"]
    assert names(find(["s/[0-9].png"])) == ["s/2.png"]
    assert names(find(["s/**/*.png"])) == ["s/2.png", "s/10.png", "s/t/u/3.png"]
    assert names(find(["**/u/**"])) == ["s/t/u/3.png"]
    found = find(["s/*"])
    assert names(found) == ["s/2.png", "s/10.png", "s/a.webp", "s/t/u/3.png"]
    assert found.left_out.total() == 1
    assert names(find(["[1].png"])) == ["[1].png"]  # a file of that name
    assert refused("s/*.jpg") == "the pattern s/*.jpg matches no file"
    assert refused("nowhere/**/*.jpg") == "the pattern nowhere/**/*.jpg matches no file"
    assert refused("s/*.txt") == (
        "the pattern s/*.txt has no images in it: 1 file left out: 1 is not an image (.txt 1)"
    )


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path, "s/1.png")
    assert names(find(["~/s/*.png", "~/s", "~/s/1.png"])) == [str(tmp_path / "s/1.png")] * 3


def test_files_that_are_named_are_not_checked(tmp_path):
    assert names(find([tmp_path / "absent.png", "z.png"]), tmp_path) == ["absent.png", "z.png"]


def test_what_has_no_images_is_refused_in_a_line(tmp_path):
    assert refused(tmp_path) == f"the folder {tmp_path} has no images in it"
    write(tmp_path, "a\nb.txt", content=b"")
    assert refused(tmp_path).endswith("in it: 1 file left out: 1 is not an image (.txt 1)")
    assert refused("") == "the name of an image is empty"


class Stdin:
    def __init__(self, content, *, closed=False, terminal=False):
        self.buffer, self.closed, self.isatty = io.BytesIO(content), closed, lambda: terminal


def test_standard_input_is_an_image(monkeypatch):
    monkeypatch.setattr(sys, "stdin", Stdin(png()))
    (image,) = find(["-"]).images
    assert image == Content("-", png()) and str(image) == "-"
    with open_source(image) as stream:
        assert stream.read() == png()
    monkeypatch.setattr(sys, "stdin", Stdin(b"", terminal=True))
    assert "standard input is a terminal" in refused("-")
    for closed in (None, Stdin(b"", closed=True)):
        monkeypatch.setattr(sys, "stdin", closed)
        assert "standard input is closed" in refused("-")
    monkeypatch.setattr(image_sources, "LARGEST", 1 << 20)
    monkeypatch.setattr(sys, "stdin", Stdin(bytes((1 << 20) + 1)))
    assert refused("-") == "-: standard input has more than 1 MB"


def test_a_zip_on_standard_input_is_named(monkeypatch):
    stream = io.BytesIO()
    make_zip(stream, {"a.png": png()})
    monkeypatch.setattr(sys, "stdin", Stdin(stream.getvalue()))
    assert refused("-") == "-: standard input is a zip archive: save it, and give the file"


@pytest.mark.parametrize("content", [png(), b"", b"x" * 50_000])
def test_an_open_pipe_is_read_once(content, monkeypatch):
    """As of `predict <(cat a.png)`; it holds 64 KB."""
    for read in (find, open_source):
        reader, writer = os.pipe()
        os.write(writer, content)
        os.close(writer)
        name = f"/dev/fd/{reader}"
        if read is find:
            assert find([name]).images == [Content(name, content)]
        else:
            with open_source(name) as stream:
                assert stream.read() == content
        os.close(reader)
    assert find(["/dev/fd/999999"]).images == [Path("/dev/fd/999999")]
    reader, writer = os.pipe()
    os.write(writer, bytes((1 << 10) + 1))
    os.close(writer)
    monkeypatch.setattr(image_sources, "LARGEST", 1 << 10)
    assert f"/dev/fd/{reader} has more than" in refused(f"/dev/fd/{reader}")
    os.close(reader)


def test_standard_input_may_be_named_by_its_path():
    code = (
        "from lenet_jax.data.image_sources import find;"
        "print(len(find(['/dev/stdin']).images[0].data))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=png(), capture_output=True, check=True
    )
    assert int(done.stdout) == len(png())


def test_a_pattern_and_its_folder_give_the_same_images(tmp_path):
    write(tmp_path, "f/1.png", "f/2.png", "f/sub/3.png")
    (tmp_path / "f" / "loop").symlink_to(".")
    (tmp_path / "f" / "sub" / "up").symlink_to("..")
    (tmp_path / "f" / "dead.png").symlink_to("nowhere")
    os.mkfifo(tmp_path / "f" / "fifo.png")
    folder = find([tmp_path / "f"])
    for pattern in ("f/*", "f/**", "f/[!.]*", "?/*", "f*"):
        assert find([str(tmp_path / pattern)]) == folder, pattern
    assert names(find([str(tmp_path / "f/l*")]), tmp_path) == [
        *("f/loop/1.png", "f/loop/2.png", "f/loop/sub/3.png")
    ]
    assert refused(str(tmp_path / "f" / "d*")).endswith("1 file left out: 1 is a broken link")


@pytest.mark.parametrize(
    "url", ["http://x.org/a.png", "https://x.org/a.png?size=3", "file:///a.png", "S3://b/[1].png"]
)
def test_an_address_is_shown_as_it_was_given(url):
    (image,) = find([url]).images
    with pytest.raises(UserError) as caught, open_source(image):
        pass
    assert str(caught.value) == f"{url} is no file: download it, and give the file's path"


def make_zip(path, files, compression=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_archive_is_read_in_memory(tmp_path, compression):
    files = ["10.png", "2.png", "sub/1.png", "__MACOSX/._2.png", "../up.png", "a\n\u202e.png"]
    content = dict.fromkeys(files, png()) | {"notes.txt": b"", "sub/": b"", "noSuffix": png()}
    path = make_zip(tmp_path / "scans", content, compression)
    found = find([path])
    inside = [image.name for image in found.images if isinstance(image, Entry)]
    assert inside == ["2.png", "10.png", "../up.png", "a\n\u202e.png", "noSuffix", "sub/1.png"]
    assert str(found.images[0]) == f"{path}/2.png"
    assert image_sources.label(found.images[3]) == repr(f"{path}/a\n\u202e.png")
    assert describe_left_out(found.left_out) == (
        "2 files left out: 1 is not an image (.txt 1), 1 is hidden"
    )
    for image in found.images:
        with open_source(image) as stream:
            assert stream.read() == png()


def test_archives_without_a_bound_are_refused(tmp_path, monkeypatch):
    path = make_zip(tmp_path / "a.zip", {"a.png": png(), "b.png": bytes(3 << 20)})
    monkeypatch.setattr(image_sources, "LARGEST", 2 << 20)
    large = find([path]).images[1]
    error = r"a\.zip/b\.png has 3 MB: unpack it first"
    with pytest.raises(UserError, match=error), open_source(large):
        pass
    monkeypatch.setattr(image_sources, "MOST_UNPACKED", 2)
    assert "unpacks to 2 files of 3 MB" in refused(path)
    monkeypatch.setattr(image_sources, "MOST_UNPACKED", 9)
    monkeypatch.setattr(image_sources, "MOST_ENTRIES", 1)
    assert "give the folder" in refused(path)


def test_archives_that_cannot_be_read_are_refused_in_a_line(tmp_path):
    path = make_zip(tmp_path / "a.zip", {"a.png": png(compress_level=0)})
    content = path.read_bytes()
    assert refused(make_zip(tmp_path / "b.zip", {})) == (
        f"the archive {tmp_path / 'b.zip'} has no images in it"
    )
    (tmp_path / "cut.zip").write_bytes(content[:100])
    assert "cut.zip is a damaged zip archive: " in refused(tmp_path / "cut.zip")
    at = content.index(b"PK\x01\x02")
    encrypted = bytearray(content)
    encrypted[6] |= 1
    encrypted[at + 8] |= 1
    (tmp_path / "locked.zip").write_bytes(encrypted)
    assert "locked.zip is encrypted: unpack it" in refused(tmp_path / "locked.zip")
    flipped = bytearray(content)
    flipped[60] ^= 255
    (tmp_path / "flipped.zip").write_bytes(flipped)
    (image,) = find([tmp_path / "flipped.zip"]).images
    with pytest.raises(UserError, match=r"flipped\.zip/a\.png is damaged: "), open_source(image):
        pass


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere.png", "nowhere.png cannot be read: No such file or directory"),
        ("scam-1.png", "No such file or directory; did you mean .*scan-1.png?"),
        ("", "is a folder: give one of its files"),
        ("fifo", "fifo is not a regular file; to read standard input, give -"),
        ("/dev/null", "/dev/null is not a regular file"),
        ("a\0b", "a.*b.* cannot be read: (stat: )?embedded null"),
        ("scan-1.png/a", "cannot be read: Not a directory"),
        ("x" * 300, "cannot be read: File name too long"),
    ],
)
def test_what_is_no_file_is_refused_in_a_line(tmp_path, name, message):
    write(tmp_path, "scan-1.png")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UserError, match=message) as caught, open_source(tmp_path / name):
        pass
    assert str(caught.value).isprintable() and len(str(caught.value)) < 250


def test_sources_survive_the_way_to_another_process():
    import pickle

    for source in (Path("a"), Entry(Path("a.zip"), 3, "b.png"), Content("-", b"x")):
        assert pickle.loads(pickle.dumps(source)) == source
    assert json.dumps(str(Entry(Path("a.zip"), 3, "b.png"))) == '"a.zip/b.png"'
