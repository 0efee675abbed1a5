"""The routes of language models, a file for each dialect."""

from __future__ import annotations

from deployments.ingress.dialects import Dialect, file_bytes, text_bytes
from deployments.ingress.error_shapes import anthropic_error, ollama_error
from deployments.llm.http import anthropic, chat, completions, ollama, responses

ROUTES = (
    Dialect(completions.router, text_bytes),
    Dialect(responses.router, file_bytes),
    Dialect(anthropic.router, file_bytes, error_response=anthropic_error),
    Dialect(ollama.router, file_bytes, error_response=ollama_error),
)
CHATS = {"chat": chat.answerer}
