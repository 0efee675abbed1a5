"""`python -m cluster.cli` is `cluster`."""

from cluster.cli import main

main(prog_name="cluster")
