"""Arguments of several calls of a denoiser made into those of one pass, and its output cut into the calls' parts.

Which calls may share a pass is decided by their signature: equal signatures can be joined.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

#: Arguments that are the same for every sample of a call, whatever their first dimension: positions, not content.
SHARED = frozenset({"txt_ids", "img_ids", "image_rotary_emb", "freqs_cis", "control_ids"})

#: Prompts that come with a mask may differ in length: the shorter ones are padded, and the padding is masked. Calls
#: whose lengths round up to the same multiple of TEXT_BUCKET share a pass.
TEXT, TEXT_MASK = "encoder_hidden_states", "encoder_hidden_states_mask"
TEXT_BUCKET = 64

#: An argument or a result of a denoiser: a tensor, a plain value, or lists, tuples and mappings of them. Every pipeline
#: has its own, so nothing more can be said of their types.
Argument: TypeAlias = Any
Arguments: TypeAlias = Mapping[str, Argument]


class Signatures:
    """What calls must have in common to share a pass. Keeps the hashes of tensors that a request passes at every step,
    so that each is read once."""

    def __init__(self) -> None:
        self._fingerprints: dict[int, Hashable] = {}

    def of(self, args: Sequence[Argument], kwargs: Arguments, samples: int) -> Hashable:
        named = [*((str(index), value) for index, value in enumerate(args)), *sorted(kwargs.items())]
        if has_masked_text(kwargs):
            text: Tensor = kwargs[TEXT]
            text_kind: Hashable = text.dtype, -(-text.shape[1] // TEXT_BUCKET), text.shape[2]
            named = [(name, value) for name, value in named if name not in (TEXT, TEXT_MASK)]
        else:
            text_kind = None
        return samples, text_kind, tuple((name, self._kind(name, value, samples)) for name, value in named)

    def _kind(self, name: str, value: Argument, samples: int) -> Hashable:
        """What two values of one argument must have in common."""
        import torch

        if isinstance(value, torch.Tensor):
            if not value.dim():
                return str(value.dtype)
            if name not in SHARED and value.shape[0] == samples:
                return value.dtype, tuple(value.shape[1:]), samples
            return self._fingerprint(value)
        if isinstance(value, Mapping):
            return tuple((inner, self._kind(str(inner), value[inner], samples)) for inner in sorted(value))
        if isinstance(value, (list, tuple)):
            return type(value), tuple(self._kind(name, item, samples) for item in value)
        return repr(value)

    def _fingerprint(self, tensor: Tensor) -> Hashable:
        import torch

        fingerprint = self._fingerprints.get(id(tensor))
        if fingerprint is None:
            content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
            fingerprint = tensor.dtype, tuple(tensor.shape), hashlib.blake2b(content, digest_size=16).digest()
            self._fingerprints[id(tensor)] = fingerprint
            weakref.finalize(tensor, self._fingerprints.pop, id(tensor), None)
        return fingerprint


def has_masked_text(kwargs: Arguments) -> bool:
    """Whether prompts of different lengths can share a pass: only a mask tells the prompt from its padding."""
    return TEXT_MASK in kwargs and getattr(kwargs.get(TEXT), "ndim", 0) == 3


def samples_in(values: Sequence[Argument]) -> int:
    """How many samples a call has: two where guidance compares with and without the prompt."""
    for value in values:
        if hasattr(value, "dim") and value.dim() > 1:
            return int(value.shape[0])
        if isinstance(value, list) and value and hasattr(value[0], "dim"):
            return len(value)
    return 1


def joined_calls(
    calls: Sequence[tuple[Sequence[Argument], Arguments]], counts: Sequence[int]
) -> tuple[list[Argument], dict[str, Argument]]:
    """Positional and named arguments of one pass for all these calls, which have `counts` samples each."""
    first_args, first_kwargs = calls[0]
    pads_text = len(calls) > 1 and has_masked_text(first_kwargs)
    args = [joined("", [args[index] for args, _ in calls], counts) for index in range(len(first_args))]
    kwargs = {
        name: joined(name, [kwargs[name] for _, kwargs in calls], counts)
        for name in first_kwargs
        if not (pads_text and name in (TEXT, TEXT_MASK))
    }
    if pads_text:
        kwargs[TEXT], kwargs[TEXT_MASK] = _joined_text([kwargs for _, kwargs in calls])
    return args, kwargs


def joined(name: str, values: Sequence[Argument], counts: Sequence[int]) -> Argument:
    """One argument of several calls, as one pass takes it."""
    import torch

    first = values[0]
    if len(values) == 1:
        return first
    if isinstance(first, torch.Tensor):
        if not first.dim():
            return torch.cat([value.expand(count) for value, count in zip(values, counts, strict=True)])
        is_shared = name in SHARED or first.shape[0] != counts[0]
        return first if is_shared else torch.cat(list(values))
    if isinstance(first, Mapping):
        return {inner: joined(str(inner), [value[inner] for value in values], counts) for inner in first}
    if isinstance(first, (list, tuple)) and any(isinstance(item, torch.Tensor) for item in first):
        if isinstance(first, list) and first[0].dim() and first[0].shape[0] != counts[0]:
            return [item for value in values for item in value]
        return type(first)(joined(name, [value[index] for value in values], counts) for index in range(len(first)))
    if isinstance(first, list) and len(first) == counts[0]:
        return [item for value in values for item in value]
    return first


def _joined_text(calls: Sequence[Arguments]) -> tuple[Tensor, Tensor | None]:
    """The prompts padded to the longest, and the mask that says what is padding; None when nothing is."""
    import torch

    longest = max(kwargs[TEXT].shape[1] for kwargs in calls)
    texts, masks = [], []
    for kwargs in calls:
        text, mask = kwargs[TEXT], kwargs[TEXT_MASK]
        if mask is None:
            mask = torch.ones(text.shape[:2], dtype=torch.bool, device=text.device)
        missing = longest - text.shape[1]
        texts.append(torch.nn.functional.pad(text, (0, 0, 0, missing)))
        masks.append(torch.nn.functional.pad(mask.bool(), (0, missing)))
    mask = torch.cat(masks)
    return torch.cat(texts), None if bool(mask.all()) else mask


def parts_of(output: Argument, counts: Sequence[int]) -> list[Argument]:
    """What a pass returned, cut into what each call would have got alone."""
    import torch

    if isinstance(output, torch.Tensor):
        return list(output.split(list(counts)))
    if isinstance(output, list):
        ends = [sum(counts[: index + 1]) for index in range(len(counts))]
        return [output[end - count : end] for end, count in zip(ends, counts, strict=True)]
    if isinstance(output, Mapping):
        parts = [parts_of(value, counts) for value in output.values()]
        # The output classes of model libraries are mappings that take their fields as keyword arguments.
        return [type(output)(**dict(zip(output, part, strict=True))) for part in zip(*parts, strict=True)]
    if isinstance(output, tuple):
        return list(zip(*(parts_of(item, counts) for item in output), strict=True))
    return [output] * len(counts)
