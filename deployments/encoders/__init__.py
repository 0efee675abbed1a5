"""What runs a text encoder inside a worker: packing, number formats, other engines, and the choice among them.

Brings in torch and sentence-transformers; imported by families inside `load` and by nothing else.
"""

# Before anything else here imports transformers.
from deployments.encoders import library

__all__ = ["library"]
