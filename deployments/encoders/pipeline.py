"""A sentence-transformers model run by hand: any number of encoded texts in, one forward pass, one result per text out.

Packed where the model allows, which is tried and not guessed; padded otherwise, and on engines other than torch.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

import torch

from deployments.encoders import packing
from deployments.encoders.compiled import Compiled
from deployments.text import Encoded, TextEncoder

log = logging.getLogger("cluster.worker")

#: How far the packed result may be from the padded one, as a part of its length.
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}


class Pipeline:
    """`model` is a sentence-transformers model of any kind: modules that hand on a dict of features."""

    def __init__(
        self,
        model: Any,
        encoder: TextEncoder,
        output: str,
        *,
        threads: int = 1,
        parallel: int = 1,
        compiled: Compiled | None = None,
    ) -> None:
        self._body, *self._heads = list(model)
        self.encoder = encoder
        self._output = output
        self._threads = threads
        self.parallel = parallel
        self._local = threading.local()
        self._compiled = compiled
        self.dtype = next(model.parameters()).dtype
        self._device = model.device
        self._first_position = packing.first_position(self._body)
        if compiled is not None:
            # Its weights are in the engine; the second copy would only take memory.
            self._body.model = None
            self.packs = False
        else:
            if self._body.module_output_name in ("scores", "causal_logits"):
                packing.pick_for_head(self._body.model)
            self.packs = self._can_pack()

    @property
    def pads(self) -> bool:
        return not self.packs

    def set_threads(self, threads: int) -> None:
        self._threads = threads
        if self._compiled is not None:
            self._compiled.set_threads(threads)

    def vectors(self, batch: Sequence[Encoded], **constants: Any) -> list[Any]:
        """One array per text, in the order of the batch."""
        if not batch:
            return []
        features, order = self._forward(batch, **constants)
        return _in_order(_array(features[self._output]), order)

    def token_vectors(self, batch: Sequence[Encoded], **constants: Any) -> list[Any]:
        """One matrix per text, with a row for each of its tokens that the model answers for."""
        if not batch:
            return []
        features, order = self._forward(batch, **constants)
        rows, mask = _array(features["token_embeddings"]), features.get("attention_mask")
        bounds = features.get("cu_seq_lens_q")
        if bounds is not None:
            cut = bounds.cpu().numpy()
            parts = [rows.reshape(-1, rows.shape[-1])[a:b] for a, b in zip(cut[:-1], cut[1:], strict=True)]
        else:
            kept = mask.cpu().numpy().astype(bool)
            parts = [row[keep] for row, keep in zip(rows, kept, strict=True)]
        return _in_order(parts, order)

    def _forward(self, batch: Sequence[Encoded], packs: bool | None = None, **constants: Any) -> tuple[Any, list[int]]:
        """The features after the last module; row `i` is that of input `order[i]`, the shortest first."""
        self._claim_cores()
        order = sorted(range(len(batch)), key=lambda place: len(batch[place]))
        texts = [batch[place] for place in order]
        with torch.inference_mode():
            if self._compiled is not None:
                return self._compiled_pass(texts, constants), order
            if self.packs if packs is None else packs:
                return self._packed_pass(texts, constants), order
            features = {**constants, **self._tensors(self.encoder.features(texts))}
            return self._through((self._body, *self._heads), features), order

    def _packed_pass(self, texts: Sequence[Encoded], constants: dict[str, Any]) -> Any:
        lengths = [len(one) for one in texts]
        segments = packing.Segments.of(lengths, self._device)
        arrays = self.encoder.packed_features(texts, self._first_position)
        features = {**constants, **self._tensors(arrays), "cu_seq_lens_q": segments.bounds}
        with packing.packed(segments):
            return self._through((self._body, *self._heads), features)

    def _compiled_pass(self, texts: Sequence[Encoded], constants: dict[str, Any]) -> Any:
        assert self._compiled is not None
        arrays = self.encoder.features(texts, self._compiled.multiple)
        found = torch.from_numpy(self._compiled(arrays))
        # What lies behind the engine computes in fp32: it is little, and exact.
        features = {**constants, **self._tensors(arrays), self._body.module_output_name: found}
        return self._through(self._heads, features)

    def _through(self, modules: Sequence[Any], features: Any) -> Any:
        for module in modules:
            features = module(features)
        return features

    def _tensors(self, arrays: dict[str, Any]) -> dict[str, torch.Tensor]:
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        if self._device.type == "cuda":
            tensors = {name: one.pin_memory().to(self._device, non_blocking=True) for name, one in tensors.items()}
        return tensors

    def _claim_cores(self) -> None:
        """Torch counts its threads per calling thread; several batches at once share the cores."""
        share = max(1, self._threads // self.parallel)
        if getattr(self._local, "threads", None) != share:
            torch.set_num_threads(share)
            self._local.threads = share

    def _can_pack(self) -> bool:
        config = getattr(self._body.model, "config", None)
        if getattr(config, "_attn_implementation", None) != packing.ATTENTION:
            return False
        sample = self.encoder.encode(["A dog.", "It rains in the mountains, and the river is high.", "Tea and bread"])
        try:
            packed, padded = self._forward(sample, packs=True)[0], self._forward(sample, packs=False)[0]
            ours, theirs = packed[self._output].float(), padded[self._output].float()
            if ours.shape != theirs.shape:
                return False
            apart = (ours - theirs).norm(dim=-1) / theirs.norm(dim=-1).clamp(min=1e-6)
        # Whatever a model's own code makes of one long row: then it is padded.
        except Exception as error:
            log.info("the model does not pack: %s: %s", type(error).__name__, error)
            return False
        return bool(apart.max() <= TOLERANCE[self.dtype])


def _array(tensor: torch.Tensor) -> Any:
    return tensor.float().cpu().numpy()


def _in_order(rows: Any, order: Sequence[int]) -> list[Any]:
    outputs: list[Any] = [None] * len(order)
    for place, row in zip(order, rows, strict=True):
        outputs[place] = row
    return outputs
