"""Language models through vLLM: folders with safetensors, on cards, several of one machine together."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from cluster import environment, errors
from cluster.catalog.entry import Source
from cluster.facts import ModelFacts
from cluster.paths import local_path
from cluster.settings import Settings
from cluster.trust import may_run_code
from cluster.value import JsonObject
from cluster.weights.inventory import Inventory, read
from cluster.weights.memory import (
    BYTES_OF_DTYPE,
    CUDA_CONTEXT_BYTES,
    MemoryPlan,
    PlannedPart,
    weight_bytes,
)
from cluster.worker.family import UNKNOWN_WEIGHT_BYTES, Prospect, Setup
from deployments import allowed
from deployments.adapters import adapters_in
from deployments.device import brings_code, dtype_name, refuse_foreign_code
from deployments.llm.checkpoint import safetensors_of, text_config
from deployments.llm.habits import Habits
from deployments.llm.language import GB, CallReadingOptions, LanguageFamily, refuse_echo
from deployments.llm.needs import STEP_WIDTH, assumed_bytes, is_packed, kept_of, smaller
from deployments.llm.picture_tokens import picture_tokens_of, stand_ins_of
from deployments.llm.pictures import MOST_PICTURES
from deployments.llm.requests import Query
from deployments.llm.schemas import refuse_format
from deployments.llm.shape import PRECISIONS, Shape, shape_of_config
from deployments.llm.speculation import LOOKUP_TOKENS, SpeculatingOptions, draft_in, refuse_missing_draft
from deployments.llm.token_stream import MODEL, name_of_adapter
from deployments.llm.vllm_engine import PIXELS_AT_ONCE, SOCKET, VllmEngine
from deployments.llm.vocabulary import Vocabulary
from deployments.pictures import MOST_PIXELS, OPENING_BYTES

#: Tokens that are computed in one step at most; what a step takes of memory follows from it.
STEP_TOKENS = 4096
#: More of the cache than is promised: the last block of an answer may be all but empty.
SPARE_TOKENS = 64
#: Of its card by a model that has it for itself. The rest is what others than vLLM take of it.
MOST_SHARE = 0.92
#: What vLLM takes as the most that an adapter's rank may be.
LORA_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
#: Of an adapter whose files nobody has seen yet: its rank, and numbers for each rank, layer and number of the hidden
#: size. One of an 8B model has 168 million.
USUAL_RANK, ADAPTER_WIDTH = 64, 20
#: Of each card beside CUDA itself: recorded graphs, and the buffers of its libraries.
GRAPH_BYTES = 1_500_000_000
#: Main memory of the server and of the process for each card, and of all where there is none.
SERVER_BYTES, CORE_BYTES, CPU_BYTES = 2_000_000_000, 3_000_000_000, 2_500_000_000
#: Main memory for pictures that have been prepared, in gigabytes; and of each pixel on its way to that: 4 bytes in the
#: worker, in the body that the server has read and in the text within, each of which is base64, 12 as numbers in the
#: server and in the core, and as many again for a moment.
PICTURE_CACHE_GB, PIXEL_BYTES = 1, 40
PICTURE_BYTES = MOST_PIXELS * OPENING_BYTES + PIXELS_AT_ONCE * PIXEL_BYTES
#: A load that writes nothing for so long, as a part of what the supervisor waits for, is over.
SILENT_SHARE = 0.9
#: How far the weights are, of the way to a loaded model, before the engine starts.
STARTED = 0.1


class VllmOptions(CallReadingOptions, SpeculatingOptions):
    torch_dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="Of weights and kept tokens: by default float32 on CPU and bfloat16 on a card."
    )
    quantize: Literal["fp8", "bitsandbytes"] | None = Field(
        default=None, description="Packs the weights while they are loaded. Those that are packed already stay so."
    )
    lora_modules: Annotated[dict[str, str], BeforeValidator(adapters_in)] = Field(
        default_factory=dict, description="LoRA adapters that requests may name: names with folders."
    )
    enforce_eager: bool = Field(
        default=False, description="Records and compiles nothing: loads sooner, and writes slower."
    )


#: For models that see: most pictures of a request, and memory for those that come again.
SEEING = {
    "limit-mm-per-prompt": json.dumps({"image": MOST_PICTURES, "video": 0}),
    "mm-processor-cache-gb": PICTURE_CACHE_GB,
}


def _end_worker() -> None:
    """A new process has to start a new engine; whoever waits for this one is answered there."""
    os._exit(70)


class VllmLanguage(LanguageFamily):
    engines: ClassVar[tuple[str, ...]] = ("vllm",)
    Options: ClassVar[type[VllmOptions]] = VllmOptions
    formats = ("pytorch", "fp8", "gptq", "awq")
    has_grammars = True
    is_elsewhere = True
    #: Called when the engine has been lost.
    lost: Callable[[], None] = staticmethod(_end_worker)

    @classmethod
    def missing(cls, settings: Settings) -> str:
        return "" if settings.vllm_command.strip() else "needs vLLM: see CLUSTER_VLLM_COMMAND"

    @classmethod
    def needed(cls, prospect: Prospect) -> Source:
        _command_of(prospect.settings.vllm_command)
        for folder in prospect.options.lora_modules.values():
            allowed(local_path(folder, "lora_modules"), prospect.settings, "lora_modules")
        _refuse_draft_at_the_door(prospect)
        inventory, cards = safetensors_of(prospect, "vLLM"), _cards_of(prospect)
        if inventory is not None:
            heads = shape_of_config(text_config(inventory)).heads
            if heads % cards:
                raise errors.BadOption(
                    f"The model's {heads} heads cannot be shared out over {cards} cards: give a number that divides "
                    "them.",
                    "n_gpu",
                )
        return prospect.source

    @classmethod
    def plan(cls, prospect: Prospect) -> MemoryPlan:
        return _plan(prospect, cls.number_format(prospect))

    @classmethod
    def smaller(cls, prospect: Prospect) -> Iterator[JsonObject]:
        yield from super().smaller(prospect)
        yield from smaller(prospect)

    def load(self, setup: Setup) -> ModelFacts:
        options: VllmOptions = setup.options
        refuse_foreign_code(setup)
        if options.draft_model is not None:
            _refuse_unsafe_draft(local_path(options.draft_model, "draft_model"), setup.remote_code)
        self.adapters = options.lora_modules
        habits = Habits.of(setup.entry)
        vocabulary = Vocabulary(setup.folder, habits)
        inventory = read(setup.folder)
        shape, self.sees = shape_of_config(text_config(inventory)), picture_tokens_of(inventory.config())
        self.stand_ins = stand_ins_of(inventory.config())
        dtype = dtype_name(options.torch_dtype, setup.device)
        kept = kept_of(shape, options, PRECISIONS[dtype])
        context = min(options.context_length or shape.context, shape.context, kept)
        command = [
            *_command_of(setup.settings.vllm_command),
            *_arguments(setup, shape, dtype, kept, context, self.sees is not None),
        ]
        self._running = VllmEngine(command, _environment(setup), vocabulary.ends, self.lost)
        self._running.load(
            lambda fraction: setup.report(STARTED + (1 - STARTED) * fraction),
            SILENT_SHARE * setup.settings.load_stall_s,
        )
        self.begins(vocabulary, self._running, context, kept, options, options.tool_parser, habits)
        return self.facts_of("vllm", options.quantize or dtype)

    def unload(self) -> None:
        self._running.close()

    def refuse(self, query: Query) -> None:
        refuse_echo(query)
        refuse_format(query.format)


def _command_of(setting: str) -> list[str]:
    command = shlex.split(setting)
    if not command:
        raise errors.BadOption(
            "vLLM is not installed here: put it into an environment of its own, and start the cluster with "
            "CLUSTER_VLLM_COMMAND='/that/bin/python -m vllm.entrypoints.openai.api_server'.",
            "model_engine",
        )
    return command


def _arguments(setup: Setup, shape: Shape, dtype: str, kept: int, context: int, sees: bool) -> list[str]:
    options: VllmOptions = setup.options
    cards = max(1, setup.cards)
    kept_bytes = (kept + SPARE_TOKENS * options.slots) * shape.bytes_per_token(PRECISIONS[dtype])
    named = {
        "model": setup.folder,
        "served-model-name": MODEL,
        "uds": SOCKET,
        "dtype": dtype,
        "max-model-len": context,
        "max-num-seqs": options.slots,
        "max-num-batched-tokens": STEP_TOKENS,
        "kv-cache-memory-bytes": kept_bytes // min(cards, shape.kv_heads),
        "gpu-memory-utilization": round(min(setup.card_share, MOST_SHARE), 3),
        "tensor-parallel-size": cards,
        # Sampling that is asked for comes with each request.
        "generation-config": "vllm",
        **_adapter_arguments(options),
        **(SEEING if sees else {}),
        **_speculation(options),
        **({"quantization": options.quantize} if options.quantize else {}),
        **({} if setup.allow_pickle or options.quantize == "bitsandbytes" else {"load-format": "safetensors"}),
    }
    flags = {
        "enable-prefix-caching": True,
        "enable-prompt-tokens-details": True,
        "disable-uvicorn-access-log": True,
        "enable-lora": bool(options.lora_modules),
        "enforce-eager": options.enforce_eager,
        "trust-remote-code": setup.remote_code,
    }
    words = [word for name, value in named.items() for word in (f"--{name}", *map(str, _listed(value)))]
    return [*words, *(f"--{name}" for name, is_set in flags.items() if is_set)]


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _adapter_arguments(options: VllmOptions) -> dict[str, object]:
    if not options.lora_modules:
        return {}
    rows = [{"name": name_of_adapter(name), "path": path} for name, path in options.lora_modules.items()]
    most = max(_rank_of(Path(path)) for path in options.lora_modules.values())
    return {
        "lora-modules": [json.dumps(row) for row in rows],
        # One that is not among them is refused by the engine, in words that say so.
        "max-lora-rank": next((rank for rank in LORA_RANKS if rank >= most), most),
        "max-loras": min(len(rows), options.slots),
    }


def _speculation(options: VllmOptions) -> dict[str, object]:
    if options.draft_model is not None:
        draft = str(local_path(options.draft_model, "draft_model"))
        config: JsonObject = {"method": "draft_model", "model": draft}
    elif options.prompt_lookup:
        config = {"method": "ngram", "prompt_lookup_max": LOOKUP_TOKENS, "prompt_lookup_min": 2}
    else:
        return {}
    return {"speculative-config": json.dumps({**config, "num_speculative_tokens": options.guessed})}


def _refuse_draft_at_the_door(prospect: Prospect) -> None:
    refuse_missing_draft(prospect, "a folder with safetensors")
    if (draft := draft_in(prospect)) is not None:
        is_trusted = may_run_code(prospect.entry, prospect.source, prospect.settings.remote_code)
        _refuse_unsafe_draft(draft.place, is_trusted)


def _refuse_unsafe_draft(folder: Path, is_model_trusted: bool) -> None:
    """vLLM loads the draft with the trust that the model has, also in pickles: but nobody has trusted the draft."""
    if not any(folder.glob("*.safetensors")):
        raise errors.BadOption(f"draft_model takes a folder with safetensors, and {folder} has none.", "draft_model")
    if is_model_trusted and brings_code(folder):
        raise errors.BadOption(
            f"draft_model {folder} brings code of its own (auto_map in its config), which nobody has trusted, though "
            "the model's is: take a draft without code.",
            "draft_model",
        )


def _rank_of(adapter: Path) -> int:
    if not (adapter / "adapter_model.safetensors").exists():
        raise errors.LoadFailed(
            f"lora_modules: {adapter} has no adapter_model.safetensors: an adapter is a folder as peft saves it."
        )
    try:
        return int(json.loads((adapter / "adapter_config.json").read_text())["r"])
    except (OSError, ValueError, KeyError, TypeError):
        raise errors.LoadFailed(f"lora_modules: {adapter} has no adapter_config.json that says its rank.") from None


def _environment(setup: Setup) -> dict[str, str]:
    """Nothing of ours, whose libraries are others."""
    variables = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    variables |= {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", ""), "PYTHONUNBUFFERED": "1"}
    if setup.device == "cpu":
        variables |= {"OMP_NUM_THREADS": str(setup.threads), "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    return environment.for_child(**variables)


def _cards_of(prospect: Prospect) -> int:
    wish = prospect.spec.n_gpu
    if prospect.spec.gpu_idx is not None:
        return max(1, len(prospect.spec.gpu_idx) // prospect.spec.replica)
    return max(1, int(wish)) if isinstance(wish, (int, float)) else 1


def _plan(prospect: Prospect, dtype: str) -> MemoryPlan:
    options: VllmOptions = prospect.options
    item, precision, cards = BYTES_OF_DTYPE[dtype], PRECISIONS[dtype], _cards_of(prospect)
    inventory: Inventory | None = safetensors_of(prospect, "vLLM")
    share = {None: 1.0, "fp8": 1 / item, "bitsandbytes": 0.6 / item}[options.quantize]
    if inventory is None:
        # Two bytes for each number, unless they are packed.
        weights, kept = assumed_bytes(prospect.source) or prospect.entry.weight_bytes or UNKNOWN_WEIGHT_BYTES, 0
        if is_packed(prospect.source):
            share = 1.0
        else:
            weights = weights * item // 2
        kept_bytes = step = int(options.cache_gb * GB)
        adapters = 0
    else:
        shape = shape_of_config(text_config(inventory))
        weights, kept = weight_bytes(inventory, item), kept_of(shape, options, precision)
        kept_bytes = (kept + SPARE_TOKENS * options.slots) * shape.bytes_per_token(precision)
        adapter = USUAL_RANK * shape.layers * shape.hidden * ADAPTER_WIDTH * item
        adapters = len(options.lora_modules) * adapter
        step = STEP_TOKENS * shape.hidden * STEP_WIDTH * item + options.slots * shape.vocabulary * 4 * 3
    weights = int(weights * share) + adapters + _draft_bytes(prospect, item)
    if prospect.on_card:
        home, fixed, host = "card", cards * (CUDA_CONTEXT_BYTES + GRAPH_BYTES), SERVER_BYTES + cards * CORE_BYTES
    else:
        home, fixed, host = "main memory", CPU_BYTES, 0
    if inventory is not None and picture_tokens_of(inventory.config()) is not None:
        seeing = PICTURE_CACHE_GB * GB + PICTURE_BYTES
        fixed, host = (fixed, host + seeing) if prospect.on_card else (fixed + seeing, host)
    parts = (
        PlannedPart("model", prospect.entry.family, dtype, options.quantize or "none", weights, home),
        PlannedPart(f"{kept or 'its'} tokens", "cache", precision, "none", kept_bytes, home),
    )
    activations = cards * step
    return MemoryPlan(parts, activations, fixed, 0, weights + kept_bytes + activations + fixed, host)


def _draft_bytes(prospect: Prospect, item: int) -> int:
    """The draft model's weights, and its tokens beside the model's."""
    draft = draft_in(prospect)
    if draft is None:
        return 0
    shape = shape_of_config(text_config(draft))
    precision = {4: "f32"}.get(item, "f16")
    return weight_bytes(draft, item) + kept_of(shape, prospect.options, precision) * shape.bytes_per_token(precision)
