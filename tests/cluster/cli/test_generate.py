"""`cluster generate`: what it asks, which files it writes, what it shows meanwhile, how it ends."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from PIL import Image

from cluster import errors
from cluster.cli.generate import format_of, lora_of, row_of
from cluster.cli.progress import ProgressRow
from tests.cluster.cli.terminal import Terminal
from tests.cluster.client.fake_server import Running
from tests.cluster.client.image_server import ImageServer, Stream, completed, partial, picture

Run = Callable[..., Result]

RED, BLUE = picture("red"), picture("blue")
GENERATIONS, EDITS = "POST /v1/images/generations", "POST /v1/images/edits"
PROGRESS = "GET /v1/requests/r1/progress"
ABORT = "POST /v1/models/m/requests/r1/abort"


@pytest.fixture
def server(running: Running) -> Iterator[ImageServer]:
    """Each command makes up an id for its request; questions about the progress of that id are not answered."""
    running.fake = ImageServer(running.fake.url)
    running.fake.on(GENERATIONS, Stream(completed(RED)))
    running.fake.on(EDITS, Stream(completed(RED, kind="image_edit")))
    yield running.fake
    assert [route for route in running.fake.unexpected if "/progress" not in route] == []


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands run."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# What is asked


def test_a_prompt_becomes_a_file(cluster: Run, server: ImageServer, folder: Path) -> None:
    done = cluster("generate", "a tree", "-u", "m", "-o", "tree.png", "--steps", "3", "--seed", "7", "--size", "8x6")
    assert (done.exit_code, done.stdout) == (0, "tree.png\n")
    assert done.stderr.splitlines()[-1].startswith("1 picture in ") and done.stderr.endswith("s, seed 7.\n")
    assert (folder / "tree.png").read_bytes() == RED
    body = server.of(GENERATIONS)[0].body
    assert body.pop("request_id").startswith("generate-")
    assert body == {
        "model": "m",
        "prompt": "a tree",
        "n": 1,
        "size": "8x6",
        "seed": 7,
        "num_inference_steps": 3,
        "output_format": "png",
        "stream": True,
    }


def test_every_flag_is_a_field(cluster: Run, server: ImageServer) -> None:
    words = "--guidance 4.5 --negative leaves --quality high --lora ink --lora wash:0.5 --option sampler-name=euler"
    done = cluster("generate", "a tree", "-u", "m", *words.split(), "--option", "true_cfg_scale=4", "-o", "x.webp")
    assert done.exit_code == 0
    body = server.of(GENERATIONS)[0].body
    assert {name: body[name] for name in ("guidance_scale", "negative_prompt", "quality", "output_format")} == {
        "guidance_scale": 4.5,
        "negative_prompt": "leaves",
        "quality": "high",
        "output_format": "webp",
    }
    assert body["loras"] == [{"name": "ink"}, {"name": "wash", "scale": 0.5}]
    assert (body["sampler_name"], body["true_cfg_scale"]) == ("euler", 4)


def test_pictures_make_it_an_edit(cluster: Run, server: ImageServer, folder: Path) -> None:
    (folder / "red.png").write_bytes(RED)
    (folder / "blue.png").write_bytes(BLUE)
    words = "-i red.png -i blue.png --mask blue.png --strength 0.5 --lora ink -o out.png"
    assert cluster("generate", "a tree", "-u", "m", *words.split()).exit_code == 0
    form = server.of(EDITS)[0].body
    assert [pair for pair in form if isinstance(pair[1], bytes)] == [
        ("image[]", RED),
        ("image[]", BLUE),
        ("mask", BLUE),
    ]
    fields = dict(pair for pair in form if isinstance(pair[1], str))
    assert (fields["prompt"], fields["strength"], fields["stream"]) == ("a tree", "0.5", "true")
    assert json.loads(fields["kwargs"]) == {"loras": [{"name": "ink"}]}


ABLE = {"model_ability": ["text2image"]}


@pytest.mark.parametrize(
    ("serving", "exit_code", "said"),
    [
        ([{"id": "m", **ABLE}, {"id": "e", "model_ability": ["embed"]}], 0, ""),
        ([{"id": "e", "model_ability": ["embed"]}], 3, "No image model is serving; launch one with"),
        (
            [{"id": "m", **ABLE}, {"id": "n", **ABLE}],
            2,
            "Several image models are serving; name one with --model-uid: m, n.",
        ),
    ],
    ids=["one", "none", "two"],
)
def test_the_only_image_model_needs_no_name(
    cluster: Run, server: ImageServer, serving: list[dict[str, Any]], exit_code: int, said: str
) -> None:
    server.on("GET /v1/models", {"data": serving})
    done = cluster("generate", "a tree")
    assert (done.exit_code, said in done.stderr) == (exit_code, True)
    assert [seen.body["model"] for seen in server.of(GENERATIONS)] == ["m"] * (exit_code == 0)


# Files


def test_several_pictures_are_numbered(cluster: Run, server: ImageServer, folder: Path) -> None:
    server.on(GENERATIONS, Stream(completed(RED, 7), completed(BLUE, 8)))
    done = cluster("generate", "a tree", "-u", "m", "-n", "2", "-o", "out.png")
    assert done.stdout == "out-1.png\nout-2.png\n"
    assert "2 pictures in " in done.stderr and done.stderr.endswith("seed 7, 8.\n")
    assert ((folder / "out-1.png").read_bytes(), (folder / "out-2.png").read_bytes()) == (RED, BLUE)


def test_a_name_that_was_given_is_written_over(cluster: Run, folder: Path) -> None:
    (folder / "out.png").write_bytes(b"old")
    assert cluster("generate", "a tree", "-u", "m", "-o", "out.png").exit_code == 0
    assert (folder / "out.png").read_bytes() == RED


def test_without_a_name_nothing_is_written_over(cluster: Run, folder: Path) -> None:
    (folder / "m-7.png").write_bytes(b"old")
    assert cluster("generate", "a tree", "-u", "m").stdout == "m-7-2.png\n"
    assert cluster("generate", "a tree", "-u", "m").stdout == "m-7-3.png\n"
    assert (folder / "m-7.png").read_bytes() == b"old"
    assert names(folder) == ["m-7-2.png", "m-7-3.png", "m-7.png"]


def test_a_folder_is_where_new_files_go(cluster: Run, folder: Path) -> None:
    (folder / "pictures").mkdir()
    assert cluster("generate", "a tree", "-u", "m", "-o", "pictures").stdout == "pictures/m-7.png\n"
    assert names(folder) == ["pictures"]


def test_standard_output_is_the_picture_alone(cluster: Run, folder: Path) -> None:
    done = cluster("generate", "a tree", "-u", "m", "-o", "-")
    assert (done.exit_code, done.stdout_bytes) == (0, RED)
    assert names(folder) == []


@pytest.mark.parametrize(
    ("output", "asked", "format"),
    [
        (None, None, "png"),
        ("-", "webp", "webp"),
        ("x", None, "png"),
        ("x.JPG", None, "jpeg"),
        ("x.webp", None, "webp"),
        ("x.png", "jpeg", "jpeg"),
        ("x.gif", "png", "png"),
    ],
)
def test_the_format_is_what_is_asked_or_what_the_name_says(output: str | None, asked: str | None, format: str) -> None:
    assert format_of(output, asked) == format


IN_VAIN = {
    "a folder that is not there": (["-o", "no/x.png"], "no is not a folder that can be written to;"),
    "a format that is not made": (["-o", "x.gif"], "Unknown format .gif; use one of"),
    "two pictures on standard output": (["-o", "-", "-n", "2"], "Standard output takes one picture"),
    "JSON among a picture": (["-o", "-", "--json"], "cannot both go to standard output"),
    "a mask of nothing": (["--mask", __file__], "name the picture with --image"),
    "a picture that is not there": (["-i", "no.png"], "'no.png' does not exist"),
    "previews where nobody looks": (["--preview"], "--preview needs a terminal"),
    "an option without a value": (["--option", "steps"], "'steps' is not NAME=VALUE"),
}


@pytest.mark.parametrize(("words", "said"), IN_VAIN.values(), ids=IN_VAIN)
def test_what_would_be_in_vain_is_refused_before_anything_is_drawn(
    cluster: Run, server: ImageServer, words: list[str], said: str
) -> None:
    done = cluster("generate", "a tree", "-u", "m", *words)
    assert (done.exit_code, said in done.stderr) == (2, True), done.stderr
    assert server.seen == []


def test_a_full_disk_is_one_sentence(cluster: Run) -> None:
    done = cluster("generate", "a tree", "-u", "m", "-o", "/dev/full")
    assert done.exit_code == 2
    assert done.stderr.endswith("Error: /dev/full cannot be written: No space left on device.\n")


def test_json_has_the_files_and_how_they_were_made(cluster: Run) -> None:
    done = cluster("generate", "a tree", "-u", "m", "--json", "--option", "request_id=r1")
    said = json.loads(done.stdout)
    assert said.pop("seconds") >= 0
    made = [{"file": "m-7.png", "seed": 7, "receipt": {"seed": 7}}]
    assert said == {"model_uid": "m", "request_id": "r1", "images": made}


@pytest.mark.parametrize(
    ("text", "lora"),
    [
        ("ink", {"name": "ink"}),
        ("ink:0.5", {"name": "ink", "scale": 0.5}),
        ("ink:-1", {"name": "ink", "scale": -1.0}),
        ("org/ink:v2", {"name": "org/ink:v2"}),
        ("org:ink:2", {"name": "org:ink", "scale": 2.0}),
    ],
)
def test_a_lora_is_a_name_and_perhaps_a_scale(text: str, lora: dict[str, Any]) -> None:
    assert lora_of(text) == lora


# How far it is


def test_it_is_told_how_far_the_picture_is(cluster: Run, server: ImageServer) -> None:
    # The picture is finished only after its progress was asked for three times.
    server.on(GENERATIONS, Stream(lambda: len(server.of(PROGRESS)) >= 3, completed(RED)))
    at = {"progress": 0.25, "state": "running", "stage": "denoising", "step": 1, "steps": 4, "eta": 2.6}
    server.on(PROGRESS, at, {**at, "progress": 0.5, "step": 2, "eta": 1.2})
    done = cluster("generate", "a tree", "-u", "m", "--option", "request_id=r1")
    assert done.stderr.splitlines()[:3] == [
        "m: waiting (0%)",
        "m: denoising (25%, step 1 of 4, 3 s left)",
        "m: denoising (50%, step 2 of 4, 1 s left)",
    ]
    assert done.stdout == "m-7.png\n"


def test_a_row_says_what_is_known() -> None:
    assert row_of("m", {"progress": 0.0, "stage": "waiting", "step": 0, "steps": 0, "eta": None}) == ProgressRow(
        "m", "waiting", 0.0
    )
    assert row_of("m", {"progress": 0.4}) == ProgressRow("m", "working", 0.4)


# Ends


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (errors.InvalidBody("size takes auto or WxH, not 'big'.", "size"), 2),
        (errors.ModelNotFound("Model not found in the model list, uid: m"), 3),
        (errors.NotAuthenticated("A key is needed."), 10),
        (errors.Unavailable("No ingress answers."), 9),
        (errors.DeadlineExceeded("This takes about 900 s here, and 300 s are allowed."), 8),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_refusal_ends_with_its_sentence_and_code(
    cluster: Run, server: ImageServer, folder: Path, error: errors.ClusterError, exit_code: int
) -> None:
    server.on(GENERATIONS, error)
    done = cluster("generate", "a tree", "-u", "m")
    assert (done.exit_code, done.stdout) == (exit_code, "")
    assert done.stderr.endswith(f"Error: {error.message}\n")
    assert names(folder) == []


def test_what_was_finished_before_an_error_stays(cluster: Run, server: ImageServer, folder: Path) -> None:
    server.on(GENERATIONS, Stream(completed(RED), errors.OutOfMemory("The picture needs 9 GiB.")))
    done = cluster("generate", "a tree", "-u", "m", "-n", "2")
    assert (done.exit_code, done.stdout) == (1, "m-7.png\n")
    assert done.stderr.endswith("Error: The picture needs 9 GiB.\n")
    assert (folder / "m-7.png").read_bytes() == RED


def test_an_end_without_a_picture_is_an_error(cluster: Run, server: ImageServer) -> None:
    server.on(GENERATIONS, Stream("keep-alive"))
    done = cluster("generate", "a tree", "-u", "m")
    assert done.exit_code == 1
    assert done.stderr.endswith("Error: m ended without a picture; see `cluster logs m`.\n")


def test_ctrl_c_stops_the_drawing_and_keeps_what_has_come(
    at_terminal: Callable[..., Terminal], server: ImageServer, folder: Path
) -> None:
    endless = Stream(completed(RED), lambda: False)
    server.on(GENERATIONS, endless)
    server.on(PROGRESS, {"progress": 0.5, "stage": "denoising"})
    server.on(ABORT, {"msg": "DONE"})
    terminal = at_terminal("generate", "a tree", "-u", "m", "-n", "2", "--option", "request_id=r1")
    terminal.read_until("denoising")
    terminal.interrupt()
    terminal.read_until("m was told to stop.")
    assert terminal.end() == (130, "m-7.png\n")
    assert endless.left.wait(5)
    assert [seen.body for seen in server.of(ABORT)] == [{"block_duration": 30}]
    assert (folder / "m-7.png").read_bytes() == RED


def test_ctrl_c_with_a_server_that_cannot_be_told_says_so(
    at_terminal: Callable[..., Terminal], server: ImageServer
) -> None:
    server.on(GENERATIONS, Stream(lambda: False))
    server.on(PROGRESS, {"progress": 0.5, "stage": "denoising"})
    server.on(ABORT, errors.Unavailable("No ingress answers."))
    terminal = at_terminal("generate", "a tree", "-u", "m", "--option", "request_id=r1")
    terminal.read_until("denoising")
    terminal.interrupt()
    terminal.read_until("m could not be told to stop; it stops when it notices that nobody waits: No ingress answers.")
    assert terminal.end() == (130, "")


# Previews


def seen_by_a_person(environment: dict[str, str], *words: str, **variables: str) -> str:
    """Everything a terminal shows when standard output and error both go there."""
    ours, theirs = pty.openpty()
    everything = {**os.environ, **environment, "TERM": "xterm", "COLUMNS": "120", "LINES": "40", **variables}
    command = [sys.executable, "-m", "cluster.cli", *words]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=everything) as process:
        os.close(theirs)
        said = b""
        while part := _read(ours):
            said += part
    os.close(ours)
    assert process.returncode == 0, said
    return said.decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:
        # Linux says so when the other side is closed.
        return b""


def test_a_terminal_shows_previews_and_then_the_picture(
    environment: dict[str, str], server: ImageServer, folder: Path
) -> None:
    server.on(GENERATIONS, Stream(partial(RED, 0), partial(BLUE, 1), completed(BLUE)))
    said = seen_by_a_person(environment, "generate", "a tree", "-u", "m", COLORTERM="truecolor")
    assert server.of(GENERATIONS)[0].body["partial_images"] == 3
    red, blue = "\x1b[38;2;255;0;0;48;2;255;0;0m▀", "\x1b[38;2;0;0;255;48;2;0;0;255m▀"
    # A picture of 8 by 6 pixels fills 64 by 24 characters of a window of 120 by 40. It is drawn three times.
    assert (said.count(red), said.count(blue)) == (64 * 24, 2 * 64 * 24)
    assert said.rindex(red) < said.index(blue) < said.index("m-7.png")
    assert Image.open(BytesIO((folder / "m-7.png").read_bytes())).getpixel((0, 0)) == (0, 0, 255)


@pytest.mark.parametrize("words", [["--no-preview"], ["--json"], []], ids=["not wanted", "JSON", "no colours"])
def test_previews_are_not_even_asked_for_where_they_are_not_shown(
    environment: dict[str, str], server: ImageServer, words: list[str]
) -> None:
    colours = {"COLORTERM": "truecolor"} if words else {"COLORTERM": ""}
    assert "▀" not in seen_by_a_person(environment, "generate", "a tree", "-u", "m", *words, **colours)
    assert "partial_images" not in server.of(GENERATIONS)[0].body


def test_a_picture_is_not_poured_into_a_terminal(environment: dict[str, str], server: ImageServer) -> None:
    with pytest.raises(AssertionError, match="A terminal cannot show the file"):
        seen_by_a_person(environment, "generate", "a tree", "-u", "m", "-o", "-")
    assert server.seen == []
