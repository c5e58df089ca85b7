"""What a file is, by its first bytes: an image of which format, or what else."""

HEAD_BYTES = 512
CONVERT = "convert it to PNG or JPEG"
AGAIN = "download it again"
# Those that are read, in Pillow's words.
_FORMATS = {
    b"\xff\xd8": "JPEG", b"\x89PNG": "PNG", b"GIF8": "GIF", b"BM": "BMP", b"\xff\x4f\xff\x51": "JPEG2000",
    b"\0\0\0\x0cjP  ": "JPEG2000", b"II*\0": "TIFF", b"MM\0*": "TIFF", b"II+\0": "TIFF", b"MM\0+": "TIFF",
    b"P5": "PPM", b"P6": "PPM",
}  # fmt: skip
_STARTS = {
    b"\xff\x0a": "a JPEG XL", b"\0\0\0\x0cJXL ": "a JPEG XL", b"II\xbc": "a JPEG XR", b"8BPS": "a Photoshop file",
    b"v/1\x01": "an OpenEXR image",
}  # fmt: skip
_NO_IMAGES = {
    b"%PDF": "a PDF", b"%!PS": "a PostScript file", b"PK\x03\x04": "a ZIP archive", b"\x1f\x8b": "a gzip archive",
    b"\x89HDF": "an HDF5 file", b"\x93NUMPY": "a NumPy file", b"OggS": "an Ogg file", b"ID3": "an MP3",
    b"\x1aE\xdf\xa3": "a Matroska or WebM video",
}  # fmt: skip
_RIFF = {b"WAVE": "a WAV", b"AVI ": "an AVI video"}
_HEIF = {b"avif": "an AVIF", b"avis": "an AVIF", **dict.fromkeys(
    (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"), "an HEIC (HEIF)"
)}  # fmt: skip


def format_of(head: bytes) -> str:
    """The image format, in Pillow's words; "" for all that is not read."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:2] in (b"P5", b"P6") and not head[2:3].isspace():
        return ""
    return next((name for start, name in _FORMATS.items() if head.startswith(start)), "")


def name_format(head: bytes) -> tuple[str, str]:
    """What the first HEAD_BYTES of a file that is not read are, in words, and what to do about it."""
    if head[:4] == b"RIFF":
        return _RIFF.get(head[8:12], "another RIFF file"), AGAIN
    if head[4:8] == b"ftyp":
        # A file of brand mif1 says behind it which of the two it is.
        brands = [head[8:12], *(head[at : at + 4] for at in range(16, min(len(head), head[3]), 4))]
        found = {_HEIF.get(brand) for brand in brands} - {None}
        if not found:
            return "a video (MP4, MOV)", AGAIN
        return "an AVIF" if "an AVIF" in found else "an HEIC (HEIF)", CONVERT
    for table, remedy in ((_STARTS, CONVERT), (_NO_IMAGES, AGAIN)):
        if names := [name for start, name in table.items() if head.startswith(start)]:
            return names[0], remedy
    if head[128:132] == b"DICM":
        return "a DICOM file", CONVERT
    if not head.strip(b"\0"):
        return "zeros alone", AGAIN
    return _name_text(head)


def _name_text(head: bytes) -> tuple[str, str]:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "text in UTF-16", AGAIN
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if text.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer", "fetch the image with `git lfs pull`"
    if text.startswith((b"/annex/objects/", b"../.git/annex/objects/", b".git/annex/objects/")):
        return "a git-annex pointer", "fetch the image with `git annex get`"
    if text.startswith(b"<svg"):
        return "an SVG drawing", CONVERT
    if text.startswith(b"<"):
        return "an HTML or XML page", AGAIN
    if text.startswith((b"{", b"[")) and _printable(text):
        return "JSON", AGAIN
    return ("text", AGAIN) if _printable(text) else ("something else", CONVERT)


def _printable(head: bytes) -> bool:
    text = head.decode("utf-8", "replace").rstrip("\ufffd")  # a character may be cut off at its end
    return "\ufffd" not in text and all(char.isprintable() or char in "\t\r\n\f" for char in text)
