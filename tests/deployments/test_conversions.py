from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from cluster import environment, errors
from deployments.conversions import environment_with, fingerprint, run, version_of


def test_a_fingerprint_changes_with_the_files_and_what_is_made_of_them(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    first = fingerprint(tmp_path, "SentenceTransformer")
    assert fingerprint(tmp_path, "SentenceTransformer") == first
    assert fingerprint(tmp_path, "CrossEncoder") != first
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    assert fingerprint(tmp_path, "SentenceTransformer") != first


def test_a_file_has_a_fingerprint_that_its_neighbours_do_not_change(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"weights")
    first = fingerprint(file)
    (tmp_path / "other.gguf").write_bytes(b"others")
    assert fingerprint(file) == first != fingerprint(tmp_path)


def test_a_library_that_is_not_installed_has_no_version() -> None:
    assert version_of("no-such-library") == "" != version_of("pytest")


def test_a_job_that_fails_says_how_it_ended() -> None:
    with pytest.raises(errors.LoadFailed, match="m could not be made: .*no_such_module"):
        run("deployments.no_such_module", {}, "m could not be made", 1)


def test_a_process_that_converts_keeps_no_name_of_this_machine_to_report_under(tmp_path: Path) -> None:
    variables = {**environment_with(1), "HOME": str(tmp_path)}
    subprocess.run([*environment.ISOLATED, "-c", "import nncf"], env=variables, check=True, timeout=120)
    assert not list(tmp_path.rglob("*"))
