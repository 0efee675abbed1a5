"""The routes that read documents, a file for each dialect."""

from __future__ import annotations

from deployments.ingress.dialects import Dialect, file_bytes
from deployments.ingress.error_shapes import mistral_error
from deployments.ocr.http import chat, loaders, mistral, ocr, uploads

ROUTES = (
    Dialect(ocr.router, file_bytes),
    Dialect(mistral.router, file_bytes, error_response=mistral_error),
    Dialect(uploads.router, file_bytes),
    Dialect(loaders.router, file_bytes),
)
CHATS = {"ocr": chat.answerer}
