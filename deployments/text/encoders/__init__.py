"""What runs a text encoder inside a worker: packing, number formats, other engines, and the choice among them.

Brings in torch; imported by families inside `load` and by nothing else.
"""
