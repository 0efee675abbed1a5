"""Who may import whom. Ray and model libraries are imported only where they are used, so that nobody else waits for
them."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("cluster", "deployments")

#: A module may import from the lines above its own, and within its line from everything that no `|` separates from it.
#: A module belongs to the longest name that fits; `cluster.*` are the modules directly in that folder, and
#: `deployments.WING` is every other package of `deployments`, each by itself.
LAYERS = """
    cluster.* cluster.catalog.entry
    cluster.catalog | cluster.weights | cluster.client cluster
    cluster.control | cluster.worker
    cluster.runtime
    deployments.* deployments
    deployments.ingress
    deployments.WING
    cluster.cli
"""
#: These are in one wing, but each is a model type of its own; what two of them need belongs into the wing.
TYPES = ("deployments.text.embedding", "deployments.text.rerank", "deployments.text.classify")
#: The places where Ray may be imported.
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
    "openvino_genai",
    "openvino_tokenizers",
    "xllamacpp",
    "jinja2",
)
#: Packages of ours that import Ray or a model library. Others import them inside the function that needs them.
HEAVY = ("cluster.runtime", "deployments.text.encoders")


@dataclass(frozen=True)
class Import:
    importer: str
    imported: str
    line: int
    is_in_a_function: bool
    is_for_types: bool

    def __str__(self) -> str:
        return f"{FILES[self.importer].relative_to(ROOT)}:{self.line} imports {self.imported}"

    @property
    def is_ours(self) -> bool:
        return self.package in PACKAGES

    @property
    def package(self) -> str:
        return self.imported.partition(".")[0]


Rule = Callable[[Import], str | None]

FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
}
#: The table with each wing by its name.
TABLE = LAYERS.replace(
    "deployments.WING",
    " | ".join(
        f"deployments.{path.parent.name}"
        for path in sorted((ROOT / "deployments").glob("*/__init__.py"))
        if f"deployments.{path.parent.name}" not in LAYERS.split()
    ),
)
#: For each name in the table: its line, and its group within the line.
ROOMS = {
    name: (number, group)
    for number, line in enumerate(TABLE.strip().splitlines())
    for group, names in enumerate(line.split("|"))
    for name in names.split()
}


def room_of(module: str) -> str:
    parts = module.split(".")
    if len(parts) == 2 and FILES[module].name != "__init__.py":
        return f"{parts[0]}.*"
    for length in range(len(parts), 0, -1):
        if (name := ".".join(parts[:length])) in ROOMS and (length > 1 or len(parts) == 1):
            return name
    raise AssertionError(f"{module} has no room; give it one in LAYERS of tests/test_layers.py.")


def type_of(module: str) -> str | None:
    return next((name for name in TYPES if f"{module}.".startswith(f"{name}.")), None)


def imports_of(module: str, source: str) -> Iterator[Import]:
    for node, is_in_a_function, is_for_types in _statements(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{FILES[module]}:{node.lineno} imports by a relative name; write the full one."
            members = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in FILES else str(node.module) for name in members]
        else:
            continue
        for name in dict.fromkeys(names):
            yield Import(module, name, node.lineno, is_in_a_function, is_for_types)


#: What holds statements of its own, besides statements.
HOLDERS = (ast.stmt, ast.ExceptHandler, ast.match_case)


def _statements(
    node: ast.AST, is_in_a_function: bool = False, is_for_types: bool = False
) -> Iterator[tuple[ast.stmt, bool, bool]]:
    """Each statement, whether it is in a function, and whether it is run for types only. No expression imports, so
    none is looked into: they are most of the tree."""
    is_in_a_function = is_in_a_function or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    is_check = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    for field in ("body", "orelse", "handlers", "finalbody", "cases"):
        children = getattr(node, field, ())
        for child in children if isinstance(children, list) else ():
            child_for_types = is_for_types or (is_check and field == "body")
            if isinstance(child, ast.stmt):
                yield child, is_in_a_function, child_for_types
            if isinstance(child, HOLDERS):
                yield from _statements(child, is_in_a_function, child_for_types)


@cache
def every_import() -> list[Import]:
    return [item for module, file in FILES.items() for item in imports_of(module, file.read_text())]


# ---- the rules: each says what is wrong with an import


def points_down(item: Import) -> str | None:
    """Imports inside functions and for types count as well: they would only hide a cycle."""
    if not item.is_ours or ROOMS[room_of(item.imported)][0] <= ROOMS[room_of(item.importer)][0]:
        return None
    return f"{item}, which is further down in LAYERS."


def knows_its_neighbour(item: Import) -> str | None:
    if not item.is_ours:
        return None
    (line, group), (other_line, other_group) = ROOMS[room_of(item.importer)], ROOMS[room_of(item.imported)]
    types = {type_of(item.importer), type_of(item.imported)} - {None}
    if len(types) < 2 and (line != other_line or group == other_group):
        return None
    return f"{item}, which stands beside it; what both need belongs further up in LAYERS."


def brings_in_ray(item: Import) -> str | None:
    if item.package != "ray" or item.importer in RAY or room_of(item.importer) in RAY:
        return None
    return f"{item}; only {' and '.join(RAY)} may."


def pays_for_a_model_library(item: Import) -> str | None:
    if item.package not in MODEL_LIBRARIES or item.is_in_a_function or item.is_for_types:
        return None
    if item.importer.startswith(HEAVY):
        return None
    return f"{item} at its top; import it in load(), or under `if TYPE_CHECKING:` when only a type needs it."


def hides_in_a_function(item: Import) -> str | None:
    if not item.is_ours or not item.is_in_a_function or item.imported.startswith(HEAVY):
        return None
    return f"{item} inside of a function; import it at the top."


RULES = [points_down, knows_its_neighbour, brings_in_ray, pays_for_a_model_library, hides_in_a_function]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_no_import_breaks_a_rule(rule: Rule) -> None:
    wrong = [sentence for item in every_import() if (sentence := rule(item))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("rule", "module", "source"),
    [
        (points_down, "cluster.control.placement", "from cluster.runtime.supervisor_client import SupervisorClient"),
        (points_down, "cluster.launch", "def f():\n    import cluster.control.supervisor"),
        (points_down, "cluster.control.fleet", "from cluster import errors, runtime"),
        (points_down, "cluster.worker.worker", "import deployments"),
        (points_down, "cluster.runtime.launcher", "from cluster.cli.connection import save_key"),
        (points_down, "deployments.ingress.dispatch", "from deployments.text.http import tei"),
        (knows_its_neighbour, "cluster.worker.worker", "from cluster.control.fleet import Fleet"),
        (knows_its_neighbour, "deployments.text.rerank.cross_encoder", "from deployments.text.embedding import TYPE"),
        (knows_its_neighbour, "deployments.image.diffusion", "import deployments.ocr.page"),
        (brings_in_ray, "cluster.worker.worker", "def f():\n    import ray.util"),
        (pays_for_a_model_library, "deployments.text.tokenizing", "import torch.nn"),
        (hides_in_a_function, "cluster.worker.worker", "def f():\n    from cluster import launch"),
    ],
)
def test_an_import_that_breaks_a_rule_is_named_with_its_file_and_line(rule: Rule, module: str, source: str) -> None:
    sentences = [rule(item) for item in imports_of(module, source)]
    file = FILES[module].relative_to(ROOT)
    assert any(sentence and sentence.startswith(f"{file}:") for sentence in sentences)


def test_a_model_library_may_be_named_for_types() -> None:
    source = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from torch import Tensor\n"
    assert [pays_for_a_model_library(item) for item in imports_of("deployments.text.tokenizing", source)] == [None] * 2


def test_every_room_in_the_table_is_there() -> None:
    assert {room_of(module) for module in FILES} == set(ROOMS)


def test_modules_do_not_import_each_other_in_a_cycle() -> None:
    imports: dict[str, set[str]] = {module: set() for module in FILES}
    for item in every_import():
        if item.is_ours:
            imports[item.importer].add(item.imported)

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
        ("cluster.cli", "ray torch fastapi transformers sentence_transformers huggingface_hub"),
        ("cluster.runtime.supervisor_actor", "torch fastapi transformers sentence_transformers"),
        ("deployments.text.embedding", "ray torch fastapi transformers sentence_transformers"),
        ("deployments.text.rerank", "ray torch fastapi transformers sentence_transformers"),
        ("deployments.text.classify", "ray torch fastapi transformers sentence_transformers"),
        ("deployments.image", "ray torch fastapi transformers diffusers PIL gguf"),
        # Every ingress does this when it lists the model types.
        ("deployments; deployments.model_types()", "ray torch fastapi transformers sentence_transformers diffusers"),
    ],
)
def test_importing_it_brings_in_nothing_heavy(module: str, heavy: str) -> None:
    program = f"import sys, {module}; print([name for name in {heavy.split()} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]", f"import {module} brings in {done.stdout.strip()}."
