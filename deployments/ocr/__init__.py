"""Text from pictures of pages."""

from __future__ import annotations

from deployments import ModelType
from deployments.ocr.documents.family import Documents
from deployments.ocr.ppocr.family import PpOcr
from deployments.ocr.tesseract import Tesseract

TYPES = (ModelType(name="ocr", families={"ppocr": PpOcr, "transformers-ocr": Documents, "tesseract": Tesseract}),)
