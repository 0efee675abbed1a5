"""Language models through transformers: folders with safetensors, of every architecture that it batches, on CPU exactly
as its own `generate` answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cluster import errors
from cluster.catalog.entry import Source
from cluster.facts import ModelFacts
from cluster.names import cut
from cluster.value import JsonObject
from cluster.weights.memory import MemoryPlan
from cluster.worker.family import Prospect, Setup
from deployments.bits import config_for, taking_any_width
from deployments.device import dtype_for, dtype_name, refuse_foreign_code, torch_for
from deployments.llm.checkpoint import folder_of, plan_of_folder
from deployments.llm.forming import FormingEngine
from deployments.llm.habits import Habits
from deployments.llm.language import CallReadingOptions, LanguageFamily, refuse_echo
from deployments.llm.needs import kept_of, smaller
from deployments.llm.paged import PagedEngine
from deployments.llm.requests import Query
from deployments.llm.schemas import refuse_format
from deployments.llm.shape import PRECISIONS, shape_of_config
from deployments.llm.speculation import OPTIONS
from deployments.llm.token_masks import TokenForms
from deployments.llm.vocabulary import Vocabulary

Dtype = Literal["float32", "bfloat16", "float16"]


class PackingOptions(BaseModel):
    """How bitsandbytes packs the linear layers, in the words of transformers' BitsAndBytesConfig."""

    model_config = ConfigDict(extra="forbid")

    load_in_8bit: bool = False
    load_in_4bit: bool = False
    bnb_4bit_quant_type: Literal["fp4", "nf4"] = "fp4"
    bnb_4bit_use_double_quant: bool = False
    bnb_4bit_compute_dtype: Dtype | None = None

    @model_validator(mode="after")
    def _refuse_both(self) -> PackingOptions:
        if self.load_in_8bit and self.load_in_4bit:
            raise ValueError("load_in_8bit and load_in_4bit exclude each other")
        return self

    @property
    def bits(self) -> str | None:
        if self.load_in_4bit:
            return "nf4" if self.bnb_4bit_quant_type == "nf4" else "4-bit"
        return "8-bit" if self.load_in_8bit else None

    @property
    def number_format(self) -> str | None:
        return self.bnb_4bit_quant_type if self.load_in_4bit else "int8" if self.load_in_8bit else None


class TransformersOptions(CallReadingOptions):
    torch_dtype: Literal["auto"] | Dtype = Field(
        default="auto", description="Of weights and kept tokens: by default float32 on CPU and bfloat16 on a card."
    )
    quantization_config: JsonObject | None = Field(
        default=None, description='Packs the weights by bitsandbytes: {"load_in_8bit": true} or {"load_in_4bit": true}.'
    )

    @field_validator("quantization_config")
    @classmethod
    def _check_packing(cls, value: JsonObject | None) -> JsonObject | None:
        try:
            PackingOptions.model_validate(value or {})
        except ValidationError as error:
            problem = error.errors()[0]
            raise ValueError(f"{cut('.'.join(map(str, problem['loc'])))} {problem['msg']}".strip()) from None
        return value or None

    @property
    def packing(self) -> PackingOptions:
        return PackingOptions.model_validate(self.quantization_config or {})


class TransformersLanguage(LanguageFamily):
    engines: ClassVar[tuple[str, ...]] = ("transformers",)
    formats = ("pytorch",)
    has_grammars = True
    lacks = dict.fromkeys(OPTIONS, "it writes one token of each answer at a step: launch with model_engine=llamacpp")
    Options: ClassVar[type[TransformersOptions]] = TransformersOptions

    @classmethod
    def needed(cls, prospect: Prospect) -> Source:
        folder_of(prospect)
        return prospect.source

    @classmethod
    def plan(cls, prospect: Prospect) -> MemoryPlan:
        return plan_of_folder(prospect, cls.number_format(prospect), prospect.options.packing.bits)

    @classmethod
    def smaller(cls, prospect: Prospect) -> Iterator[JsonObject]:
        yield from super().smaller(prospect)
        yield from smaller(prospect)

    def load(self, setup: Setup) -> ModelFacts:
        options: TransformersOptions = setup.options
        dtype = dtype_name(options.torch_dtype, setup.device)
        habits = Habits.of(setup.entry)
        vocabulary = Vocabulary(setup.folder, habits)
        setup.report(0.2, "loading weights")
        model = _model(setup, dtype)
        setup.report(0.8)
        shape = shape_of_config(model.config.get_text_config().to_dict())
        context = min(options.context_length or shape.context, shape.context)
        kept = kept_of(shape, options, PRECISIONS[dtype])
        self._engine = PagedEngine(model, vocabulary.ends, kept, options.slots, setup.threads)
        width = model.config.get_text_config().vocab_size
        self._forming = FormingEngine(self._engine, TokenForms(setup.folder, vocabulary.ends, width))
        self.begins(vocabulary, self._forming, context, kept, options, options.tool_parser, habits)
        return self.facts_of("transformers", options.packing.number_format or dtype)

    def unload(self) -> None:
        self._forming.close()
        self._engine.close()

    def set_threads(self, threads: int) -> None:
        self._engine.threads = threads

    def refuse(self, query: Query) -> None:
        refuse_format(query.format)
        refuse_echo(query)


def _model(setup: Setup, dtype: str) -> Any:
    torch_for(setup)
    refuse_foreign_code(setup)
    from transformers import AutoModelForCausalLM

    try:
        model, about = AutoModelForCausalLM.from_pretrained(
            setup.folder,
            dtype=dtype_for(dtype, setup),
            device_map={"": setup.device},
            quantization_config=_packing(setup, dtype),
            local_files_only=True,
            trust_remote_code=setup.remote_code,
            use_safetensors=True,
            output_loading_info=True,
        )
    # What is wrong with a folder makes the library fail with any of these.
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, AttributeError) as error:
        reason = cut(next(iter(str(error).splitlines()), type(error).__name__))
        raise errors.LoadFailed(f"{setup.folder} cannot be loaded as a language model: {reason}") from error
    if about["missing_keys"]:
        missing = ", ".join(sorted(about["missing_keys"]))
        raise errors.LoadFailed(f"{setup.folder} lacks weights of its model: {missing[:300]}; fetch it again.")
    if not model._supports_attention_backend:
        raise errors.LoadFailed(
            f"{type(model).__name__} computes its attention in a way that transformers cannot batch: launch a GGUF "
            "file of it with model_engine=llamacpp."
        )
    return taking_any_width(model.eval())


def _packing(setup: Setup, dtype: str) -> Any:
    options: TransformersOptions = setup.options
    packing = options.packing
    if packing.bits is None:
        return None
    from transformers import PreTrainedModel

    computed = dtype_for(packing.bnb_4bit_compute_dtype or dtype, setup)
    return config_for(PreTrainedModel, packing.bits, computed, packing.bnb_4bit_use_double_quant)
