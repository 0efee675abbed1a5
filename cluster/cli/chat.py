"""`cluster chat`: a conversation with a language model in the terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click

from cluster import errors
from cluster.cli.connection import complete_uid, talks
from cluster.cli.requests import only_model
from cluster.client.chat import LanguageCalls, LanguageModel, with_images
from cluster.client.client import Client
from cluster.client.results import file_of
from cluster.value import JsonObject

EXAMPLE = "--model-name smollm2-135m-instruct --model-type llm"
HELP = (
    "/image FILE shows a picture with the next question, /system TEXT says how to answer, /clear forgets all, "
    "/exit ends (or Ctrl-D); Ctrl-C stops an answer."
)


class TerminalChat:
    """What has been said, and what is to be said next."""

    def __init__(self, model: LanguageModel, system: str | None, options: JsonObject) -> None:
        self._model = model
        self._system = system
        self._options = options
        self._said: list[JsonObject] = []
        #: Pictures that are shown with the next question.
        self._images: list[bytes] = []

    def show(self, file: str) -> None:
        self._images.append(file_of(file))

    def take(self, line: str) -> bool:
        """Answers a line, or obeys it; False when that was the last."""
        word, _, words = line.partition(" ")
        if word in ("/exit", "/quit", "/bye"):
            return False
        if word == "/clear":
            self._said.clear()
            self._images.clear()
        elif word == "/image":
            self._take_image(words.strip())
        elif word == "/system":
            self._system = words.strip() or None
        elif word in ("/help", "/?"):
            click.echo(HELP, err=True)
        elif line.startswith("/"):
            click.echo(f"There is no {word}. {HELP}", err=True)
        elif line.strip():
            self._answer(line)
        return True

    def _take_image(self, file: str) -> None:
        try:
            self.show(str(Path(file).expanduser()))
        except errors.BadRequest as error:
            click.echo(error.message, err=True)

    def _answer(self, line: str) -> None:
        question: JsonObject = {"role": "user", "content": line}
        if self._images:
            question, self._images = with_images(question, self._images), []
        system = [{"role": "system", "content": self._system}] if self._system else []
        parts: list[str] = []
        began = time.monotonic()
        first = began
        usage: JsonObject = {}
        chunks: Iterator[JsonObject] = self._model.chat(
            [*system, *self._said, question],
            stream=True,
            stream_options={"include_usage": True},
            **self._options,
        )
        try:
            for chunk in chunks:
                usage = chunk.get("usage") or usage
                for choice in chunk["choices"]:
                    if text := choice["delta"].get("content"):
                        first = first if parts else time.monotonic()
                        parts.append(text)
                        click.echo(text, nl=False)
        except KeyboardInterrupt:
            # What has been written so far stands, as if the model had ended there.
            click.echo(" [stopped]", nl=False)
        finally:
            close = getattr(chunks, "close", None)
            if close is not None:
                close()
            click.echo()
        self._said += [question, {"role": "assistant", "content": "".join(parts)}]
        tokens, seconds = usage.get("completion_tokens", len(parts)), time.monotonic() - first
        if sys.stderr.isatty() and parts:
            rate = f"{tokens / seconds:.0f} tokens/s" if seconds > 0 else ""
            click.secho(f"{tokens} tokens, {rate}, the first after {first - began:.2f} s", dim=True, err=True)


@click.command()
@click.argument("uid", required=False, shell_complete=complete_uid)
@click.option("--system", help="How to answer, said to the model before everything else.")
@click.option(
    "--image", "images", multiple=True, help="A picture that is shown with the first question; may be repeated."
)
@click.option("--max-tokens", type=click.IntRange(min=1), help="Of each answer.")
@click.option("--temperature", type=click.FloatRange(0, 2), help="0 is the likeliest answer, always the same.")
@talks
def chat(
    client: Client,
    uid: str | None,
    system: str | None,
    images: tuple[str, ...],
    max_tokens: int | None,
    temperature: float | None,
) -> None:
    """Talk with a language model; without a terminal, each line of the input is a question.

    Without a UID, with the only language model that serves.
    """
    uid = uid or only_model(client, LanguageCalls, "language model", EXAMPLE)
    model = client.get_model(uid)
    if not isinstance(model, LanguageModel):
        raise errors.BadRequest(f"{uid} does not chat; `cluster list` shows what it can.")
    fields = {"max_tokens": max_tokens, "temperature": temperature}
    options = {name: value for name, value in fields.items() if value is not None}
    conversation = TerminalChat(model, system, options)
    for image in images:
        conversation.show(image)
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        click.secho(f"{uid} listens. {HELP}", dim=True, err=True)
    while (line := _next_line(is_terminal)) is not None and conversation.take(line):
        pass


def _next_line(is_terminal: bool) -> str | None:
    try:
        # Where the answers go into a file, the sign that it waits for a line does not.
        if is_terminal and not sys.stdout.isatty():
            click.echo("> ", nl=False, err=True)
            return input()
        return input("> " if is_terminal else "")
    except EOFError:
        return None
    except KeyboardInterrupt:
        if not is_terminal:
            raise
        click.echo()
        return ""
