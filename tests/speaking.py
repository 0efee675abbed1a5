"""A family whose engine is a thread that steps, as those of language models are: it repeats words, one per step."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from cluster import errors
from cluster.facts import ModelFacts
from cluster.worker.family import BatchHints, Example, Finished, Prepared, Setup, Stop, Talking, Tell


class SpeakingOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    step_seconds: float = 0.0
    slots: int = 4
    #: Words that the engine has room for.
    room: int | None = None


class Speech:
    """One text in the engine."""

    def __init__(self, words: list[str], tell: Tell) -> None:
        self.words = words
        self.tell = tell
        self.said = 0
        self.is_stopped = False


class Speaking(Talking):
    """A text is said again word by word. `fail` and `die` are orders to the engine, which it obeys at that word."""

    engines: ClassVar[tuple[str, ...]] = ("speaking",)
    abilities: ClassVar[tuple[str, ...]] = ("infer", "speak")
    Options: ClassVar[type[BaseModel]] = SpeakingOptions
    example: Example = Example(["hello"], {}, "speak")

    def __init__(self) -> None:
        #: How many texts each step said a word of.
        self.steps: list[int] = []
        self.may_step = threading.Event()
        self.may_step.set()
        self._speeches: list[Speech] = []
        self._has_work = threading.Condition()

    def load(self, setup: Setup) -> ModelFacts:
        self.start(setup.options)
        return ModelFacts(engine="speaking")

    def start(self, options: SpeakingOptions) -> None:
        self._options = options
        self.pace = BatchHints(parallel=options.slots, room=options.room)
        threading.Thread(target=self._run, daemon=True, name="speaking").start()

    def prepare(self, ability: str, items: Sequence[Any], params: Mapping[str, Any]) -> Prepared:
        words = [str(item).split() for item in items]
        if [] in words:
            raise errors.BadRequest("There is nothing to say.", "items")
        return Prepared(words, [len(each) for each in words])

    def begin(self, value: Any, tell: Tell) -> Stop:
        if value == ["refused"]:
            raise errors.BadRequest("The engine refuses this.")
        speech = Speech(value, tell)
        with self._has_work:
            self._speeches.append(speech)
            self._has_work.notify()

        def stop() -> None:
            speech.is_stopped = True

        return stop

    def pack(self, outputs: list[Any], params: Mapping[str, Any]) -> Any:
        return outputs

    def _run(self) -> None:
        while True:
            with self._has_work:
                while not self._speeches:
                    self._has_work.wait()
                speeches = list(self._speeches)
            self.may_step.wait()
            time.sleep(self._options.step_seconds)
            self.steps.append(len(speeches))
            for speech in speeches:
                if (outcome := self._say_a_word(speech)) is not None:
                    self._speeches.remove(speech)
                    speech.tell(Finished(outcome))

    def _say_a_word(self, speech: Speech) -> object:
        if speech.is_stopped:
            return errors.RequestCancelled("It was stopped.")
        word = speech.words[speech.said]
        if word == "fail":
            return ValueError("told to fail")
        if word == "die":
            import os

            os._exit(1)
        speech.said += 1
        speech.tell(word)
        return " ".join(speech.words) if speech.said == len(speech.words) else None
