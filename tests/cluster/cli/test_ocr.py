"""`cluster ocr`: what it asks, which files it writes, what it shows meanwhile, how it ends."""

from __future__ import annotations

import base64
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pypdfium2
import pytest
from click.testing import Result

from cluster import errors
from cluster.cli.ocr import TASKS, errands_of, format_of, joined
from deployments.ocr.formats import WRITERS
from deployments.ocr.page import RecognisedPage, unread
from deployments.ocr.requests import Task
from deployments.ocr.searchable import searchable
from tests.cluster.cli.terminal import Terminal
from tests.cluster.client.fake_server import Running
from tests.cluster.client.image_server import ImageServer, Stream
from tests.read_pages import page, picture, read, text_of

Run = Callable[..., Result]

OCR = "POST /v1/images/ocr"
ABORT = "POST /v1/models/m/requests/r1/abort"
SCAN = b"%PDF-1.7 a scan"


@pytest.fixture
def server(running: Running) -> Iterator[ImageServer]:
    running.fake = ImageServer(running.fake.url)
    running.fake.on(OCR, answer_of("one page", "two"))
    yield running.fake
    assert running.fake.unexpected == []


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands run, with something to read."""
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "scan.pdf").write_bytes(SCAN)
    monkeypatch.chdir(folder)
    return folder


def read_page(text: str, number: int) -> RecognisedPage:
    return read(page(text), text)._replace(number=number, dpi=72)


def event(text: str, number: int, of: int, format: str = "text", **more: Any) -> dict[str, Any]:
    found = read_page(text, number)
    content: Any = WRITERS[format]([found]) if format in WRITERS else None
    if format == "pdf":
        content = {"b64_json": base64.b64encode(searchable([(picture(text), found)])).decode(), "output_format": "pdf"}
    return {"type": "ocr.page", "page": {**found.to_dict(), **more}, "done": number, "pages": of, "content": content}


def answer_of(*texts: str, format: str = "text") -> Stream:
    pages = (event(text, number, len(texts), format) for number, text in enumerate(texts, 1))
    return Stream(*pages, {"type": "ocr.completed"})


def asked(server: ImageServer) -> dict[str, Any]:
    fields = json.loads(dict(pair for pair in server.of(OCR)[-1].body if pair[0] == "kwargs")["kwargs"])
    assert fields.pop("request_id").startswith("ocr-")
    return fields


def files(server: ImageServer) -> list[list[bytes]]:
    return [[value for name, value in seen.body if name == "image"] for seen in server.of(OCR)]


# What is asked


def test_a_document_becomes_a_text(cluster: Run, server: ImageServer) -> None:
    done = cluster("ocr", "scan.pdf", "-u", "m")
    assert (done.exit_code, done.stdout) == (0, "one page\n\ntwo\n")
    assert "scan.pdf: page 2 of 2 (100%)\n" in done.stderr and "2 pages of scan.pdf in " in done.stderr
    assert files(server) == [[SCAN]] and asked(server) == {"output_format": "text", "stream": True}


def test_every_flag_is_a_field(cluster: Run, server: ImageServer) -> None:
    words = "--pages 1-3,7 --dpi 300 --language de --language en --task parse --prompt read --option max-new-tokens=9"
    assert cluster("ocr", "scan.pdf", "-u", "m", *words.split()).exit_code == 0
    assert asked(server) == {
        "output_format": "text",
        "stream": True,
        "pages": "1-3,7",
        "dpi": 300,
        "languages": ["de", "en"],
        "task": "parse",
        "prompt": "read",
        "max_new_tokens": 9,
    }


def test_standard_input_is_a_document_too(environment: dict[str, str], server: ImageServer) -> None:
    command = [sys.executable, "-m", "cluster.cli", "ocr", "-", "-u", "m"]
    done = subprocess.run(command, input=SCAN, env={**os.environ, **environment}, capture_output=True, check=True)
    assert done.stdout == b"one page\n\ntwo\n" and files(server) == [[SCAN]]
    assert b"standard input: page 1 of 2" in done.stderr


@pytest.mark.parametrize(
    ("serving", "exit_code", "said"),
    [
        ([{"id": "m", "model_ability": ["ocr"]}, {"id": "e", "model_ability": ["embed"]}], 0, ""),
        ([{"id": "e", "model_ability": ["embed"]}], 3, "No OCR model is serving; launch one with"),
        ([{"id": uid, "model_ability": ["ocr"]} for uid in "mn"], 2, "name one with --model-uid: m, n."),
    ],
    ids=["one", "none", "two"],
)
def test_the_model_may_be_left_out_when_there_is_one(
    cluster: Run, server: ImageServer, serving: list[dict[str, Any]], exit_code: int, said: str
) -> None:
    server.on("GET /v1/models", {"data": serving})
    done = cluster("ocr", "scan.pdf")
    assert done.exit_code == exit_code and said in done.stderr


# What is written


@pytest.mark.parametrize(
    ("name", "beginning"),
    [
        ("out.txt", "one page\n\ntwo"),
        ("out.md", "one page\n\ntwo"),
        ("out.html", "<!DOCTYPE html>"),
        ("out.hocr", "<?xml"),
        ("out.tsv", "level\tpage_num"),
        ("out.json", '{\n  "pages": ['),
    ],
)
def test_the_name_says_the_format(cluster: Run, server: ImageServer, folder: Path, name: str, beginning: str) -> None:
    server.on(OCR, answer_of("one page", "two", format=format_of(name, None)))
    done = cluster("ocr", "scan.pdf", "-u", "m", "-o", name)
    assert (done.exit_code, done.stdout) == (0, "") and f"2 pages of scan.pdf into {name} in" in done.stderr
    text = (folder / name).read_text()
    assert text.startswith(beginning) and "two" in text


def test_json_is_what_the_server_said(cluster: Run, server: ImageServer) -> None:
    done = cluster("ocr", "scan.pdf", "-u", "m", "--json")
    whole = json.loads(done.stdout)
    assert whole["pages"] == [
        json.loads(json.dumps(event(text, i, 2)["page"])) for i, text in ((1, "one page"), (2, "two"))
    ]
    assert (whole["text"], whole["model"], whole["usage"]["pages"]) == ("one page\n\ntwo", "m", 2)


@pytest.mark.parametrize("format", WRITERS)
def test_pages_that_come_one_by_one_make_the_same_document(format: str) -> None:
    pages = [read_page("one page", 1), unread(2, "It is broken."), read_page("two\nlines", 3)]
    write = WRITERS[format]
    assert joined([write([one]) for one in pages], format) == write(pages)
    assert joined([write(pages[:1])], format) == write(pages[:1])


def test_a_pdf_is_put_together_of_its_pages(cluster: Run, server: ImageServer, folder: Path) -> None:
    server.on(OCR, answer_of("one page", "two", format="pdf"))
    assert cluster("ocr", "scan.pdf", "-u", "m", "-o", "scan.searchable.pdf").exit_code == 0
    assert asked(server)["output_format"] == "pdf"
    pdf = pypdfium2.PdfDocument(folder / "scan.searchable.pdf")
    assert [found.get_textpage().get_text_range().split() for found in pdf] == [["one", "page"], ["two"]]
    assert [text_of(found.render().to_pil()) for found in pdf] == ["one page", "two"]


def test_into_a_folder_each_input_is_a_file(cluster: Run, server: ImageServer, folder: Path) -> None:
    (folder / "b.png").write_bytes(picture("b"))
    (folder / "out").mkdir()
    done = cluster("ocr", "scan.pdf", "b.png", "-u", "m", "-o", "out", "--format", "markdown", "--json")
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["b.md", "scan.md"]
    assert files(server) == [[SCAN], [picture("b")]]
    report = json.loads(done.stdout)
    assert [(found["inputs"], found["output"], found["pages"]) for found in report["documents"]] == [
        (["scan.pdf"], "out/scan.md", 2),
        (["b.png"], "out/b.md", 2),
    ]


def test_into_one_file_all_inputs_are_one_document(cluster: Run, server: ImageServer, folder: Path) -> None:
    (folder / "b.png").write_bytes(picture("b"))
    assert cluster("ocr", "scan.pdf", "b.png", "-u", "m", "-o", "out.txt").exit_code == 0
    assert files(server) == [[SCAN, picture("b")]]


def test_what_goes_where(tmp_path: Path) -> None:
    assert [errand.output for errand in errands_of(["a.png", "b.png"], None, "text")] == ["-"]
    assert [errand.output for errand in errands_of(["x/a.png"], str(tmp_path), "pdf")] == [
        f"{tmp_path}/a.searchable.pdf"
    ]
    assert format_of("a.HTM", None) == "html" and format_of("a.x", "tsv") == "tsv" and format_of(None, None) == "text"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["scan.pdf", "-o", "out.docx"], "Unknown format .docx; use one of .txt, .md"),
        (["scan.pdf", "-o", "nowhere/out.txt"], "nowhere is not a folder that can be written to"),
        (["scan.pdf", "x/scan.pdf", "-o", "./"], "Several inputs would be written to scan.txt"),
        (["missing.pdf"], "missing.pdf does not exist or is not a file."),
        (["scan.pdf", "--dpi", "9"], "9 is not in the range 72<=x<=600"),
    ],
)
def test_what_cannot_be_written_or_read_is_told_before_anything_is_asked(
    cluster: Run, server: ImageServer, words: list[str], said: str
) -> None:
    done = cluster("ocr", *words, "-u", "m")
    assert done.exit_code == 2 and said in done.stderr and server.seen == []


def test_a_pdf_is_not_poured_into_a_terminal(environment: dict[str, str], server: ImageServer) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "cluster.cli", "ocr", "scan.pdf", "-u", "m", "--format", "pdf"]
    done = subprocess.run(command, stdout=theirs, stderr=subprocess.PIPE, env={**os.environ, **environment}, text=True)
    os.close(theirs)
    os.close(ours)
    assert done.returncode == 2 and "A terminal cannot show a PDF" in done.stderr and server.seen == []


# Ends


def test_a_page_that_was_not_read_is_told_and_the_others_are_written(
    cluster: Run, server: ImageServer, folder: Path
) -> None:
    server.on(OCR, Stream(event("one", 1, 2), event("", 2, 2, error="It is broken.")))
    done = cluster("ocr", "scan.pdf", "-u", "m", "-o", "out.txt")
    assert done.exit_code == 1 and (folder / "out.txt").read_text() == "one"
    assert "Page 2 of scan.pdf was not read: It is broken.\n" in done.stderr


def test_a_refusal_ends_with_its_sentence_and_code(cluster: Run, server: ImageServer, folder: Path) -> None:
    server.on(OCR, errors.TooLarge("image has 10000 pages."))
    done = cluster("ocr", "scan.pdf", "-u", "m", "-o", "out.txt")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.endswith("Error: scan.pdf: image has 10000 pages.\n") and not (folder / "out.txt").exists()


def test_what_was_read_before_an_error_is_kept(cluster: Run, server: ImageServer, folder: Path) -> None:
    for end in ([errors.DeadlineExceeded("It took too long.")], []):
        server.on(OCR, Stream(event("one", 1, 3), event("two", 2, 3), *end))
        done = cluster("ocr", "scan.pdf", "-u", "m", "-o", "out.txt")
        assert done.exit_code == (8 if end else 1) and (folder / "out.txt").read_text() == "one\n\ntwo"
        assert "2 of 3 pages were read and are in out.txt.\n" in done.stderr


@pytest.mark.parametrize("output", ["out.txt", "out.pdf"])
def test_ctrl_c_stops_the_reading_and_keeps_the_pages_that_have_come(
    at_terminal: Callable[..., Terminal], server: ImageServer, folder: Path, output: str
) -> None:
    format = str(format_of(output, None))
    endless = Stream(event("one", 1, 3, format), event("two", 2, 3, format), lambda: False)
    server.on(OCR, endless)
    server.on(ABORT, {"msg": "DONE"})
    terminal = at_terminal("ocr", "scan.pdf", "-u", "m", "-o", output, "--option", "request_id=r1")
    terminal.read_until("page 2 of 3")
    terminal.interrupt()
    terminal.read_until(f"2 of 3 pages were read and are in {output}.")
    assert terminal.end() == (130, "") and "m was told to stop." in terminal.text
    assert endless.left.wait(5) and len(server.of(ABORT)) == 1
    if output == "out.txt":
        assert (folder / output).read_text() == "one\n\ntwo"
    else:
        assert len(pypdfium2.PdfDocument(folder / output)) == 2


def test_the_command_takes_the_tasks_of_a_request() -> None:
    assert TASKS == get_args(Task)
