"""What models can be asked for, where more than one room speaks of it."""

from __future__ import annotations

#: What models that draw can do.
TASKS = ("text2image", "image2image", "inpainting")
#: What takes seconds and more, so that callers ask how far it is.
SLOW = (*TASKS, "ocr")
