"""The routes of language models, a file for each dialect."""

from __future__ import annotations

from deployments.ingress.dialects import Dialect, text_bytes
from deployments.ingress.ollama import answer_error
from deployments.llm.http import anthropic, chat, completions, ollama, responses

ROUTES = (
    Dialect(completions.router, text_bytes),
    Dialect(responses.router, text_bytes),
    Dialect(anthropic.router, text_bytes, error_response=anthropic.answer_error),
    Dialect(ollama.router, text_bytes, error_response=answer_error),
)
CHATS = {"chat": chat.answerer}
