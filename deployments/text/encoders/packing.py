"""Many texts in one forward pass without padding, for every model whose attention goes through transformers' interface.

The texts stand one behind the other in one row. All layers but attention treat each token by itself and notice nothing;
attention is told where each text begins and ends. Whether a model's other parts keep to that (positions, above all) is
not known from its name, so each model is tried before it is packed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch

# Before anything imports transformers.
from deployments.text.encoders import library  # noqa: F401

# isort: split
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.utils import ModelOutput

#: The name under which transformers finds this attention. Without segments it is sdpa.
ATTENTION = "packed"

_now = threading.local()


class Segments(NamedTuple):
    """Where each text lies in the row. Texts of equal length stand together and are computed together."""

    #: (start, texts, length of each)
    groups: Sequence[tuple[int, int, int]]
    #: Start of every text and the end of the last, on the model's device.
    bounds: torch.Tensor
    longest: int

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device) -> Segments:
        groups: list[tuple[int, int, int]] = []
        bounds = [0]
        for length in lengths:
            if groups and groups[-1][2] == length:
                start, texts, _ = groups[-1]
                groups[-1] = (start, texts + 1, length)
            else:
                groups.append((bounds[-1], 1, length))
            bounds.append(bounds[-1] + length)
        return cls(groups, torch.tensor(bounds, dtype=torch.int32, device=device), max(lengths))


@contextmanager
def packed(segments: Segments) -> Iterator[None]:
    """Within this block, in this thread, models see the row as these texts."""
    _now.segments = segments
    try:
        yield
    finally:
        _now.segments = None


def _segments() -> Segments | None:
    return getattr(_now, "segments", None)


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    **kwargs: object,
) -> tuple[torch.Tensor, None]:
    segments = _segments()
    if segments is None:
        answer: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, is_causal, **kwargs
        )
        return answer
    if kwargs.get("position_bias") is not None or kwargs.get("softcap") is not None:
        raise NotImplementedError("a position bias cannot be packed")
    causal = bool(getattr(module, "is_causal", False) if is_causal is None else is_causal)
    run = _on_card if query.is_cuda else _on_cpu
    return run(query, key, value, segments, scaling, causal, sliding_window)[None], None


def _on_cpu(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    segments: Segments,
    scaling: float | None,
    causal: bool,
    window: int | None,
) -> torch.Tensor:
    """One call per distinct length: its texts lie together, so that nothing is gathered and nothing is padded."""
    heads, tokens = query.shape[1:3]
    key, value = (repeat_kv(part, heads // part.shape[1]) for part in (key, value))
    out = torch.empty((tokens, heads, value.shape[-1]), dtype=query.dtype)
    for start, texts, length in segments.groups:
        stop = start + texts * length
        parts = (part[0, :, start:stop].unflatten(1, (texts, length)).transpose(0, 1) for part in (query, key, value))
        mask = _window(length, window, causal) if window is not None and length > window else None
        answer = torch.nn.functional.scaled_dot_product_attention(
            *parts, attn_mask=mask, scale=scaling, is_causal=causal and mask is None
        )
        out[start:stop] = answer.transpose(1, 2).flatten(0, 1)
    return out


def _window(length: int, window: int, causal: bool) -> torch.Tensor:
    """Which tokens see which: those nearer than the window, and only backwards when causal."""
    return torch.ones((length, length), dtype=torch.bool).tril_(0 if causal else window - 1).triu_(1 - window)


def _on_card(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    segments: Segments,
    scaling: float | None,
    causal: bool,
    window: int | None,
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    reach = -1 if window is None else window - 1
    rows = (part[0].transpose(0, 1) for part in (query, key, value))
    answer: torch.Tensor = varlen_attn(
        *rows,
        segments.bounds,
        segments.bounds,
        segments.longest,
        segments.longest,
        scale=scaling,
        window_size=(reach, 0 if causal else reach),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return answer


def _mask(*args: object, **kwargs: object) -> torch.Tensor | None:
    if _segments() is not None:
        return None
    mask: torch.Tensor | None = sdpa_mask(*args, **kwargs)
    return mask


AttentionInterface.register(ATTENTION, _attention)
AttentionMaskInterface.register(ATTENTION, _mask)


class Picked(torch.nn.Module):  # type: ignore[misc]
    """Stands in for the body of a model with a head: hands on only the token of each text that the head reads.

    A head such as a classifier looks at one token per row. Packed, there is one row with many texts, so that each
    text's token is made a row of its own.
    """

    def __init__(self, body: torch.nn.Module, reads: str) -> None:
        super().__init__()
        self.body = body
        self.reads = reads

    def forward(self, *args: object, **kwargs: object) -> ModelOutput:
        answer = self.body(*args, **kwargs)
        segments = _segments()
        if segments is None:
            return answer
        rows = answer.last_hidden_state[0]
        bounds = segments.bounds.long()
        if self.reads == "first":
            picked = rows[bounds[:-1]]
        elif self.reads == "last":
            picked = rows[bounds[1:] - 1]
        else:
            lengths = bounds.diff()
            texts = torch.repeat_interleave(torch.arange(len(lengths), device=rows.device), lengths)
            sums = torch.zeros((len(lengths), rows.shape[1]), device=rows.device).index_add_(0, texts, rows.float())
            picked = (sums / lengths[:, None]).to(rows.dtype)
        answer.last_hidden_state = picked[:, None]
        pooler = getattr(self.body, "pooler", None)
        if pooler is not None:
            answer.pooler_output = pooler(answer.last_hidden_state)
        return answer


def pick_for_head(model: torch.nn.Module) -> None:
    """Prepares a transformers model with a classifier or a language head for packing."""
    config = model.config
    prefix = getattr(model, "base_model_prefix", "")
    body = getattr(model, prefix, None)
    if not isinstance(body, torch.nn.Module) or isinstance(body, Picked):
        return
    is_causal = any("ForCausalLM" in kind.__name__ for kind in type(model).__mro__)
    reads = "last" if is_causal else getattr(config, "classifier_pooling", "cls")
    setattr(model, prefix, Picked(body, {"cls": "first"}.get(reads, reads)))


def first_position(model: torch.nn.Module) -> int:
    """Where a model begins to count positions: RoBERTa and similar models leave room for the padding's."""
    for module in model.modules():
        table = getattr(module, "position_embeddings", None)
        padding = getattr(table, "padding_idx", None)
        if isinstance(table, torch.nn.Embedding) and padding is not None:
            return int(padding) + 1
    return 0
