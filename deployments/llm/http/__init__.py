"""The routes of language models, a file for each dialect."""

from __future__ import annotations

from deployments.ingress.dialects import Dialect, text_bytes
from deployments.llm.http import chat, completions

ROUTES = (Dialect(completions.router, text_bytes),)
CHATS = {"chat": chat.answerer}
