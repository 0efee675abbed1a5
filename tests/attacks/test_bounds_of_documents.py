"""What a document of one caller may cost: the memory and time of the rendering processes, and the waiting time of
others."""

from __future__ import annotations

import asyncio
import contextlib
import io
import struct
import sys
import time
import zlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest
from PIL import Image

from cluster import errors
from cluster.settings import Settings
from deployments.ocr.http import rendering
from deployments.ocr.http.documents import Document, DocumentFile, DocumentOpener
from deployments.ocr.http.renderers import KEPT_BYTES, Renderers, Turn, Turns
from tests.live import is_alive
from tests.odd_files import pdf_from
from tests.read_pages import document, picture

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="memory of a process is bounded on Linux only")


def tiff_of(frames: int) -> bytes:
    """Frames of one pixel, a hundred bytes each."""
    file = bytearray(b"II*\0" + struct.pack("<I", 16) + b"\xff" * 8)
    values = (256, 3, 1), (257, 3, 1), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1), (279, 4, 8)
    for frame in range(frames):
        tags = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in values)
        end = len(file) + 2 + len(tags) + 4
        file += struct.pack("<H", len(values)) + tags + struct.pack("<I", end if frame < frames - 1 else 0)
    return bytes(file)


def pdf_that_unpacks(megabytes: int) -> bytes:
    """Pages whose content is spaces, compressed to a thousandth; a reader unpacks each content as a whole."""
    packer = zlib.compressobj(9)
    # What follows a full flush does not depend on what was before it, so it can be repeated.
    head = packer.compress(b" " * 2**20) + packer.flush(zlib.Z_FULL_FLUSH)
    more = packer.compress(b" " * 2**20) + packer.flush(zlib.Z_FULL_FLUSH)
    content = head + more * (megabytes - 1) + packer.flush()
    bodies = [b"<< /Type /Catalog /Pages 2 0 R >>", b"<< /Type /Pages /Count 3 /Kids [3 0 R 4 0 R 5 0 R] >>"]
    bodies += [b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 200] /Contents %d 0 R >>" % at for at in (6, 7, 8)]
    bodies += [b"<< /Filter /FlateDecode /Length %d >>\nstream\n%s\nendstream" % (len(content), content)] * 3
    return pdf_from(*bodies)


def children() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if is_alive(child) and rendering.__file__ in child.cmdline()]


def with_documents(documents: DocumentOpener, use: Callable[[], Awaitable[None]]) -> None:
    """Opens documents, and ends the processes that were started for them."""
    before = set(children())

    async def limited() -> None:
        async with asyncio.timeout(60):
            await use()

    try:
        asyncio.run(limited())
    finally:
        for child in set(children()) - before:
            child.kill()
            child.wait(5)


async def read(documents: DocumentOpener, name: str, data: bytes, caller: str = "") -> Document:
    opened = await documents.open([DocumentFile(name, data)], caller)
    try:
        await asyncio.gather(*(opened.picture(number, 72) for number in range(1, opened.pages + 1)))
    finally:
        opened.close()
    return opened


# ------------------------------------------------------------------------------------------------------ memory


@ON_LINUX
def test_what_a_file_makes_of_itself_is_bounded() -> None:
    documents = DocumentOpener(Settings(render_processes=1, render_bytes=200_000_000))
    file = pdf_that_unpacks(150)

    async def use() -> None:
        before = set(children())
        await read(documents, "warm.png", picture("hello"))
        (child,) = set(children()) - before
        peak = 0

        async def watch() -> None:
            nonlocal peak
            while True:
                with contextlib.suppress(psutil.Error):
                    peak = max(peak, child.memory_info().rss)
                await asyncio.sleep(0.005)

        watching = asyncio.create_task(watch())
        with pytest.raises(errors.ClusterError) as raised:
            await read(documents, "a.pdf", file)
        watching.cancel()
        print(f"{len(file)} bytes: peak {peak / 1e6:.0f} MB: {raised.value}")
        assert raised.value.status in (413, 422) and peak < 300_000_000
        # The next caller is served.
        await read(documents, "b.pdf", document("one", "two"))

    with_documents(documents, use)


def test_a_process_that_keeps_much_after_an_answer_ends(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(picture("hello"))
    order = {"do": "look", "path": str(file), "most_pixels": 10**8, "most_side": 1000, "most_frames": 1}

    async def of(kept_bytes: int) -> list[int]:
        renderers = Renderers(1, 10**9, kept_bytes=kept_bytes)
        before = set(children())
        left = []
        for _ in range(2):
            await renderers.order("a.png", "", **order)
            left.append(len(set(children()) - before))
        return left

    others = set(children())
    assert asyncio.run(of(1_000_000)) == [0, 0]
    assert asyncio.run(of(KEPT_BYTES)) == [1, 1]
    for child in set(children()) - others:
        child.kill()


@ON_LINUX
def test_a_page_that_needs_more_memory_than_there_is_is_refused_by_a_sentence() -> None:
    documents = DocumentOpener(Settings(render_processes=1, render_bytes=200_000_000))
    large = io.BytesIO()
    Image.new("RGB", (7000, 7000)).save(large, "TIFF", compression="tiff_adobe_deflate")

    async def use() -> None:
        with pytest.raises(errors.TooLarge, match=r"^a\.tiff needs more memory than there is for one page\.$"):
            await read(documents, "a.tiff", large.getvalue())
        await read(documents, "b.pdf", document("one"))

    with_documents(documents, use)


# ------------------------------------------------------------------------------------------------------ time


def test_frames_are_counted_no_further_than_they_may_be_read() -> None:
    documents = DocumentOpener(Settings(render_processes=1))

    async def use() -> None:
        await read(documents, "warm.png", picture("hello"))
        began = time.perf_counter()
        with pytest.raises(errors.TooLarge, match=r"^many\.tiff has more than 1000 pages, which are allowed\.$"):
            await read(documents, "many.tiff", tiff_of(100_000))
        seconds = time.perf_counter() - began
        print(f"{seconds:.2f} s")
        assert seconds < 3

    with_documents(documents, use)


def test_whoever_has_the_least_drawn_is_next_and_nobody_waits_behind_all_pages_of_another() -> None:
    async def test() -> None:
        turns = Turns(2)

        def wants(caller: str, count: int) -> None:
            for number in range(count):
                turns.add(Turn(caller, {"number": number}, asyncio.get_running_loop().create_future()))

        def begun() -> str:
            turn = turns.next()
            return "" if turn is None else f"{turn.caller}{turn.order['number']}"

        wants("a", 100)
        assert [begun(), begun(), begun()] == ["a0", "a1", ""]
        wants("b", 2)
        wants("c", 1)
        assert turns.somebody_has_nothing
        turns.done("a")
        assert [begun(), begun()] == ["b0", ""]
        turns.done("a")
        assert [begun(), begun()] == ["a2", ""] and turns.somebody_has_nothing
        turns.done("a")
        assert [begun(), begun()] == ["c0", ""]
        turns.done("b")
        turns.done("c")
        assert {begun(), begun()} == {"a3", "b1"}
        turns.done("b")
        assert begun() == "a4"

    asyncio.run(test())


def test_an_order_that_takes_long_gives_way_to_callers_who_have_nothing() -> None:
    """Two requests of one caller hang. The page of another caller is still drawn, after the time that one caller may
    take while others wait."""
    documents = DocumentOpener(Settings(render_processes=2), patience_s=30, hurry_s=1.0)

    async def use() -> None:
        before = set(children())
        file = document("one", "two")
        await asyncio.gather(*(read(documents, "warm.pdf", file, "a") for _ in range(2)))
        mine = set(children()) - before
        for child in mine:
            child.suspend()
        hanging = [asyncio.create_task(read(documents, "a.pdf", file, "a")) for _ in range(20)]
        await asyncio.sleep(0.1)
        began = time.perf_counter()
        await read(documents, "b.pdf", file, "b")
        seconds = time.perf_counter() - began
        print(f"{seconds:.2f} s")
        assert seconds < 10
        ended = await asyncio.gather(*hanging, return_exceptions=True)
        failures = [str(failure) for failure in ended if isinstance(failure, BaseException)]
        assert 1 <= len(failures) <= 2
        assert all("while others waited" in failure for failure in failures[:1])

    with_documents(documents, use)
