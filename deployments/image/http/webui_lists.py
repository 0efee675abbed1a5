"""Lists that clients of A1111's web interface read before they draw, and that are empty here: errors would end them."""

from __future__ import annotations

from fastapi import APIRouter
from typing_extensions import TypedDict

from cluster.value import JsonObject
from deployments.ingress.bodies import Json
from deployments.ingress.dialects import Services
from deployments.ingress.openapi import described

#: Lists of which nothing is served, each with what is in it there.
EMPTY = {
    "sd-vae": "decoders",
    "latent-upscale-modes": "ways to enlarge latents",
    "hypernetworks": "hypernetworks",
    "face-restorers": "models that restore faces",
    "realesrgan-models": "models that enlarge",
    "prompt-styles": "saved prompts",
}


class WebUiScripts(TypedDict):
    txt2img: list[str]
    img2img: list[str]


class WebUiEmbeddings(TypedDict):
    loaded: JsonObject
    skipped: JsonObject


def router(services: Services) -> APIRouter:
    routes = APIRouter(prefix="/sdapi/v1", tags=["sdapi"])

    @described("Something of which there is none here", list[JsonObject])
    async def nothing() -> Json:
        return Json([])

    for name, words in EMPTY.items():
        routes.add_api_route(f"/{name}", nothing, methods=["GET"], summary=f"The {words}, of which there are none")

    @routes.get("/scripts")
    @described("The scripts, of which there are none", WebUiScripts)
    async def scripts() -> Json:
        return Json({"txt2img": [], "img2img": []})

    @routes.get("/embeddings")
    @described("The textual inversions, of which there are none", WebUiEmbeddings)
    async def embeddings() -> Json:
        return Json({"loaded": {}, "skipped": {}})

    @routes.get("/cmd-flags")
    @described("The flags that the server was started with, which are not told", JsonObject)
    async def flags() -> Json:
        return Json({})

    @routes.post("/refresh-checkpoints")
    @described("Look for models again, which is never needed", None)
    async def refresh() -> Json:
        return Json(None)

    return routes
