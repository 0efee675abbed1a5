"""Xinference with its diffusers engine, which is given the folder as a model of the user's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import httpx

from benchmarks.rivals.server import Environment
from benchmarks.rivals.xinference import HERE, Xinference


class XinferenceImages(Xinference):
    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._folders = folders

    def _environment(self, environments: Path) -> Environment:
        return Environment(environments / "xinference-images", HERE / "xinference-images.txt", with_torch=True)

    def _launch(self, url: str, kind: str) -> str:
        name = f"benchmark-{kind}"
        entry = {
            "version": 2,
            "model_name": name,
            "model_family": "stable_diffusion",
            "model_id": None,
            "model_revision": None,
            "model_ability": ["text2image"],
            "controlnet": [],
            "model_uri": f"file://{self._folders[kind]}",
        }
        launch = {
            "model_uid": name,
            "model_name": name,
            "model_type": "image",
            "model_engine": "diffusers",
            # Once more: its cache, where it would put a link to the folder above, is not there in a new home.
            "model_path": str(self._folders[kind]),
            "n_gpu": None,
            # As the others; without it the numbers are of 16 bits, which this library has no fast kernels for on CPU.
            "torch_dtype": "float32",
        }
        with httpx.Client(base_url=url, timeout=300) as client:
            registered = client.post(
                "/v1/model_registrations/image", json={"model": json.dumps(entry), "persist": False}
            )
            if registered.status_code != 200:
                raise RuntimeError(f"The model was not registered: {registered.text[:500]}")
            launched = client.post("/v1/models", json=launch)
            if launched.status_code != 200:
                raise RuntimeError(f"The model was not launched: {launched.text[:500]}")
        return name
