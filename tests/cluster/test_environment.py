from __future__ import annotations

import os
import subprocess
import sys

import pytest

from cluster import environment, errors

SECRETS = {
    "HF_TOKEN": "hf_secret",
    "MODELSCOPE_API_TOKEN": "ms_secret",
    "RAY_AUTH_TOKEN": "ray_secret",
    "CLUSTER_API_KEY": "key_secret",
    "AWS_SECRET_ACCESS_KEY": "aws_secret",
}
#: Each of these makes Python, or a library in it, run or load something.
TRAPS = {
    "PYTHONWARNINGS": "error::webbrowser.Error",
    "PYTHONSTARTUP": "/tmp/startup.py",
    "PYTHONHOME": "/nowhere",
    "PYTHONINSPECT": "1",
    "BROWSER": "/bin/false",
    "LD_PRELOAD": "",
}


def test_thread_counts_are_set_and_what_runs_programs_is_not() -> None:
    taken, ignored = environment.split({"OMP_NUM_THREADS": "2", **TRAPS}, ())
    assert taken == {"OMP_NUM_THREADS": "2"}
    assert ignored == tuple(TRAPS)


def test_the_operator_allows_more_by_name_only() -> None:
    assert environment.split({"MY_FLAG": "1", "MY_FLAGS": "1"}, ("MY_FLAG",)) == ({"MY_FLAG": "1"}, ("MY_FLAGS",))


@pytest.mark.parametrize(
    "name", ["HF_ENDPOINT", "HF_TOKEN", "CLUSTER_HOME", "RAY_AUTH_MODE", "HTTPS_PROXY", "CUDA_VISIBLE_DEVICES"]
)
def test_what_is_the_operators_is_never_a_callers(name: str) -> None:
    assert environment.split({name: "x"}, (name,)) == ({}, (name,))
    with pytest.raises(errors.BadOption, match="only the operator can") as caught:
        environment.refuse_others({name: "x"}, (name,))
    assert caught.value.param == "envs"


def test_a_refusal_says_what_to_set_or_what_was_meant() -> None:
    with pytest.raises(errors.BadOption, match=r"cannot set BROWSER; start the server with CLUSTER_ALLOW_ENVS=BROWSER"):
        environment.refuse_others({"BROWSER": "x"}, ())
    with pytest.raises(errors.BadOption, match=r"did you mean OMP_NUM_THREADS\?"):
        environment.refuse_others({"OMP_NUM_THREAD": "2"}, ())
    environment.refuse_others(None, ())


def test_a_refusal_of_a_huge_name_is_short() -> None:
    with pytest.raises(errors.BadOption) as caught:
        environment.refuse_others({"A" * 1_000_000: "x"}, ())
    assert len(caught.value.message) < 400


def test_no_settable_variable_names_a_file_a_program_or_an_address() -> None:
    words = set("PATH FILE DIR HOME LIB LIBRARIES PLUGIN PLUGINS URL HOST PRELOAD ENDPOINT".split())
    assert not [name for name in environment.SETTABLE if words & set(name.split("_"))]


def test_a_child_gets_no_secret_and_nothing_that_runs_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text in {**SECRETS, **TRAPS, "OMP_NUM_THREADS": "3"}.items():
        monkeypatch.setenv(name, text)
    built = environment.for_python(NNCF_CI="1")
    assert not (SECRETS.keys() | TRAPS.keys()) & built.keys()
    assert built["OMP_NUM_THREADS"] == "3" and built["NNCF_CI"] == "1" and built["PATH"] == os.environ["PATH"]


def test_a_child_imports_what_its_parent_does() -> None:
    command = [*environment.ISOLATED, "-c", "import sys, cluster; print(cluster.__file__, sys.flags.no_user_site)"]
    done = subprocess.run(command, env=environment.for_python(), cwd="/", capture_output=True, text=True, check=True)
    assert done.stdout.split() == [sys.modules["cluster"].__file__, "1"]


def test_a_child_does_not_import_from_the_folder_it_is_in(tmp_path: object) -> None:
    with open(f"{tmp_path}/json.py", "w") as trap:
        trap.write("raise SystemExit('the folder was searched')")
    command = [*environment.ISOLATED, "-c", "import json"]
    assert subprocess.run(command, env=environment.for_python(), cwd=str(tmp_path), check=False).returncode == 0
