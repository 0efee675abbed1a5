"""The routes of the web interface that made local diffusion known, as its many clients call them: `/sdapi/v1`.

What would change the picture and is not done here is refused; what such clients send beside it is passed over.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any, NamedTuple, TypeVar

import orjson
import psutil
from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from cluster import errors, keys
from cluster.calls import View
from cluster.names import cut
from cluster.routes import ModelRoutes
from cluster.value import JsonObject
from deployments.abilities import TASKS
from deployments.image.facts import ImageFacts
from deployments.image.http import forms, masks, schemas
from deployments.image.http.forms import ImageFields
from deployments.image.http.images import ImageOrder, Images, as_base64
from deployments.image.http.masks import Cut, Inpaint
from deployments.image.pictures import parameters_of
from deployments.image.requests import MOST_PREVIEWS, DrawnPicture
from deployments.image.samplers import DEFAULT, NAMES, OWN, SCHEDULES
from deployments.ingress.bodies import Json, checked, json_body
from deployments.ingress.dialects import Services
from deployments.ingress.files import Shelf
from deployments.ingress.media import MediaReader
from deployments.ingress.openapi import described

_LORA = re.compile(r"<lora:([^:>]+)(?::(-?[\d.]+))?[^>]*>")

#: Fields that would change the picture and are not served, each with what to do instead.
UNSERVED = {
    "enable_hr": "Upscaling in a second pass is not served; ask for the size itself.",
    "restore_faces": "Restoring faces is not served.",
    "tiling": "Pictures that tile are not served.",
    "subseed_strength": "Mixing two seeds is not served.",
    "styles": "Styles are not kept here; write them into the prompt.",
    "script_name": "Scripts are not run here.",
    "refiner_checkpoint": "A second model that refines is not served.",
}


class Text2Image(BaseModel):
    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    #: Xinference's.
    model: str | None = None
    prompt: str = ""
    negative_prompt: str = ""
    seed: int = Field(default=-1, ge=-1)
    steps: int | None = None
    cfg_scale: float | None = None
    distilled_cfg_scale: float | None = None
    width: int | None = None
    height: int | None = None
    sampler_name: str | None = None
    sampler_index: str | None = None
    scheduler: str = ""
    batch_size: int = Field(default=1, ge=1)
    n_iter: int = Field(default=1, ge=1)
    denoising_strength: float | None = None
    override_settings: JsonObject = Field(default_factory=dict)
    alwayson_scripts: JsonObject = Field(default_factory=dict)
    send_images: bool = True


Drawn = TypeVar("Drawn", bound=Text2Image)


class Image2Image(Text2Image):
    init_images: list[str] = Field(min_length=1, max_length=16)
    #: 0 stretches what has another shape, 1 cuts off, 2 adds borders.
    resize_mode: int = Field(default=0, ge=0, le=2)
    mask: str | None = None
    mask_blur: float = Field(default=4.0, ge=0, le=256)
    inpainting_mask_invert: bool = False
    inpaint_full_res: bool = True
    inpaint_full_res_padding: int = Field(default=0, ge=0, le=4096)


class Options(BaseModel):
    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    sd_model_checkpoint: str | None = None


class PngInfo(BaseModel):
    image: str


class InputPictures(NamedTuple):
    """The pictures that a request starts from, and which part of them is redrawn."""

    images: tuple[bytes, ...]
    mask: bytes | None = None
    cut: Cut | None = None
    whole: bytes = b""


class WebUi:
    def __init__(self, services: Services) -> None:
        self._images = services.shared(Images)
        self._settings = services.settings
        self._dispatcher = services.dispatcher
        self._progress = services.progress
        self._media = MediaReader(self._settings)
        #: The model that each key has chosen, which its clients do by a request of its own.
        self._chosen = Shelf(self._settings.home / "sdapi", float("inf"))

    # ------------------------------------------------------------------------------------------------- models

    def models(self, key: keys.Key | None) -> list[ModelRoutes]:
        return self._dispatcher.table.able(key, TASKS)

    async def chosen(self, key: keys.Key | None) -> str | None:
        """The model that was chosen, if it still runs; else the first there is."""
        data = await asyncio.to_thread(self._chosen.get, _file_of(key))
        uids = [model.uid for model in self.models(key)]
        uid = orjson.loads(data)["sd_model_checkpoint"] if data else None
        return uid if uid in uids else next(iter(uids), None)

    async def choose(self, key: keys.Key | None, uid: str) -> None:
        if uid not in [model.uid for model in self.models(key)]:
            raise errors.BadRequest(f"Unknown model: {cut(uid)}", "sd_model_checkpoint")
        await asyncio.to_thread(self._chosen.put, _file_of(key), orjson.dumps({"sd_model_checkpoint": uid}))

    # ------------------------------------------------------------------------------------------------ pictures

    async def draw(self, request: Request, body: Text2Image) -> Json:
        started = time.time()
        request.state.request_id = request_id_of(request.state.key)
        settings = body.override_settings
        name = body.model or settings.get("sd_model_checkpoint") or await self.chosen(request.state.key)
        options = options_of(body)
        inputs = await self._inputs(body, options) if isinstance(body, Image2Image) else InputPictures(())
        options |= {"images": inputs.images} if inputs.images else {}
        options |= {"mask": inputs.mask} if inputs.mask is not None else {}
        task: Any = "text2image" if not inputs.images else "image2image" if inputs.mask is None else "inpainting"
        ask: ImageFields = checked(ImageFields, {"model": name})
        order = await self._images.order(request, task, ask, options, "image_generation")
        drawn = await self._images.draw(request, order)
        drawn = await asyncio.to_thread(self._put_back, drawn, inputs)
        encoded = await asyncio.to_thread(lambda: [as_base64(picture.data) for picture in drawn])
        hidden = {"init_images", "mask"}
        return Json(
            {
                "images": encoded if body.send_images else [],
                "parameters": body.model_dump(exclude=hidden),
                "info": info_of(body, order, drawn, started),
            }
        )

    async def _inputs(self, asked: Image2Image, options: JsonObject) -> InputPictures:
        most = self._settings.max_image_pixels
        read = await self._media.read([{"image": text} for text in asked.init_images], "init_images")
        images = tuple(item["image"] for item in read)
        mask = None
        if asked.mask is not None:
            (item,) = await self._media.read([{"image": asked.mask}], "mask")
            mask = item["image"]
        files = [("init_images", data) for data in images] + ([("mask", mask)] if mask else [])
        await forms.check_pictures(files, self._settings)
        size = asked.width, asked.height
        if asked.resize_mode and size[0] and size[1]:
            shape = size[0], size[1], asked.resize_mode
            forms.drawing_of({"width": shape[0], "height": shape[1]})
            images = tuple([await asyncio.to_thread(_fitted, data, shape, most) for data in images])
            mask = mask and await asyncio.to_thread(_fitted, mask, shape, most)
        if mask is None:
            return InputPictures(images)
        how = Inpaint(
            asked.mask_blur, asked.inpainting_mask_invert, asked.inpaint_full_res, asked.inpaint_full_res_padding
        )
        own = await asyncio.to_thread(masks.size_of, images[0], "init_images")
        width, height = size[0] or own[0], size[1] or own[1]
        forms.drawing_of({"width": width, "height": height})
        options |= {"width": width, "height": height}
        cut = await asyncio.to_thread(masks.cut, images[0], mask, how, width / height, most)
        return InputPictures((cut.image, *images[1:]), cut.mask, cut, images[0])

    def _put_back(self, drawn: list[DrawnPicture], given: InputPictures) -> list[DrawnPicture]:
        """Puts redrawn parts back into their pictures. Blocks: call it in a thread."""
        if given.cut is None or given.cut.box is None:
            return drawn
        most = self._settings.max_image_pixels
        width, height = masks.size_of(given.whole, "init_images")
        return [
            picture._replace(data=masks.pasted(picture.data, given.whole, given.cut, most), width=width, height=height)
            for picture in drawn
        ]

    # ----------------------------------------------------------------------------------------------- progress

    async def seen(self, key: keys.Key | None) -> View | None:
        return await self._progress.find(key, request_id_of(key))

    async def interrupt(self, key: keys.Key | None) -> None:
        owner = keys.owner_of(request_id_of(key), key.id if key else None)
        await asyncio.gather(*(self._dispatcher.abort(model, owner) for model in self.models(key)))

    async def texts_in(self, text: str) -> dict[str, str]:
        (item,) = await self._media.read([{"image": text}], "image")
        await forms.check_pictures([("image", item["image"])], self._settings)
        return await asyncio.to_thread(masks.texts_in, item["image"], self._settings.max_image_pixels)


def router(services: Services) -> APIRouter:
    routes = APIRouter(prefix="/sdapi/v1", tags=["sdapi"])
    webui = WebUi(services)

    @routes.post("/txt2img")
    @described("Draw pictures from a text", schemas.WebUiPictures, body=Text2Image)
    async def txt2img(request: Request) -> Json:
        return await webui.draw(request, read(Text2Image, await json_body(request)))

    @routes.post("/img2img")
    @described("Change pictures", schemas.WebUiPictures, body=Image2Image)
    async def img2img(request: Request) -> Json:
        return await webui.draw(request, read(Image2Image, await json_body(request)))

    @routes.get("/options")
    @described("The chosen model", schemas.WebUiOptions)
    async def options(request: Request) -> Json:
        return Json({"sd_model_checkpoint": await webui.chosen(request.state.key), "samples_format": "png"})

    @routes.post("/options")
    @described("Choose a model", None, body=Options)
    async def set_options(request: Request) -> Json:
        """Of all that can be set there, only the model means anything here."""
        body: Options = checked(Options, await json_body(request))
        if body.sd_model_checkpoint is not None:
            await webui.choose(request.state.key, body.sd_model_checkpoint)
        return Json(None)

    @routes.get("/sd-models")
    @described("The models that draw", list[schemas.WebUiModel])
    async def models(request: Request) -> Json:
        unknown = {"hash": None, "sha256": None, "config": None}
        uids = [model.uid for model in webui.models(request.state.key)]
        return Json([{"title": uid, "model_name": uid, "filename": uid, **unknown} for uid in uids])

    @routes.get("/samplers")
    @described("The samplers", list[schemas.WebUiSampler])
    async def samplers() -> Json:
        return Json([{"name": name, "aliases": [], "options": {}} for name in NAMES])

    @routes.get("/schedulers")
    @described("The schedulers", list[schemas.WebUiScheduler])
    async def schedulers() -> Json:
        return Json([{"name": name.lower().replace(" ", "_"), "label": name, "aliases": []} for name in SCHEDULES])

    @routes.get("/loras")
    @described("The LoRAs of the models", list[schemas.WebUiLora])
    async def loras(request: Request) -> Json:
        loaded = [model.facts.opened(ImageFacts) for model in webui.models(request.state.key)]
        names = dict.fromkeys(name for facts in loaded if facts for name in facts.loras)
        rows = [{"name": name, "alias": name, "path": name, "metadata": {}} for name in names]
        return Json(rows)

    @routes.get("/upscalers")
    @described("The upscalers, of which there are none", list[JsonObject])
    async def upscalers() -> Json:
        return Json([])

    @routes.get("/memory")
    @described("The memory of the machine that answers", schemas.WebUiMemory)
    async def memory() -> Json:
        """Of the machine that answers; models may live on others, see /v1/workers."""
        machine = psutil.virtual_memory()
        return Json({"ram": {"free": machine.available, "used": machine.used, "total": machine.total}, "cuda": {}})

    @routes.get("/progress")
    @described("The progress of the drawing", schemas.WebUiProgress)
    async def progress(request: Request, skip_current_image: bool = False) -> Json:
        return Json(progress_of(await webui.seen(request.state.key), skip_current_image))

    @routes.post("/interrupt")
    @described("Stop the drawing", JsonObject)
    async def interrupt(request: Request) -> Json:
        await webui.interrupt(request.state.key)
        return Json({})

    @routes.post("/png-info")
    @described("The parameters that a picture was made with", schemas.WebUiInfo, body=PngInfo)
    async def png_info(request: Request) -> Json:
        body: PngInfo = checked(PngInfo, await json_body(request))
        texts = await webui.texts_in(body.image)
        info = texts.get("parameters") or texts.get("receipt", "")
        return Json({"info": info, "items": texts, "parameters": parameters_in(info)})

    return routes


def read(schema: type[Drawn], body: JsonObject) -> Drawn:
    """The fields of the body; refuses those that would change the picture and are not served."""
    for name, sentence in UNSERVED.items():
        if not _is_unset(body.get(name)):
            raise errors.BadRequest(sentence, name)
    fields = checked(schema, {name: value for name, value in body.items() if value is not None})
    for script, value in fields.alwayson_scripts.items():
        if not _has_work(value):
            continue
        if script.lower() == "controlnet":
            raise errors.BadRequest(
                "alwayson_scripts cannot drive ControlNet here; launch the model with controlnet=… and send "
                "control_image to /v1/images/generations.",
                "alwayson_scripts",
            )
        raise errors.BadRequest(f"The script {script!r:.100} is not run here.", "alwayson_scripts")
    return fields


def _is_unset(value: object) -> bool:
    """False, nothing, or a word for either, as forms and some clients send it."""
    return not value or (isinstance(value, str) and value.strip().lower() in ("false", "no", "off", "0", "none", ""))


def _has_work(script: object) -> bool:
    """Whether a script is asked for anything: clients send all that they know, each switched off."""
    arguments = script.get("args", script) if isinstance(script, dict) else script
    units = arguments if isinstance(arguments, list) else [arguments] if arguments else []
    return any(not _is_unset(unit.get("enabled", True) if isinstance(unit, dict) else unit) for unit in units)


def options_of(asked: Text2Image) -> JsonObject:
    """The fields of a `Drawing` for what is asked for here."""
    prompt, loras = loras_in(asked.prompt)
    guidance, layers = asked.cfg_scale, asked.override_settings.get("CLIP_stop_at_last_layers")
    # Clients of guidance-distilled models send this one, and 1 for the usual one.
    if asked.distilled_cfg_scale is not None and guidance in (None, 1.0):
        guidance = asked.distilled_cfg_scale
    options = {
        "prompt": prompt,
        "negative_prompt": asked.negative_prompt or None,
        "n": asked.batch_size * asked.n_iter,
        "width": asked.width,
        "height": asked.height,
        "num_inference_steps": asked.steps,
        "guidance_scale": guidance,
        "seed": forms.seed_of(asked.seed),
        "sampler_name": sampler_of(asked),
        "loras": loras or None,
        "clip_skip": layers - 1 if isinstance(layers, int) and layers > 1 else None,
        "strength": asked.denoising_strength if isinstance(asked, Image2Image) else None,
        # Clients show previews while they poll the progress.
        "partial_images": MOST_PREVIEWS,
        "output_format": "png",
    }
    return {name: value for name, value in options.items() if value is not None}


def loras_in(prompt: str) -> tuple[str, list[JsonObject]]:
    """The prompt without its `<lora:name:scale>`, and those."""
    loras = []
    for name, scale in _LORA.findall(prompt):
        try:
            loras.append({"name": name, "scale": float(scale or 1)})
        except ValueError:
            raise errors.InvalidBody(
                f"<lora:{cut(name)}:{cut(scale)}> has no number for its scale.", "prompt"
            ) from None
    return _LORA.sub("", prompt).strip(), loras


def sampler_of(asked: Text2Image) -> str | None:
    """The sampler and the schedule of its noise, which `Automatic` leaves as the sampler has it."""
    name, schedule = asked.sampler_name or asked.sampler_index or DEFAULT, asked.scheduler.strip()
    if schedule.lower() in OWN:
        return None if name.strip().lower() in OWN else name
    return name if name.lower().endswith(schedule.lower()) else f"{name} {schedule}"


def info_of(asked: Text2Image, order: ImageOrder, drawn: list[DrawnPicture], started: float) -> str:
    """A text of JSON within the JSON, as clients expect it."""
    seeds = [picture.seed for picture in drawn]
    first = drawn[0]
    info = {
        "prompt": asked.prompt,
        "all_prompts": [asked.prompt] * len(drawn),
        "negative_prompt": asked.negative_prompt,
        "all_negative_prompts": [asked.negative_prompt] * len(drawn),
        "seed": first.seed,
        "all_seeds": seeds,
        "subseed": -1,
        "all_subseeds": [-1] * len(drawn),
        "subseed_strength": 0,
        "width": first.width,
        "height": first.height,
        "sampler_name": first.receipt.get("sampler_name") or first.receipt.get("scheduler"),
        "steps": first.receipt.get("num_inference_steps", asked.steps),
        "cfg_scale": first.receipt.get("guidance_scale", asked.cfg_scale),
        "batch_size": asked.batch_size,
        "denoising_strength": asked.denoising_strength,
        "sd_model_name": order.model.uid,
        "sd_model_hash": None,
        "index_of_first_image": 0,
        "infotexts": [parameters_of(picture.receipt) for picture in drawn],
        "job_timestamp": time.strftime("%Y%m%d%H%M%S", time.localtime(started)),
        "receipts": [picture.receipt for picture in drawn],
    }
    return orjson.dumps(info, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS).decode()


def progress_of(view: View | None, skips_image: bool) -> JsonObject:
    is_open = view is not None and view.state in ("waiting", "running")
    if view is None or not is_open:
        view = View(0, "done")
    state = {
        "skipped": False,
        "interrupted": False,
        "stopping_generation": False,
        "job": view.stage if is_open else "",
        "job_count": int(is_open),
        "job_no": 0,
        "job_timestamp": "0",
        "sampling_step": view.step,
        "sampling_steps": view.steps,
    }
    image = as_base64(view.previews[-1]) if view.previews and not skips_image else None
    eta = view.eta_s or 0.0
    return {"progress": view.fraction, "eta_relative": eta, "state": state, "current_image": image, "textinfo": None}


def parameters_in(info: str) -> dict[str, str]:
    """What the last line of such a text says, by name."""
    line = info.strip().rpartition("\n")[2]
    return dict(re.findall(r"([A-Z][\w ]*): ([^,]+)(?:, |$)", line))


def request_id_of(key: keys.Key | None) -> str:
    """One id for all requests of a key: these clients know no ids, and mean whatever request is running."""
    return f"sdapi-{key.id if key else 'all'}"


def _file_of(key: keys.Key | None) -> str:
    return f"{key.id if key else 'all'}.json"


def _fitted(data: bytes, shape: tuple[int, int, int], most: int) -> bytes:
    return masks.fitted(data, shape[:2], shape[2], most, "init_images")
