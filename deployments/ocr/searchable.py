"""Writes a PDF of page pictures with invisible text over them, which can be searched, selected and copied.

Pages are written one at a time, so that a long document is never in memory as a whole. The text has a font of our own
whose glyphs are all blank. The font says only which character each code means and how wide it is, so that text of any
script can be written without a font for that script.
"""

from __future__ import annotations

import io
import math
import struct
import unicodedata
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

from deployments.ocr.page import Block, Box, Polygon, RecognisedPage, bounds, rectangle

POINTS = 72
#: Assumed for pages that do not say their resolution.
USUAL_DPI = 200
#: JPEG quality of the page pictures that are smaller as JPEG than without loss.
QUALITY = 85
#: How many lines are assumed to fill a page, when the model did not say where its text is.
USUAL_LINES = 50
#: Height of the baseline above the lower side of a word's box, as a share of the box's height.
BASELINE = 0.2
#: Units per em of the font, and the width of every glyph in these units.
UNITS, WIDTH = 1000, 500
#: Object numbers that are the same in every file. The objects of pages are numbered after them.
CATALOG, PAGES, FONT, GLYPHS, DESCRIPTOR, FONT_FILE, MEANINGS, TO_GLYPHS = range(1, 9)
#: The most characters that the PDF format allows in one table of the map from codes to characters.
IN_TABLE = 100


class PlacedText(NamedTuple):
    """A word and where it is on the page; a whole line where the engine does not tell its words."""

    text: str
    polygon: Polygon
    has_space_after: bool


class SearchablePdf:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._at: dict[int, int] = {}
        self._next = TO_GLYPHS + 1
        self._pages: list[int] = []
        #: The code of each character, numbered in the order in which the characters first occur.
        self._codes: dict[str, int] = {" ": 1}
        file.write(b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n")

    def add(self, picture: bytes, page: RecognisedPage) -> None:
        """Blocks while the picture is compressed, so it is called in a thread."""
        width, height, image = _embedded(picture)
        scale = POINTS / (page.dpi or USUAL_DPI)
        number, image_number, text_number = self._numbers(3)
        size = f"{width * scale:.2f} {height * scale:.2f}"
        # The model may have read the page at another size.
        read_size = (page.width or width, page.height or height)
        content = f"q {width * scale:.2f} 0 0 {height * scale:.2f} 0 0 cm /P Do Q\n"
        content += self._text(page, width * scale / read_size[0], height * scale / read_size[1], height * scale)
        self._stream(image_number, image.head, image.data)
        self._stream(text_number, "/Filter /FlateDecode", zlib.compress(content.encode("ascii")))
        self._object(
            number,
            f"<< /Type /Page /Parent {PAGES} 0 R /MediaBox [0 0 {size}] /Contents {text_number} 0 R "
            f"/Resources << /XObject << /P {image_number} 0 R >> /Font << /F {FONT} 0 R >> >> >>",
        )
        self._pages.append(number)

    def close(self) -> None:
        """Writes what depends on all pages. Leaves the file open, which belongs to the caller."""
        self._font()
        kids = " ".join(f"{number} 0 R" for number in self._pages)
        self._object(PAGES, f"<< /Type /Pages /Count {len(self._pages)} /Kids [{kids}] >>")
        self._object(CATALOG, f"<< /Type /Catalog /Pages {PAGES} 0 R >>")
        start = self._file.tell()
        rows = "".join(f"{self._at[number]:010d} 00000 n \n" for number in range(1, self._next))
        self._file.write(f"xref\n0 {self._next}\n0000000000 65535 f \n{rows}".encode("ascii"))
        trailer = f"<< /Size {self._next} /Root {CATALOG} 0 R >>"
        self._file.write(f"trailer\n{trailer}\nstartxref\n{start}\n%%EOF\n".encode("ascii"))

    # ------------------------------------------------------------------------------------------- the text

    def _text(self, page: RecognisedPage, x_scale: float, y_scale: float, height: float) -> str:
        commands = ["BT 3 Tr"]
        for piece in _pieces(page):
            polygon = piece.polygon if len(piece.polygon) == 4 else rectangle(bounds(piece.polygon))
            commands += self._set(piece, [(x * x_scale, height - y * y_scale) for x, y in polygon])
        return "\n".join((*commands, "ET"))

    def _set(self, piece: PlacedText, corners: Sequence[tuple[float, float]]) -> list[str]:
        """The commands that write a piece at its place, stretched to its width; none if the place has no area."""
        (x0, y0), _, (x2, y2), (x3, y3) = corners
        width, size = math.hypot(x2 - x3, y2 - y3), math.hypot(x0 - x3, y0 - y3)
        text = _in_visual_order(piece.text)
        if not text or width < 0.01 or size < 0.01:
            return []
        cos, sin = (x2 - x3) / width, (y2 - y3) / width
        x, y = x3 + (x0 - x3) * BASELINE, y3 + (y0 - y3) * BASELINE
        stretch = 100 * width * UNITS / (len(text) * WIDTH * size)
        codes = self._encoded(text + " " if piece.has_space_after else text)
        matrix = f"{cos:.4f} {sin:.4f} {-sin:.4f} {cos:.4f} {x:.2f} {y:.2f}"
        return [f"/F {size:.2f} Tf {stretch:.2f} Tz {matrix} Tm <{codes}> Tj"]

    def _encoded(self, text: str) -> str:
        return "".join(f"{self._codes.setdefault(char, len(self._codes) + 1):04X}" for char in text)

    def _font(self) -> None:
        self._object(
            FONT,
            f"<< /Type /Font /Subtype /Type0 /BaseFont /Blank /Encoding /Identity-H /DescendantFonts [{GLYPHS} 0 R] "
            f"/ToUnicode {MEANINGS} 0 R >>",
        )
        self._object(
            GLYPHS,
            "<< /Type /Font /Subtype /CIDFontType2 /BaseFont /Blank "
            "/CIDSystemInfo << /Registry (Adobe) /Ordering (Identity) /Supplement 0 >> "
            f"/FontDescriptor {DESCRIPTOR} 0 R /DW {WIDTH} /CIDToGIDMap {TO_GLYPHS} 0 R >>",
        )
        ascent, descent = round((1 - BASELINE) * UNITS), round(-BASELINE * UNITS)
        self._object(
            DESCRIPTOR,
            f"<< /Type /FontDescriptor /FontName /Blank /Flags 4 /FontBBox [0 {descent} {WIDTH} {ascent}] "
            f"/ItalicAngle 0 /Ascent {ascent} /Descent {descent} /CapHeight {ascent} /StemV 80 "
            f"/FontFile2 {FONT_FILE} 0 R >>",
        )
        program = blank_font(ascent, descent)
        self._stream(FONT_FILE, f"/Length1 {len(program)}", program)
        self._stream(MEANINGS, "", _meanings(self._codes).encode("ascii"))
        # Every code is shown as the same blank glyph.
        self._stream(TO_GLYPHS, "", b"\0\0" + b"\0\1" * len(self._codes))

    # ------------------------------------------------------------------------------------------- the file

    def _numbers(self, count: int) -> range:
        first, self._next = self._next, self._next + count
        return range(first, self._next)

    def _object(self, number: int, body: str) -> None:
        self._at[number] = self._file.tell()
        self._file.write(f"{number} 0 obj\n{body}\nendobj\n".encode("ascii"))

    def _stream(self, number: int, head: str, data: bytes) -> None:
        self._at[number] = self._file.tell()
        self._file.write(f"{number} 0 obj\n<< {head} /Length {len(data)} >>\nstream\n".encode("ascii"))
        self._file.write(data)
        self._file.write(b"\nendstream\nendobj\n")


def searchable(pictures: Iterable[tuple[bytes, RecognisedPage]]) -> bytes:
    """The whole file in memory, for a few pages."""
    target = io.BytesIO()
    document = SearchablePdf(target)
    for picture, page in pictures:
        document.add(picture, page)
    document.close()
    return target.getvalue()


# --------------------------------------------------------------------------------------------------- what stands where


def _pieces(page: RecognisedPage) -> Iterator[PlacedText]:
    unplaced: list[str] = []
    for block in page.blocks:
        if block.lines:
            yield from _of_lines(block)
        elif block.bbox is not None:
            yield from _spread(block.text.splitlines(), block.bbox)
        else:
            unplaced += block.text.splitlines()
    # Text without a place is spread over its page, so that a search at least finds the page.
    lines = unplaced or ([] if page.blocks else page.text.splitlines())
    yield from _spread(lines, (0, 0, page.width, page.height * min(1.0, len(lines) / USUAL_LINES)))


def _of_lines(block: Block) -> Iterator[PlacedText]:
    for line in block.lines:
        unread = line.text
        for word in line.words:
            _, _, unread = unread.partition(word.text)
            yield PlacedText(word.text, word.polygon, not unread or unread[:1].isspace())
        if not line.words:
            yield PlacedText(line.text, line.polygon, True)


def _spread(lines: Sequence[str], box: Box) -> Iterator[PlacedText]:
    left, top, right, bottom = box
    step = (bottom - top) / max(len(lines), 1)
    for index, text in enumerate(lines):
        if text.strip():
            yield PlacedText(
                text.strip(), rectangle((left, top + index * step, right, top + index * step + step * 0.9)), True
            )


def _in_visual_order(text: str) -> str:
    """The characters from left to right as they are printed, which is the order that PDF readers expect."""
    text = "".join(char for char in text if char.isprintable())
    directions = [unicodedata.bidirectional(char) for char in text]
    runs_left = any(kind in ("R", "AL") for kind in directions) and "L" not in directions
    return text[::-1] if runs_left else text


def _meanings(codes: dict[str, int]) -> str:
    rows = [f"<{code:04X}> <{char.encode('utf-16-be').hex().upper()}>" for char, code in codes.items()]
    tables = [rows[start : start + IN_TABLE] for start in range(0, len(rows), IN_TABLE)]
    blocks = "\n".join(f"{len(table)} beginbfchar\n" + "\n".join(table) + "\nendbfchar" for table in tables)
    return (
        "/CIDInit /ProcSet findresource begin\n12 dict begin\nbegincmap\n"
        "/CIDSystemInfo << /Registry (Adobe) /Ordering (UCS) /Supplement 0 >> def\n"
        "/CMapName /Adobe-Identity-UCS def\n/CMapType 2 def\n"
        f"1 begincodespacerange\n<0000> <FFFF>\nendcodespacerange\n{blocks}\n"
        "endcmap\nCMapName currentdict /CMap defineresource pop\nend\nend\n"
    )


# ------------------------------------------------------------------------------------------------------------ pictures


class _Embedded(NamedTuple):
    #: The entries of the PDF stream's dictionary that describe the data.
    head: str
    data: bytes


def _embedded(picture: bytes) -> tuple[int, int, _Embedded]:
    """Width, height, and the picture as the PDF holds it: JPEG files unchanged, others in the smaller of two ways."""
    from PIL import Image

    with Image.open(io.BytesIO(picture)) as image:
        width, height = image.size
        if image.format == "JPEG" and image.mode in ("L", "RGB"):
            return width, height, _Embedded(_head(image, "/Filter /DCTDecode"), picture)
        plain = _plain(image)
    target = io.BytesIO()
    plain.save(target, "JPEG", quality=QUALITY)
    exact, columns = _rows_of(plain), len(plain.getbands())
    if target.tell() < len(exact):
        return width, height, _Embedded(_head(plain, "/Filter /DCTDecode"), target.getvalue())
    # Compressed as in PNG: each row is stored as its difference from the pixels around it.
    how = f"/Filter /FlateDecode /DecodeParms << /Predictor 15 /Colors {columns} /Columns {width} >>"
    return width, height, _Embedded(_head(plain, how), exact)


def _head(image: Any, how: str) -> str:
    colours = "/DeviceGray" if image.mode == "L" else "/DeviceRGB"
    size = f"/Width {image.width} /Height {image.height}"
    return f"/Type /XObject /Subtype /Image {size} /ColorSpace {colours} /BitsPerComponent 8 {how}"


def _plain(image: Any) -> Any:
    """In grey or RGB; transparent parts become white."""
    from PIL import Image

    if image.mode in ("1", "L"):
        return image.convert("L")
    if "A" in image.mode or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return image.convert("RGB")


def _rows_of(image: Any) -> bytes:
    """The compressed rows of the picture's PNG file, which a PDF stores in the same form."""
    target = io.BytesIO()
    image.save(target, "PNG")
    data, at, parts = target.getvalue(), 8, []
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        if data[at + 4 : at + 8] == b"IDAT":
            parts.append(data[at + 8 : at + 8 + length])
        at += length + 12
    return b"".join(parts)


# ------------------------------------------------------------------------------------------------------------ the font


def blank_font(ascent: int, descent: int) -> bytes:
    """A TrueType font of two blank glyphs, with the tables that a font in a PDF must have."""
    box = (0, descent, WIDTH, ascent)
    tables = {
        b"glyf": b"\0\0",
        b"head": struct.pack(
            ">IIIIHHqqhhhhHHhhh", 0x10000, 0x10000, 0, 0x5F0F3CF5, 0, UNITS, 0, 0, *box, 0, 8, 2, 0, 0
        ),
        b"hhea": struct.pack(
            ">IhhhHhhhhhhhhhhhH", 0x10000, ascent, descent, 0, WIDTH, 0, 0, WIDTH, 1, 0, 0, *[0] * 5, 1
        ),
        b"hmtx": struct.pack(">Hhh", WIDTH, 0, 0),
        b"loca": struct.pack(">HHH", 0, 0, 0),
        b"maxp": struct.pack(">IHHHHHHHHHHHHHH", 0x10000, 2, 0, 0, 0, 0, 1, *[0] * 8),
    }
    return _sfnt(tables)


def _sfnt(tables: dict[bytes, bytes]) -> bytes:
    count = len(tables)
    fit = 1 << (count.bit_length() - 1)
    at = 12 + 16 * count
    head = struct.pack(">IHHHH", 0x10000, count, fit * 16, fit.bit_length() - 1, count * 16 - fit * 16)
    bodies = b""
    for tag, body in sorted(tables.items()):
        padded = body + b"\0" * (-len(body) % 4)
        sum32 = sum(struct.unpack(f">{len(padded) // 4}I", padded)) & 0xFFFFFFFF
        head += struct.pack(">4sIII", tag, sum32, at + len(bodies), len(body))
        bodies += padded
    return head + bodies
