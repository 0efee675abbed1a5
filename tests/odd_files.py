"""Files that no program would write: pictures that claim to be large, and PDFs made object by object."""

from __future__ import annotations

import io
import struct
import zlib

import pypdfium2


def png_claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it has this many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")


def pdf_from(*objects: bytes, trailer: bytes = b"") -> bytes:
    """A PDF of these objects, numbered from 1. The first is the catalogue; `trailer` is added to the trailer."""
    data, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start, size = len(data), len(objects) + 1
    rows = b"".join(b"%010d 00000 n \n" % place for place in places)
    data += b"xref\n0 %d\n0000000000 65535 f \n" % size + rows
    return data + b"trailer\n<< /Size %d /Root 1 0 R %s >>\nstartxref\n%d\n%%%%EOF\n" % (size, trailer, start)


def pdf_of(pages: int, size: tuple[float, float] = (100, 100)) -> bytes:
    """Blank pages."""
    made = pypdfium2.PdfDocument.new()
    for _ in range(pages):
        made.new_page(*size)
    target = io.BytesIO()
    made.save(target)
    return target.getvalue()


def pdf_with_a_bad_page() -> bytes:
    """Of its three pages the second is no page."""
    return pdf_from(
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Count 3 /Kids [3 0 R 4 0 R 5 0 R] >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 50 50] >>",
        b"(this is no page)",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 60 60] >>",
    )


def encrypted_pdf() -> bytes:
    """Neither the empty password nor any other opens it."""
    return pdf_from(
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Count 0 /Kids [] >>",
        b"<< /Filter /Standard /V 1 /R 2 /P -4 /O <" + b"11" * 32 + b"> /U <" + b"22" * 32 + b"> >>",
        trailer=b"/Encrypt 3 0 R /ID [<" + b"33" * 16 + b"> <" + b"33" * 16 + b">]",
    )
