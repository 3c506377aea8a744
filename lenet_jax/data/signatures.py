"""What a file is, by its first bytes: an image, or something of which people think it is one."""

HEAD = 1024  # bytes from a file's beginning that these functions look at

# Of what Pillow reads and what is not read by accident: text and numbers begin otherwise.
_IMAGES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*", b"8BPS", b"qoif")
_JPEG_2000 = (b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ")
_AVIF = (b"avif", b"avis")
_HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_RAW = (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FOVb", b"\0MRM")

RAW = "is a camera's raw file: develop it, or export it as JPEG"
HEIC = "is a HEIC photograph: convert it to JPEG, for example by heif-convert"

LFS_POINTER = b"version https://git-lfs"

# How a file begins, and what to do with it.
_OTHERS = (
    ((b"%PDF",), "is a PDF: export the page as an image, for example by pdftoppm -png"),
    ((b"%!PS", b"\xc5\xd0\xd3\xc6"), "is PostScript: export it as a PNG"),
    (
        (b"\xff\x0a", b"\0\0\0\x0cJXL "),
        "is a JPEG XL image: convert it to PNG, by djxl",
    ),
    ((b"\x76\x2f\x31\x01",), "is an OpenEXR image: export it as a PNG"),
    ((b"#?RADIANCE", b"#?RGBE"), "is a Radiance HDR image: export it as a PNG"),
    ((b"\xd7\xcd\xc6\x9a", b"\x01\0\0\0\x6c\0\0\0"), "is a Windows metafile: export it as a PNG"),
    ((LFS_POINTER,), "is a Git LFS pointer, not the image: run git lfs pull"),
    ((b"\x93NUMPY",), "is a NumPy array: in Python, network.predict(numpy.load(path))"),
    ((b"\0\0\x08\x01", b"\0\0\x08\x03"), "is an idx file of a data set, not an image"),
    ((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!"), "is an archive: unpack it first"),
    ((b"\x1a\x45\xdf\xa3", b"\0\0\x01\xba", b"\0\0\x01\xb3"), "is a video: export a frame of it"),
)


def is_image(head: bytes) -> bool:
    """Whether a file begins as an image does, or as a photograph that has to be converted."""
    if head.startswith(_IMAGES + _JPEG_2000 + _RAW):
        return True
    if head[:4] == b"RIFF":
        return head[8:12] == b"WEBP"
    return head[4:8] == b"ftyp" and head[8:12] in (*_AVIF, *_HEIC, b"crx ")


def describe(head: bytes) -> str | None:
    """What a file is that is no image that can be read, and what to do: the end of a sentence.

    None if it is nothing known.
    """
    if not head:
        return "is empty"
    if head[4:8] == b"ftyp":
        if head[8:12] in _HEIC:
            return HEIC
        if head[8:12] in _AVIF:
            return "is an AVIF image that this Pillow does not read: pip install --upgrade Pillow"
        return RAW if head[8:12] == b"crx " else "is a video: export a frame of it"
    if head.startswith(_RAW) or (head[8:10] == b"CR" and head[:4] == b"II*\0"):
        return RAW
    for beginnings, reason in _OTHERS:
        if head.startswith(beginnings):
            return reason
    text = _text(head)
    if text.startswith((b"<svg", b"<?xml", b"<!--", b"<!doctype svg")) and b"<svg" in text:
        return "is an SVG drawing: export it as a PNG"
    if _is_web_page(text):
        return "is a web page, not an image: download the image itself"
    if b"%pdf-" in text:
        return _OTHERS[0][1]
    return None


def describe_download(head: bytes) -> str | None:
    """What was stored in place of a file when it was downloaded: the end of a sentence, or None."""
    if head.startswith(LFS_POINTER):
        return "is a Git LFS pointer, not the file: run git lfs pull"
    if _is_web_page(_text(head)):
        return "is a web page, not the file: download it again, and look at its start"
    return None


def _text(head: bytes) -> bytes:
    return head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()


def _is_web_page(text: bytes) -> bool:
    return text.startswith((b"<!doctype html", b"<html"))
