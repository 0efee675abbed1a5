"""Linear layers on CPU whose weights are stored in the order in which oneDNN reads them.

Torch arranges the weights anew for every pass, which for a short text takes as long as the pass itself: MiniLM with 11
tokens on one core takes 6.1 ms for 11.2 in fp32 and 4.5 for 6.8 in bf16.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import torch

#: Programs that oneDNN keeps: it makes some for each number of tokens. With 1,024 of them, which is its own limit, a
#: worker grows by 130 MB under load, and is no faster.
KEPT_PROGRAMS = 128


def arranged_dtypes() -> tuple[torch.dtype, ...]:
    """Number formats for which this processor has arithmetic of its own: oneDNN arranges no other."""
    has_bfloat16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return (torch.float32, torch.bfloat16) if has_bfloat16 else (torch.float32,)


class Arranged(torch.nn.Module):  # type: ignore[misc]
    def __init__(self, layer: torch.nn.Linear) -> None:
        super().__init__()
        self._bias = layer.bias
        self._weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), None)
        self._run = torch.ops.mkldnn._linear_pointwise.default

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self._run(rows, self._weight, self._bias, "none", [], "")


def arrange(model: torch.nn.Module) -> None:
    """Puts such layers in the place of a model's own, which are freed."""
    if not torch.backends.mkldnn.is_available():
        return
    # oneDNN reads this when it makes its first program.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KEPT_PROGRAMS))
    shared = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    dtypes = arranged_dtypes()
    layers = [row for row in _layers(model) if row[2].weight.dtype in dtypes and id(row[2].weight) not in shared]
    if not layers:
        return
    with torch.inference_mode():
        while layers:
            # Only one layer at a time is there in both orders.
            parent, name, layer = layers.pop()
            setattr(parent, name, Arranged(layer))
            del layer
    _leave_the_file(model)


def _leave_the_file(model: torch.nn.Module) -> None:
    """Copies what is still read from the mapped file of weights, above all the tables of embeddings. The mapping would
    keep the pages of all layers in memory, in the order in which nobody reads them any more."""
    for parameter in model.parameters():
        # Torch can resize all memory but that which it has mapped.
        if not parameter.untyped_storage().resizable():
            parameter.data = parameter.data.clone()


def _layers(model: torch.nn.Module) -> Iterator[tuple[torch.nn.Module, str, torch.nn.Linear]]:
    """Plain linear layers on CPU. Quantised and adapted layers have other classes, and a layer with hooks does more.
    Code from a model's repository may read the weights of its layers, so only those of transformers are replaced."""
    for parent in model.modules():
        if not type(parent).__module__.startswith("transformers."):
            continue
        for name, layer in parent.named_children():
            if type(layer) is not torch.nn.Linear or layer._forward_hooks or layer._forward_pre_hooks:
                continue
            if layer.weight.device.type == "cpu":
                yield parent, name, layer
