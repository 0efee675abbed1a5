"""What a model of llama.cpp sees with: how it is found, refused, and counted."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from cluster import errors
from cluster.launch import LaunchSpec, Wanted
from cluster.settings import Settings
from cluster.weights.locate import choose
from cluster.worker.planning import plan_of
from deployments import catalog_with, resolve
from deployments.llm.projector import Projector, projector_in
from tests import seeing


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return seeing.save_seeing(tmp_path_factory.mktemp("seeing"))


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "models" / "m"))


def wanted(place: Path, roots: tuple[Path, ...] = (), **options: Any) -> Wanted:
    settings = Settings(home=Path("/nonexistent"), model_roots=roots)
    spec = LaunchSpec(model_name="m", model_type="llm", model_path=str(place), model_engine="llamacpp", options=options)
    return resolve(spec, catalog_with([], settings), settings)


def eyes(place: Path, **options: Any) -> list[int]:
    """The bytes of those in the plan."""
    settings = Settings(home=Path("/nonexistent"))
    plan = plan_of(wanted(place, **options), settings, on_card=False)
    assert plan is not None
    return [part.bytes for part in plan.parts if part.slot == "projector"]


def test_the_only_one_of_the_folder_is_counted(folder: Path) -> None:
    (size,) = eyes(folder)
    assert 100_000 < size < (folder / "mmproj-model.gguf").stat().st_size
    seeing_bytes, blind_bytes = wanted(folder).claim_bytes, wanted(folder, mmproj="none").claim_bytes
    assert seeing_bytes - blind_bytes > size, "and what a picture takes while it is computed"
    assert eyes(folder, mmproj="none") == []


def test_one_of_several_is_named(folder: Path) -> None:
    shutil.copy(folder / "mmproj-model.gguf", folder / "MMPROJ-2.gguf")
    assert eyes(folder) == [] and projector_in(folder, None, None) is None
    assert len(eyes(folder, mmproj="MMPROJ-2.gguf")) == 1
    named = projector_in(folder, "MMPROJ-2.gguf", None)
    assert named is not None and named.path == folder / "MMPROJ-2.gguf"


def test_a_model_that_is_a_file_has_none_that_is_not_named(folder: Path) -> None:
    file = folder / "model.gguf"
    assert eyes(file) == [] and projector_in(file, None, None) is None
    assert len(eyes(file, mmproj="mmproj-model.gguf")) == 1
    assert len(eyes(file, mmproj=str(folder / "mmproj-model.gguf"))) == 1


def test_another_file_is_refused(folder: Path) -> None:
    with pytest.raises(errors.BadOption, match=r"mmproj: .*model\.gguf is no file that a model sees with"):
        wanted(folder, mmproj="model.gguf")
    with pytest.raises(errors.BadOption, match=r"mmproj: there is no GGUF file .*gone\.gguf"):
        wanted(folder, mmproj="gone.gguf")
    (folder / "mmproj-model.gguf").write_bytes(b"GGUF")
    with pytest.raises(errors.ClusterError, match=r"mmproj-model\.gguf is not a complete GGUF file"):
        wanted(folder)


def test_it_lies_where_models_may_lie(folder: Path, tmp_path: Path) -> None:
    roots = (tmp_path / "models",)
    elsewhere = tmp_path / "elsewhere.gguf"
    shutil.copy(folder / "mmproj-model.gguf", elsewhere)
    assert wanted(folder, roots).claim_bytes > 0
    for path in (elsewhere, "/etc/passwd", f"{folder}/../../elsewhere.gguf"):
        with pytest.raises(errors.BadOption, match="mmproj .* is outside of the folders that may be used"):
            wanted(folder, roots, mmproj=str(path))
    (folder / "mmproj-model.gguf").unlink()
    (folder / "mmproj-model.gguf").symlink_to(elsewhere)
    with pytest.raises(errors.ClusterError):
        wanted(folder, roots)


def projector(**fields: Any) -> Projector:
    usual = {"side": 336, "patch": 14, "merged": 1, "width": 1024, "inner": 4096, "most_tokens": 4096}
    return Projector(**{"path": Path("m"), "bytes": 1, "is_fixed": False, **usual, **fields})


def test_tokens_of_a_picture_follow_from_its_kind() -> None:
    llava = projector(is_fixed=True)
    assert llava.tokens(10, 10) == llava.tokens(2000, 2000) == 576
    gemma = projector(is_fixed=True, side=896, merged=4)
    assert gemma.tokens(100, 100) == 256
    qwen = projector(side=560, merged=2)
    assert (qwen.tokens(100, 100), qwen.tokens(1120, 560), qwen.tokens(2048, 2048)) == (400, 800, 4096)
    assert projector(side=560, merged=2, most_tokens=512).tokens(2048, 2048) == 512


def test_a_repository_with_one_model_and_its_projector_is_fetched_whole() -> None:
    names = ["README.md", "m-Q4.gguf", "mmproj-m-f16.gguf"]
    assert choose("m", names, gguf=True) == names
    with pytest.raises(errors.DownloadFailed, match="has 2 GGUF models"):
        choose("m", [*names, "m-Q8.gguf"], gguf=True)
