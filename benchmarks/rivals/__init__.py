"""Servers to compare: ours and those of others, each started on loopback from an environment of its own."""
