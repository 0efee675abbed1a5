"""The program that puts the ingress onto Ray: `python -m deployments.ingress.deploy`, what to serve on stdin."""

from __future__ import annotations

from cluster.runtime.serving import deploy
from deployments import preload
from deployments.ingress.app import deployed

if __name__ == "__main__":
    deploy(deployed, preload)
