"""The routes that read documents, a file for each dialect."""

from __future__ import annotations

from deployments.ingress.dialects import Dialect, file_bytes
from deployments.ocr.http import chat, loaders, mistral, ocr, uploads

ROUTES = (
    Dialect(ocr.router, file_bytes),
    Dialect(mistral.router, file_bytes, error_response=mistral.error_response),
    Dialect(uploads.router, file_bytes),
    Dialect(loaders.router, file_bytes),
)
CHATS = {"ocr": chat.answerer}
