from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import dataclass, field

from cluster.facts import ModelFacts, SentFacts
from deployments.image.facts import ImageFacts
from deployments.ocr.facts import OcrFacts
from deployments.text.facts import ClassifyFacts, EmbeddingFacts, TextFacts


@dataclass(frozen=True, kw_only=True)
class Facts(ModelFacts):
    offload: str | None
    kind: str | None = field(default=None, metadata={"listed_as": "class"})


def test_a_listing_leaves_out_what_a_model_does_not_say() -> None:
    assert ModelFacts(max_tokens=512).listed() == {"max_tokens": 512}
    assert Facts(offload=None).listed() == {"offload": None}, "it must be said, so none is an answer"


def test_a_listing_has_the_names_that_clients_read() -> None:
    assert Facts(offload="cpu", kind="Flux").listed() == {"offload": "cpu", "class": "Flux"}
    assert OcrFacts(model_class="Got").listed() == {"class": "Got"}


def test_what_all_text_families_say_is_extended_by_what_one_says() -> None:
    common = TextFacts(max_tokens=512, packed=True)
    assert common.extended(EmbeddingFacts, dimensions=8) == EmbeddingFacts(max_tokens=512, packed=True, dimensions=8)


def test_facts_arrive_as_they_were_sent() -> None:
    facts = ClassifyFacts(max_tokens=8, labels=("a", "b"), exclusive=True)
    sent = pickle.loads(pickle.dumps(SentFacts.of(facts)))
    assert sent.opened(ClassifyFacts) == facts
    assert sent.opened(TextFacts) == facts
    assert sent.opened(ImageFacts) is None, "it is of another model type"
    assert (sent.max_tokens, sent.listed["labels"]) == (8, ("a", "b"))


def test_a_model_that_is_not_loaded_has_no_facts() -> None:
    assert SentFacts().opened(ModelFacts) is None
    assert SentFacts().listed == {}


def test_a_process_between_does_not_import_the_model_type() -> None:
    """The supervisor passes on facts of types that it may not be able to import."""
    sent = pickle.dumps(SentFacts.of(ClassifyFacts(labels=("a",), exclusive=True)))
    program = f"import pickle, sys; print(pickle.loads({sent!r}).listed, 'deployments' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "{'labels': ('a',), 'exclusive': True} False\n"
