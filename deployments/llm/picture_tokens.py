"""How many tokens a model makes of a picture, told by its sizes before its engine counts them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

#: Most tokens of one picture, of models that do not say: what Qwen2-VL makes of 4 million pixels in llama.cpp.
MOST_TOKENS = 4096
#: Marks around a picture.
MARKS = 4
#: Of models that do not say: the side of pictures, and of their patches.
USUAL_SIDE, USUAL_PATCH = 560, 14

#: How configs call the tokens that stand for something other than text, or mark where it begins and ends.
STAND_IN = re.compile(r"(^|_)(image|img|video|vision|audio|speech|media|bo[iva]|eo[iva])_.*token_(id|index)s?$")


@dataclass(frozen=True)
class PictureGrid:
    #: The pictures that the model was trained with, in pixels, and how many of these are a patch.
    side: int
    patch: int
    #: So many patches along each side become one token.
    merged: int
    #: Whether every picture is made that large; others keep their shape, or are cut into tiles.
    is_fixed: bool
    #: Of one picture.
    most_tokens: int = MOST_TOKENS

    def tokens(self, width: int, height: int) -> int:
        """Of a picture; at most, where its shape decides."""
        step = self.patch * self.merged
        own = max(1, self.side // step) ** 2
        if self.is_fixed:
            return own
        return min(self.most_tokens, max(own, math.ceil(width / step) * math.ceil(height / step)))


def picture_tokens_of(config: Mapping[str, object]) -> PictureGrid | None:
    """By a model's config as transformers saves it; None for a model that reads texts only."""
    vision = config.get("vision_config")
    if not isinstance(vision, dict):
        return None

    def number(name: str, usual: int) -> int:
        value = vision.get(name)
        return value if isinstance(value, int) and value > 0 else usual

    side, patch = number("image_size", USUAL_SIDE), number("patch_size", USUAL_PATCH)
    count = config.get("mm_tokens_per_image")
    if isinstance(count, int) and count > 0:
        # Each picture has so many, whatever it is made of.
        return PictureGrid(math.isqrt(count), 1, 1, is_fixed=True)
    is_fixed = config.get("model_type") in ("llava", "vipllava", "paligemma") and "image_size" in vision
    return PictureGrid(side, patch, number("spatial_merge_size", 1), is_fixed)


def stand_ins_of(config: Mapping[str, object]) -> frozenset[int]:
    """The tokens that stand for pictures, videos and sounds, by a model's config or those within it. An engine looks
    for what they stand for."""
    return frozenset(_stand_ins_in(config))


def _stand_ins_in(part: object, is_named: bool = False) -> Iterator[int]:
    if isinstance(part, dict):
        for name, inner in part.items():
            yield from _stand_ins_in(inner, STAND_IN.search(f"{name}") is not None)
    elif isinstance(part, list):
        for inner in part:
            yield from _stand_ins_in(inner, is_named)
    elif is_named and isinstance(part, int):
        yield part
