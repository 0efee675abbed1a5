"""The HTTP calls of programs that cannot be installed here, as their sources send them, and what they read of answers.

One function for each thing that a program does. Headers and fields are those of the program, also where they mean
nothing here; what a program refuses in an answer is refused as well, by reading it in the same way.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import httpx

Vectors = list[list[float]]
TIMEOUT_S = 60.0
#: What the openai package for JavaScript sends with every request.
OPENAI_NODE = {"Accept": "application/json", "User-Agent": "OpenAI/JS 4.104.0", "X-Stainless-Lang": "js"}


def told(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text[:500]
    return answer.json()


def post(url: str, body: Any, headers: dict[str, str] | None = None) -> Any:
    return told(httpx.post(url, json=body, headers=headers, timeout=TIMEOUT_S))


def get(url: str, headers: dict[str, str] | None = None, **params: Any) -> Any:
    return told(httpx.get(url, headers=headers, params=params, timeout=TIMEOUT_S))


# -------------------------------------------------------------------------------------------------------------- Dify


def dify_recognises_an_xinference_model(url: str, uid: str) -> tuple[str, int]:
    """Before it adds a model: its kind, and how many tokens of a text may be sent."""
    row = get(f"{url}/v1/models/{uid}", {"Authorization": "Bearer none"})
    assert row.get("model_type") == "embedding"
    return row.get("model_format", "ggmlv3"), row.get("max_tokens", 512)


def dify_embeds_by_xinference(url: str, uid: str, texts: Sequence[str]) -> tuple[Vectors, int]:
    """By the package xinference-client, with a handle that it makes itself, and reads the tokens of the answer."""
    from xinference_client.client.restful.restful_client import RESTfulEmbeddingModelHandle

    handle = RESTfulEmbeddingModelHandle(model_uid=uid, base_url=url, auth_headers={})
    answer = handle.create_embedding(input=list(texts))
    handle.close()
    return [row["embedding"] for row in answer["data"]], answer["usage"]["total_tokens"]


def dify_reranks_by_xinference(
    url: str, uid: str, query: str, documents: Sequence[str]
) -> list[tuple[int, float, str]]:
    """By the package xinference-client: its handle without a description, which the check of a model's settings asks
    for before. Its first versions asked for no documents, and took what came."""
    from xinference_client.client.restful.restful_client import Client, RESTfulRerankModelHandle

    client = Client(base_url=url)
    opened = client.get_model(model_uid=uid)
    assert isinstance(opened, RESTfulRerankModelHandle)
    handle = RESTfulRerankModelHandle(uid, url, {"Authorization": "Bearer none"})
    bare = handle.rerank(documents=list(documents), query=query, top_n=2)["results"]
    full = handle.rerank(documents=list(documents), query=query, top_n=2, return_documents=True)["results"]
    assert [(row["index"], row["document"]) for row in bare] == [(row["index"], None) for row in full]
    for made in (opened, handle, client):
        made.close()
    return [(row["index"], row["relevance_score"], row["document"]["text"]) for row in full]


# ----------------------------------------------------------------------------------------------------------- RAGFlow


def ragflow_embeds_by_xinference(url: str, uid: str, texts: Sequence[str]) -> tuple[Vectors, int]:
    """By the openai package, sixteen texts at a time; vectors come as base64 then."""
    import openai

    with openai.OpenAI(api_key="x", base_url=f"{url}/v1") as client:
        vectors, tokens = [], 0
        for start in range(0, len(texts), 16):
            answer = client.embeddings.create(input=list(texts[start : start + 16]), model=uid)
            vectors += [row.embedding for row in answer.data]
            tokens += answer.usage.total_tokens
    return vectors, tokens


def ragflow_reranks_by_xinference(url: str, uid: str, query: str, texts: Sequence[str]) -> tuple[list[float], int]:
    """It writes booleans as texts, and reads the tokens of both kinds."""
    body = {"model": uid, "query": query, "return_documents": "true", "return_len": "true", "documents": list(texts)}
    headers = {"Content-Type": "application/json", "accept": "application/json"}
    answer = post(f"{url}/v1/rerank", body, headers)
    ranks = [0.0] * len(texts)
    for row in answer["results"]:
        ranks[row["index"]] = row["relevance_score"]
    tokens = answer["meta"]["tokens"]
    return ranks, tokens["input_tokens"] + tokens["output_tokens"]


def ragflow_embeds_by_ollama(url: str, uid: str, texts: Sequence[str]) -> Vectors:
    more = {"options": {"use_mmap": True}, "keep_alive": -1}
    many = post(f"{url}/api/embed", {"model": uid, "input": list(texts), **more})["embeddings"]
    one = post(f"{url}/api/embeddings", {"model": uid, "prompt": texts[0], **more})["embedding"]
    assert len(one) == len(many[0])
    return list(many)


# -------------------------------------------------------------------------------------------------------- Open WebUI


def open_webui_embeds(url: str, uid: str, texts: Sequence[str]) -> Vectors:
    user = {"X-OpenWebUI-User-Name": "me", "X-OpenWebUI-User-Role": "admin"}
    headers = {"Content-Type": "application/json", "Authorization": "Bearer", **user}
    return [
        row["embedding"] for row in post(f"{url}/v1/embeddings", {"input": list(texts), "model": uid}, headers)["data"]
    ]


def open_webui_reranks(url: str, uid: str, query: str, texts: Sequence[str]) -> list[float]:
    body = {"model": uid, "query": query, "documents": list(texts), "top_n": len(texts)}
    rows = post(f"{url}/v1/rerank", body, {"Authorization": "Bearer"})["results"]
    return [row["relevance_score"] for row in sorted(rows, key=lambda row: row["index"])]


def open_webui_draws_by_a1111(url: str, uid: str, prompt: str) -> bytes:
    """It reads all options, sends all of them back with another model in them, and draws."""
    headers = {"authorization": "Basic " + base64.b64encode(b"me:none").decode()}
    options = get(f"{url}/sdapi/v1/options", headers)
    if options["sd_model_checkpoint"] != uid:
        options["sd_model_checkpoint"] = uid
        post(f"{url}/sdapi/v1/options", options, headers)
    assert uid in [row["model_name"] for row in get(f"{url}/sdapi/v1/sd-models", headers)]
    body = {"prompt": prompt, "batch_size": 1, "width": 64, "height": 64, "steps": 2, "negative_prompt": ""}
    body |= {"cfg_scale": 7, "sampler_name": "DPM++ 2M", "scheduler": "Automatic"}
    answer = post(f"{url}/sdapi/v1/txt2img", body, headers)
    assert json.loads(answer["info"])["prompt"] == prompt
    return base64.b64decode(answer["images"][0])


def open_webui_draws_by_openai(url: str, uid: str, prompt: str) -> bytes:
    headers = {"Authorization": "Bearer none", "Content-Type": "application/json"}
    body = {"model": uid, "prompt": prompt, "n": 1, "size": "64x64", "response_format": "b64_json"}
    (row,) = post(f"{url}/v1/images/generations", body, headers)["data"]
    assert row.get("url") is None
    return base64.b64decode(row["b64_json"])


def open_webui_reads_by_mistral(url: str, document: bytes) -> list[str]:
    """With `use_base64`; the name of the model is in its source."""
    address = "data:application/pdf;base64," + base64.b64encode(document).decode()
    body = {
        "model": "mistral-ocr-latest",
        "document": {"type": "document_url", "document_url": address},
        "include_image_base64": False,
    }
    pages = post(f"{url}/v1/ocr", body, {"Authorization": "Bearer none", "Accept": "application/json"})["pages"]
    assert [page["index"] for page in pages] == list(range(len(pages)))
    return [page["markdown"] for page in pages]


def open_webui_reads_an_upload_by_mistral(url: str, document: bytes) -> list[str]:
    """Without `use_base64`: it uploads, has an address signed, reads that, and deletes the upload."""
    headers = {"Authorization": "Bearer none", "User-Agent": "OpenWebUI-MistralLoader/2.0"}
    upload = {"files": {"file": ("a b.pdf", document, "application/pdf")}, "data": {"purpose": "ocr"}}
    id = told(httpx.post(f"{url}/v1/files", **upload, headers=headers, timeout=TIMEOUT_S))["id"]
    signed = get(f"{url}/v1/files/{id}/url", {**headers, "Accept": "application/json"}, expiry=1)["url"]
    body = {
        "model": "mistral-ocr-latest",
        "document": {"type": "document_url", "document_url": signed},
        "include_image_base64": False,
    }
    pages = post(f"{url}/v1/ocr", body, {**headers, "Accept": "application/json"})["pages"]
    told(httpx.delete(f"{url}/v1/files/{id}", headers=headers, timeout=TIMEOUT_S))
    return [page["markdown"].strip() for page in pages if page["index"] is not None]


def open_webui_reads_by_an_external_service(url: str, document: bytes) -> list[str]:
    """The file is the body, and the slash at the end of the address that was set is taken off."""
    headers = {"Content-Type": "application/pdf", "Authorization": "Bearer none", "X-Filename": "a%20b.pdf"}
    user = {"X-OpenWebUI-User-Name": "me", "X-OpenWebUI-User-Role": "admin"}
    rows = told(httpx.put(f"{url}/process", content=document, headers={**headers, **user}, timeout=TIMEOUT_S))
    rows = rows if isinstance(rows, list) else [rows]
    assert all(row.get("metadata") for row in rows)
    return [row.get("page_content") for row in rows]


def open_webui_reads_by_paddleocr(url: str, document: bytes) -> list[str]:
    body = {"file": base64.b64encode(document).decode("ascii"), "fileType": 0}
    body |= dict.fromkeys(("useDocOrientationClassify", "useDocUnwarping", "useChartRecognition"), False)
    headers = {"Authorization": "token none", "Content-Type": "application/json"}
    rows = post(f"{url}/layout-parsing", body, headers).get("result", {}).get("layoutParsingResults", [])
    return [row.get("markdown", {}).get("text", "").strip() for row in rows]


# -------------------------------------------------------------------------------------------- AnythingLLM, FastGPT, n8n


def anythingllm_embeds(url: str, uid: str, texts: Sequence[str]) -> Vectors:
    """By the openai package for JavaScript, which asks for base64 of its own accord and decodes it."""
    body = {"model": uid, "input": list(texts), "encoding_format": "base64"}
    rows = post(f"{url}/v1/embeddings", body, {**OPENAI_NODE, "Authorization": "Bearer none"})["data"]
    return [_floats(row["embedding"]) for row in rows]


def fastgpt_embeds(url: str, uid: str, texts: Sequence[str]) -> tuple[Vectors, int]:
    """A text at a time, with what its settings say for stored texts."""
    vectors, tokens = [], 0
    for text in texts:
        body = {"model": uid, "input": [text], "encoding_format": "float"}
        answer = post(f"{url}/v1/embeddings", body, {**OPENAI_NODE, "Authorization": "Bearer none"})
        vectors.append(answer["data"][0]["embedding"])
        tokens += answer["usage"]["total_tokens"]
    return vectors, tokens


def fastgpt_reranks(url: str, uid: str, query: str, texts: Sequence[str]) -> list[tuple[int, float]]:
    body = {"model": uid, "query": query, "documents": list(texts)}
    answer = post(f"{url}/v1/rerank", body, {"Authorization": "Bearer none"})
    # Missing tokens it counts itself, and an object of them must have both numbers.
    tokens = (answer.get("meta") or {}).get("tokens")
    assert tokens is None or tokens["input_tokens"]
    return [(row["index"], row["relevance_score"]) for row in answer["results"]]


def n8n_embeds_by_openai(url: str, uid: str, texts: Sequence[str]) -> Vectors:
    """Its credentials are tested by the list of models; line breaks are taken out of texts first. LangChain's class for
    JavaScript sends the texts by the openai package, which asks for base64 where nothing else is said."""
    headers = {**OPENAI_NODE, "Authorization": "Bearer none"}
    assert uid in [row["id"] for row in get(f"{url}/v1/models", headers)["data"]]
    plain = [text.replace("\n", " ") for text in texts]
    body = {"model": uid, "input": plain, "encoding_format": "base64"}
    return [_floats(row["embedding"]) for row in post(f"{url}/v1/embeddings", body, headers)["data"]]


def n8n_embeds_by_ollama(url: str, uid: str, texts: Sequence[str]) -> Vectors:
    """Its credentials are tested by the root of the address, its list of models is Ollama's; LangChain's class for
    JavaScript sends nothing but the model and the texts where nothing else is set."""
    headers = {"Authorization": "Bearer none"}
    told(httpx.get(f"{url}/", headers=headers, timeout=TIMEOUT_S))
    assert uid in [row["name"] for row in get(f"{url}/api/tags", headers)["models"]]
    return list(post(f"{url}/api/embed", {"model": uid, "input": list(texts)}, headers)["embeddings"])


def n8n_reranks(url: str, uid: str, query: str, texts: Sequence[str]) -> list[tuple[int, float]]:
    """Its node for servers that follow OpenAI. Those for Cohere and Voyage have no field for an address."""
    body = {"model": uid, "query": query, "documents": list(texts), "top_n": 10}
    headers = {"Content-Type": "application/json", "Authorization": "Bearer none"}
    rows = sorted(post(f"{url}/v1/rerank", body, headers)["results"], key=lambda row: -row["relevance_score"])
    return [(row["index"], row["relevance_score"]) for row in rows if 0 <= row["index"] < len(texts)]


# ------------------------------------------------------------------------------------------------------- SillyTavern


def sillytavern_draws(url: str, uid: str, prompt: str) -> bytes:
    """All that its page lists, the choice of a model, and a picture."""
    headers = {"Authorization": "Basic"}

    def listed(name: str) -> Any:
        return get(f"{url}/sdapi/v1/{name}", headers)

    assert "sd_model_checkpoint" in listed("options")
    for name in ("upscalers", "latent-upscale-modes", "sd-vae"):
        assert isinstance(listed(name), list)
    samplers = [row["name"] for row in listed("samplers")]
    schedulers = [row["name"] for row in listed("schedulers")]
    assert uid in [row["title"] for row in listed("sd-models")]
    post(f"{url}/sdapi/v1/options", {"sd_model_checkpoint": uid}, headers)
    # Forge's list of decoders is asked for as well; where it is missing, the other one counts.
    httpx.get(f"{url}/sdapi/v1/sd-modules", headers=headers)
    progress = listed("progress")
    assert progress["progress"] == 0.0 and progress["state"]["job_count"] == 0
    body = {
        "url": url,
        "auth": "",
        "prompt": prompt,
        "negative_prompt": "lowres",
        "sampler_name": samplers[1],
        "scheduler": schedulers[-1],
        "steps": 2,
        "cfg_scale": 7,
        "width": 64,
        "height": 64,
        "restore_faces": False,
        "enable_hr": False,
        "hr_upscaler": "Latent",
        "hr_scale": 1.5,
        "hr_additional_modules": [],
        "denoising_strength": 0.7,
        "hr_second_pass_steps": 0,
        "override_settings": {"CLIP_stop_at_last_layers": 1},
        "override_settings_restore_afterwards": True,
        "clip_skip": 1,
        "save_images": True,
        "send_images": True,
        "do_not_save_grid": False,
        "do_not_save_samples": False,
    }
    # Before it draws, it looks whether this is Forge, which takes one setting more.
    assert "forge_preset" not in listed("options")
    return base64.b64decode(post(f"{url}/sdapi/v1/txt2img", body, headers)["images"][0])


def _floats(text: str) -> list[float]:
    import numpy as np

    return list(np.frombuffer(base64.b64decode(text), dtype="<f4").astype(float))
