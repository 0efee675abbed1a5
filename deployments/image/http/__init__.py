"""The routes of image models, a file for each dialect."""

from __future__ import annotations

from deployments.image.http import images, sdapi, webui_lists
from deployments.ingress.dialects import Dialect, file_bytes

ROUTES = (Dialect(images.router, file_bytes), Dialect(sdapi.router, file_bytes), Dialect(webui_lists.router))
