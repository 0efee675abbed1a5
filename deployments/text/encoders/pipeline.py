"""A sentence-transformers model run by hand: any number of encoded texts in, one forward pass, one result per text out.

Packed where the model allows, which is tried and not guessed; padded otherwise, and on engines other than torch.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch

from deployments.text.encoders import packing
from deployments.text.encoders.compiled import Compiled
from deployments.text.tokenizing import Encoded, TextEncoder
from deployments.vectors import Arrays, Floats

log = logging.getLogger("cluster.worker.worker")

#: How far the packed result may be from the padded one, as a part of its length.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}


Row = TypeVar("Row")
#: What modules hand on: tensors by name, and whatever else a module wants to be told.
Features: TypeAlias = dict[str, Any]
#: Changes the padded arrays of a batch.
Amend = Callable[[Arrays], Arrays]


class Pipeline:
    """`model` is a sentence-transformers model of any kind: modules that hand on a dict of features."""

    def __init__(
        self,
        model: torch.nn.Sequential,
        encoder: TextEncoder,
        output: str,
        *,
        threads: int = 1,
        parallel: int = 1,
        compiled: Compiled | None = None,
    ) -> None:
        # Modules behind the body compute in fp32. It costs little, and unit vectors then really have length 1.
        self._body, *heads = list(model)
        self._heads = [head.float() for head in heads]
        self.encoder = encoder
        self._output = output
        self._threads = threads
        self.parallel = parallel
        self._local = threading.local()
        self._counting = threading.Lock()
        self._passes = 0
        self._compiled = compiled
        # Passes on all cores run in one thread: with several OpenMP teams, none of them would spin while it waits.
        several = compiled is None and parallel > 1 and model.device.type == "cpu"
        self._wide = ThreadPoolExecutor(1, "wide") if several else None
        self.dtype = next(model.parameters()).dtype
        self._device = model.device
        self._first_position = packing.first_position(self._body)
        if compiled is not None:
            self.packs = False
        else:
            if self._body.module_output_name in ("scores", "causal_logits"):
                packing.pick_for_head(self._body.model)
            self.packs = self._can_pack()

    @property
    def pads(self) -> bool:
        return not self.packs

    def set_threads(self, threads: int) -> None:
        """Only for torch; other engines choose their threads when they start."""
        self._threads = threads

    def vectors(self, batch: Sequence[Encoded], **constants: Any) -> list[Floats]:
        """One array per text, in the order of the batch."""
        return [features[self._output] for features in self.several(batch, [self._output], **constants)]

    def token_vectors(self, batch: Sequence[Encoded], **constants: Any) -> list[Floats]:
        """One matrix per text, with a row for each of its tokens that the model answers for."""
        return [features["token_embeddings"] for features in self.several(batch, [], ["token_embeddings"], **constants)]

    def compute(self, batch: Sequence[Encoded]) -> None:
        """A pass whose answers nobody reads, however texts share them in this kind of model."""
        self._forward(batch)

    def several(
        self, batch: Sequence[Encoded], of_texts: Sequence[str], of_tokens: Sequence[str] = (), **constants: Any
    ) -> list[dict[str, Floats]]:
        """Of each text, the features of the text and of its tokens, from one pass."""
        if not batch:
            return []
        features, order = self._forward(batch, **constants)
        columns = {name: list(_array(features[name])) for name in of_texts}
        columns |= {name: _by_text(_array(features[name]), features) for name in of_tokens}
        return _in_order([{name: rows[index] for name, rows in columns.items()} for index in range(len(order))], order)

    def _forward(
        self,
        batch: Sequence[Encoded],
        packs: bool | None = None,
        amend: Amend | None = None,
        **constants: Any,
    ) -> tuple[Features, list[int]]:
        """The features after the last module; row `i` is that of input `order[i]`, the shortest first.

        `amend` changes the padded arrays before they are read, for models that read more than the text."""
        order = sorted(range(len(batch)), key=lambda index: len(batch[index]))
        texts = [batch[index] for index in order]
        is_packed = amend is None and (self.packs if packs is None else packs)
        with self._counted() as is_alone:
            if self._compiled is not None:
                return self._compiled_pass(texts, constants, amend, is_alone), order
            if is_alone and self._wide is not None:
                return self._wide.submit(self._pass, self._threads, texts, is_packed, amend, constants).result(), order
            share = max(1, self._threads // self.parallel)
            return self._pass(share, texts, is_packed, amend, constants), order

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def _pass(
        self,
        threads: int,
        texts: Sequence[Encoded],
        is_packed: bool,
        amend: Amend | None,
        constants: Mapping[str, object],
    ) -> Features:
        self._take(threads)
        if is_packed:
            return self._packed_pass(texts, constants)
        arrays = self.encoder.features(texts)
        features = {**constants, **self._tensors(arrays if amend is None else amend(arrays))}
        return self._through((self._body, *self._heads), features)

    def _packed_pass(self, texts: Sequence[Encoded], constants: Mapping[str, object]) -> Features:
        lengths = [len(text) for text in texts]
        segments = packing.Segments.of(lengths, self._device)
        arrays = self.encoder.packed_features(texts, self._first_position)
        features = {**constants, **self._tensors(arrays), "cu_seq_lens_q": segments.bounds}
        with packing.packed(segments):
            return self._through((self._body, *self._heads), features)

    @torch.inference_mode()  # type: ignore[untyped-decorator]
    def _compiled_pass(
        self, texts: Sequence[Encoded], constants: Mapping[str, object], amend: Amend | None, is_alone: bool
    ) -> Features:
        assert self._compiled is not None
        # For the little that torch does behind it.
        self._take(1)
        arrays = self.encoder.features(texts, self._compiled.multiple)
        arrays = arrays if amend is None else amend(arrays)
        output = torch.from_numpy(self._compiled(arrays, is_alone))
        features = {**constants, **self._tensors(arrays), self._body.module_output_name: output}
        return self._through(self._heads, features)

    def _through(self, modules: Sequence[torch.nn.Module], features: Features) -> Features:
        for module in modules:
            wanted = {name: features[name] for name in getattr(module, "forward_kwargs", ()) if name in features}
            features = module(features, **wanted)
            if module is self._body:
                name = module.module_output_name
                features[name] = features[name].float()
        return features

    def _tensors(self, arrays: Arrays) -> dict[str, torch.Tensor]:
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        if self._device.type == "cuda":
            tensors = {
                name: tensor.pin_memory().to(self._device, non_blocking=True) for name, tensor in tensors.items()
            }
        return tensors

    def _take(self, threads: int) -> None:
        """Sets how many threads torch uses, which torch keeps for each calling thread."""
        if getattr(self._local, "threads", None) != threads:
            torch.set_num_threads(threads)
            self._local.threads = threads

    @contextmanager
    def _counted(self) -> Iterator[bool]:
        """True for a batch that has the model to itself, and gets all cores; others get their share."""
        with self._counting:
            self._passes += 1
            is_alone = self._passes == 1
        try:
            yield is_alone
        finally:
            with self._counting:
                self._passes -= 1

    def _can_pack(self) -> bool:
        config = getattr(self._body.model, "config", None)
        if getattr(config, "_attn_implementation", None) != packing.ATTENTION:
            return False
        sample = self.encoder.encode(["A dog.", "It rains in the mountains, and the river is high.", "Tea and bread"])
        try:
            answers = self.token_vectors if self._output == "token_embeddings" else self.vectors
            packed, padded = answers(sample, packs=True), answers(sample, packs=False)
            if [answer.shape for answer in packed] != [answer.shape for answer in padded]:
                return False
            apart = [_norm(a - b) / max(_norm(b), 1e-6) for a, b in zip(packed, padded, strict=True)]
        # Code from a model's repository may fail on one long row in any way; such a model is padded.
        except Exception as error:
            log.info("the model does not pack: %s: %s", type(error).__name__, error)
            return False
        return max(apart) <= TOLERANCE[self.dtype]


def _array(tensor: torch.Tensor) -> Floats:
    array: Floats = tensor.float().cpu().numpy()
    return array


def _by_text(rows: Floats, features: Features) -> list[Floats]:
    """The rows of each text's tokens, without those that the mask leaves out."""
    bounds = features.get("cu_seq_lens_q")
    if bounds is not None:
        cut = bounds.cpu().numpy()
        return [rows[0, a:b] for a, b in zip(cut[:-1], cut[1:], strict=True)]
    kept = features["attention_mask"].cpu().numpy().astype(bool)
    return [row[keep] for row, keep in zip(rows, kept, strict=True)]


def _norm(array: Floats) -> float:
    return float(np.linalg.norm(array))


def _in_order(rows: Sequence[Row], order: Sequence[int]) -> list[Row]:
    outputs = list(rows)
    for index, row in zip(order, rows, strict=True):
        outputs[index] = row
    return outputs
