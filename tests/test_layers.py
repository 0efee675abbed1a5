"""Imports point one way. Each layer may import those above it, and its own neighbours where that makes no circle."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("cluster", "deployments")

#: From the values that everything knows to the commands that know everything. A name stands for all that lies in it.
LAYERS = """
    cluster.errors
    cluster.names cluster.value cluster.paths
    cluster.versioned cluster.keys cluster.calls cluster.metrics cluster.environment cluster.suspicion cluster.trust
        cluster.settings cluster.launch cluster.status cluster.routes cluster.catalog
    cluster.weights cluster.control cluster.client cluster
    cluster.worker
    cluster.runtime
    deployments.abilities deployments.vectors deployments.device
    deployments deployments.folders
    deployments.ingress
    deployments.text deployments.image deployments.ocr
    deployments.ingress.app deployments.ingress.deploy
    cluster.cli
"""

MODEL_TYPES = (
    "deployments.text.embedding",
    "deployments.text.rerank",
    "deployments.text.classify",
    "deployments.image",
    "deployments.ocr",
)

#: Where Ray may be imported.
RAY = ("cluster.runtime", "deployments.ingress.app")
MODEL_LIBRARIES = (
    "torch",
    "transformers",
    "sentence_transformers",
    "tokenizers",
    "safetensors",
    "tiktoken",
    "vllm",
    "diffusers",
    "bitsandbytes",
    "peft",
    "accelerate",
    "gguf",
    "PIL",
)
#: Our own rooms that bring in Ray, a web server or a model library: only those pay for them who need them.
HEAVY = ("cluster.runtime", "deployments.text.encoders")


@dataclass(frozen=True)
class Import:
    importer: str
    imported: str
    line: int
    inside_a_function: bool

    def __str__(self) -> str:
        return f"{FILES[self.importer].relative_to(ROOT)}:{self.line} imports {self.imported}"

    @property
    def package(self) -> str:
        return self.imported.partition(".")[0]


def layers() -> list[list[str]]:
    found: list[list[str]] = []
    for line in LAYERS.strip("\n").splitlines():
        if line.startswith(" " * 8):
            found[-1] += line.split()
        else:
            found.append(line.split())
    return found


def modules() -> dict[str, Path]:
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


Rule = Callable[[Import], str | None]

LAYER_OF = {name: number for number, names in enumerate(layers()) for name in names}
FILES = modules()


def imports_of(module: str, source: str) -> Iterator[Import]:
    tree = ast.parse(source)
    functions = [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))]
    inside = {child for function in functions for child in ast.walk(function)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{FILES[module]}:{node.lineno} imports by a relative name; write the whole one."
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in FILES else str(node.module) for name in whole]
        else:
            continue
        for name in dict.fromkeys(names):
            yield Import(module, name, node.lineno, node in inside)


EVERY = [found for module, file in FILES.items() for found in imports_of(module, file.read_text())]


def place_of(module: str) -> str:
    """The name under which a module, or the package it lies in, has its layer."""
    parts = module.split(".")
    for length in range(len(parts), 0, -1):
        if (name := ".".join(parts[:length])) in LAYER_OF and not (length == 1 and len(parts) > 1):
            return name
    raise AssertionError(f"{module} has no layer; give it one in tests/test_layers.py.")


def test_every_module_has_its_layer() -> None:
    assert {place_of(module) for module in FILES} == set(LAYER_OF)


# ---------------------------------------------------------------------------------- rules: what is wrong with an import


def points_down(found: Import) -> str | None:
    """Inside of functions as well: an import there only hides the circle."""
    if found.package not in PACKAGES or LAYER_OF[place_of(found.imported)] <= LAYER_OF[place_of(found.importer)]:
        return None
    return f"{found}, which is a layer further down."


def type_of(module: str) -> str | None:
    return next((type for type in MODEL_TYPES if f"{module}.".startswith(f"{type}.")), None)


def reaches_another_type(found: Import) -> str | None:
    here, there = type_of(found.importer), type_of(found.imported)
    if here is None or there is None or here == there:
        return None
    return f"{found}, which is another model type; what both need belongs in their wing, or in deployments."


def knows_of_model_types(found: Import) -> str | None:
    if found.package != "deployments" or found.importer.startswith("deployments"):
        return None
    return None if place_of(found.importer) == "cluster.cli" else f"{found}; only the commands may know of deployments."


def imports_the_command_line(found: Import) -> str | None:
    if found.package not in PACKAGES or place_of(found.imported) != "cluster.cli":
        return None
    if place_of(found.importer) == "cluster.cli":
        return None
    return f"{found}; the command line is imported by nothing."


def brings_in_ray(found: Import) -> str | None:
    if found.package != "ray" or place_of(found.importer) in RAY:
        return None
    return f"{found}; only {', '.join(RAY)} may."


def pays_for_a_model_library(found: Import) -> str | None:
    if found.package not in MODEL_LIBRARIES or found.inside_a_function:
        return None
    if found.importer.startswith("deployments.text.encoders"):
        return None
    return f"{found} at its top; import it inside load(), or whoever knows of the family pays for it."


def hides_in_a_function(found: Import) -> str | None:
    """But for what brings in Ray, a web server or a model library, for which only those should pay who need it."""
    if found.package not in PACKAGES or not found.inside_a_function or found.imported.startswith(HEAVY):
        return None
    return f"{found} inside of a function; import it at the top."


RULES = [
    points_down,
    reaches_another_type,
    knows_of_model_types,
    imports_the_command_line,
    brings_in_ray,
    pays_for_a_model_library,
    hides_in_a_function,
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_no_import_breaks_a_rule(rule: Rule) -> None:
    wrong = [told for found in EVERY if (told := rule(found))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("rule", "module", "source"),
    [
        (points_down, "cluster.control.placement", "from cluster.runtime.supervisor_client import SupervisorClient"),
        (points_down, "cluster.launch", "def f():\n    import cluster.control.supervisor"),
        (points_down, "cluster.control.fleet", "from cluster import errors, runtime"),
        (reaches_another_type, "deployments.text.rerank.cross_encoder", "from deployments.text.embedding import TYPE"),
        (knows_of_model_types, "cluster.worker.worker", "import deployments"),
        (imports_the_command_line, "cluster.runtime.launcher", "from cluster.cli.connection import save_key"),
        (brings_in_ray, "cluster.worker.worker", "def f():\n    import ray.util"),
        (pays_for_a_model_library, "deployments.text.tokenizing", "import torch.nn"),
        (hides_in_a_function, "cluster.worker.worker", "def f():\n    from cluster import spec"),
    ],
)
def test_an_import_that_breaks_a_rule_is_told_by_file_and_name(rule: Rule, module: str, source: str) -> None:
    told = [rule(found) for found in imports_of(module, source)]
    file = FILES[module].relative_to(ROOT)
    assert any(sentence and sentence.startswith(f"{file}:") for sentence in told)


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    imports: dict[str, set[str]] = {module: set() for module in FILES}
    for found in EVERY:
        if found.package in PACKAGES:
            imports[found.importer].add(found.imported)

    def walk(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " imports ".join((*path[path.index(module) :], module)) + "."
        if module not in done:
            for other in sorted(imports[module]):
                walk(other, (*path, module))
            done.add(module)

    done: set[str] = set()
    for module in FILES:
        walk(module, ())


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("cluster", "ray torch fastapi transformers sentence_transformers prometheus_client numpy uvicorn"),
        ("cluster.control.supervisor", "ray torch fastapi transformers sentence_transformers"),
        ("cluster.worker.worker", "ray torch fastapi transformers sentence_transformers"),
        ("cluster.cli", "ray torch fastapi transformers sentence_transformers"),
        ("cluster.runtime.supervisor_actor", "torch fastapi transformers sentence_transformers"),
        ("deployments.text.embedding", "ray torch fastapi transformers sentence_transformers"),
        ("deployments.text.rerank", "ray torch fastapi transformers sentence_transformers"),
        ("deployments.text.classify", "ray torch fastapi transformers sentence_transformers"),
        ("deployments.image", "ray torch fastapi transformers diffusers PIL gguf"),
        # As every ingress does when it lists what there is.
        ("deployments; deployments.model_types()", "ray torch fastapi transformers sentence_transformers diffusers"),
    ],
)
def test_importing_it_brings_in_nothing_heavy(module: str, heavy: str) -> None:
    program = f"import sys, {module}; print([name for name in {heavy.split()} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]", f"import {module} brings in {done.stdout.strip()}."
