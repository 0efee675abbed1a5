"""Measures how the sources are written: sizes, names, types, cycles.

`make house` prints it, and tests/test_house.py limits it. It reads the files with `ast` and imports none
of them, so that it takes seconds and needs nothing installed.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).parents[1]
PACKAGES = ("cluster", "deployments")
#: Names of locals that do not say what they hold.
VAGUE = {"found", "told", "given", "asked", "one", "known", "shown", "whole", "place", "rest", "seen", "here"}
#: Methods that take the name of another method as a string: type checkers and renames do not see through them.
CALLS_BY_NAME = {"call", "call_patiently", "_call", "_call_patiently", "control", "_control", "invoke", "_invoke"}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
IMPORTS = (ast.Import, ast.ImportFrom)
SCOPES = (*FUNCTIONS, ast.Lambda, ast.ClassDef)
#: The classes by which an `except` or a `suppress` catches everything.
ALL_ERRORS = ("Exception", "BaseException")


Node = TypeVar("Node", bound=ast.AST)


@dataclass(frozen=True)
class Place:
    """A line of a file, and what is there."""

    file: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} {self.text}"


class Source:
    """One file, read once."""

    def __init__(self, file: str, text: str) -> None:
        self.file = file
        self.text = text
        self.lines = len(text.splitlines())
        self.tree = ast.parse(text)
        #: Every node by its class; each figure looks at few classes.
        self._nodes: dict[type[ast.AST], list[Any]] = defaultdict(list)
        for node in ast.walk(self.tree):
            self._nodes[type(node)].append(node)

    def nodes(self, *kinds: type[Node]) -> list[Node]:
        return [node for kind in kinds for node in self._nodes[kind]]

    @property
    def module(self) -> str:
        return self.file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")

    @property
    def room(self) -> str:
        """The folder that counts as one unit in the report: `cluster/control`, `deployments/ingress`, or the top of a
        package."""
        parts = self.file.split("/")
        return "/".join(parts[:2]) if len(parts) > 2 else parts[0]

    @cached_property
    def functions(self) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
        return self.nodes(*FUNCTIONS)

    @cached_property
    def classes(self) -> list[ast.ClassDef]:
        return self.nodes(ast.ClassDef)

    @cached_property
    def comments(self) -> set[int]:
        """The lines that carry a comment."""
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        return {token.start[0] for token in tokens if token.type == tokenize.COMMENT}

    def at(self, node: ast.AST, text: str) -> Place:
        return Place(self.file, getattr(node, "lineno", 1), text)


@dataclass(frozen=True)
class Local:
    name: str
    place: Place


def sources(root: Path = ROOT) -> list[Source]:
    files = [path for package in PACKAGES for path in sorted((root / package).rglob("*.py"))]
    return [Source(path.relative_to(root).as_posix(), path.read_text()) for path in files]


def length(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def locals_of(source: Source) -> Iterator[Local]:
    """What functions bind: assignments, loops, `with`, `except`, comprehensions. Each name counts once per function;
    parameters do not, since a caller may say them."""
    for function in source.functions:
        names: dict[str, ast.AST] = {}
        for node in _own_nodes(function):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.setdefault(node.id, node)
            elif isinstance(node, ast.ExceptHandler) and node.name:
                names.setdefault(node.name, node)
        for name, node in names.items():
            yield Local(name, source.at(node, f"{function.name}: {name}"))


def _own_nodes(function: ast.AST) -> Iterator[ast.AST]:
    """What lies in a function, but not in the functions and classes inside of it, which count for themselves."""
    for child in ast.iter_child_nodes(function):
        if not isinstance(child, (*FUNCTIONS, ast.ClassDef)):
            yield child
            yield from _own_nodes(child)


# ---- what should not be there, by place


def names_used_twice(files: list[Source]) -> dict[str, list[Place]]:
    """Public classes of one name in several modules: a search for one of them finds the other."""
    places = defaultdict(list)
    for source in files:
        for node in source.tree.body:
            for inner in _definitions(node):
                if not inner.name.startswith("_"):
                    places[inner.name].append(source.at(inner, inner.name))
    return {name: where for name, where in sorted(places.items()) if len(where) > 1}


def _definitions(node: ast.stmt) -> list[ast.ClassDef]:
    """A class at the top of a module, also under `if`; a class in a class has its owner's name before it."""
    if isinstance(node, ast.ClassDef):
        return [node]
    return [
        child for child in ast.iter_child_nodes(node) if isinstance(node, ast.If) and isinstance(child, ast.ClassDef)
    ]


def vague_locals(files: list[Source]) -> list[Place]:
    return [local.place for source in files for local in locals_of(source) if local.name in VAGUE]


def anys(source: Source) -> int:
    return sum(node.id == "Any" for node in source.nodes(ast.Name))


def filler_nones(files: list[Source]) -> list[Place]:
    """`errors.X(text, None, ...)`: a None that only fills a place."""
    places = []
    for source in files:
        for node in source.nodes(ast.Call):
            if _is_error(node.func):
                values = [*node.args[1:], *(keyword.value for keyword in node.keywords)]
                if any(isinstance(value, ast.Constant) and value.value is None for value in values):
                    places.append(source.at(node, ast.unparse(node.func)))
    return places


def _is_error(function: ast.expr) -> bool:
    return (
        isinstance(function, ast.Attribute)
        and isinstance(function.value, ast.Name)
        and function.value.id == "errors"
        and function.attr[:1].isupper()
    )


def methods_in_strings(files: list[Source]) -> list[Place]:
    """`supervisor.call("launch", ...)`: nobody notices when `launch` gets another name or another argument."""
    names = {function.name for source in files for function in source.functions}
    places = []
    for source in files:
        for node in source.nodes(ast.Call):
            if not (isinstance(node.func, ast.Attribute) and node.args):
                continue
            first = node.args[0]
            if node.func.attr in CALLS_BY_NAME and isinstance(first, ast.Constant) and first.value in names:
                places.append(source.at(node, f'{ast.unparse(node.func)}("{first.value}")'))
    return places


def contracts_by_hasattr(files: list[Source]) -> list[Place]:
    """`hasattr(family, ...)`: a class says by its contract what it can, not by what it happens to have."""
    places = []
    for source in files:
        for node in source.nodes(ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in ("hasattr", "getattr") and node.args:
                subject = ast.unparse(node.args[0])
                is_asked = node.func.id == "hasattr" or len(node.args) > 2
                if is_asked and "family" in subject.lower():
                    places.append(source.at(node, ast.unparse(node)))
    return places


def imports_in_functions(files: list[Source]) -> list[Place]:
    places = []
    for source in files:
        indented = [node for node in source.nodes(*IMPORTS) if node.col_offset]
        ours = [node for node in indented if _imported(node)[0].partition(".")[0] in PACKAGES]
        inside = {child for function in source.functions for child in ast.walk(function)} if ours else ()
        places += [source.at(node, ast.unparse(node)) for node in ours if node in inside]
    return places


def broad_excepts_without_reason(files: list[Source]) -> list[Place]:
    """`except Exception` or `suppress(Exception)` with no comment on its line, above it, or right below."""
    places = []
    for source in files:
        catching: list[ast.ExceptHandler | ast.With | ast.AsyncWith]
        catching = source.nodes(ast.ExceptHandler, ast.With, ast.AsyncWith)
        for node in catching:
            if text := _broad(node):
                last = node.body[0].lineno
                if not source.comments & set(range(node.lineno - 1, last + 1)):
                    places.append(source.at(node, text))
    return places


def _broad(node: ast.AST) -> str:
    """How the node catches all errors; empty if it does not."""
    if isinstance(node, ast.ExceptHandler):
        kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        if any(kind is None or ast.unparse(kind) in ALL_ERRORS for kind in kinds):
            return f"except {ast.unparse(node.type) if node.type else ''}".rstrip()
    if isinstance(node, (ast.With, ast.AsyncWith)):
        for call in (item.context_expr for item in node.items):
            if isinstance(call, ast.Call) and ast.unparse(call.func) in ("suppress", "contextlib.suppress"):
                if any(ast.unparse(kind) in ALL_ERRORS for kind in call.args):
                    return ast.unparse(call)
    return ""


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def cycles(files: list[Source]) -> list[list[str]]:
    """Modules that import each other, directly or by others; imports inside functions and for types count as well."""
    modules = {source.module for source in files}
    imports = {
        source.module: {
            name if name in modules else name.rpartition(".")[0]
            for node in source.nodes(*IMPORTS)
            for name in _imported(node)
        }
        & modules - {source.module}
        for source in files
    }
    reached: dict[str, set[str]] = {}
    for module in modules:
        reached[module] = set()
        waiting = [module]
        while waiting:
            new = imports[waiting.pop()] - reached[module]
            reached[module] |= new
            waiting += new
    circles = {
        frozenset(other for other in reached[module] if module in reached[other])
        for module in modules
        if module in reached[module]
    }
    return sorted(sorted(circle) for circle in circles)


# ---- what is limited


def figures(files: list[Source]) -> dict[str, float]:
    """The numbers that have a limit in tests/test_house.py."""
    every = [local for source in files for local in locals_of(source)]
    return {
        "largest file": max(source.lines for source in files),
        "largest class": max((length(node) for source in files for node in source.classes), default=0),
        "largest function": max((length(node) for source in files for node in source.functions), default=0),
        "import cycles": len(cycles(files)),
        "imports of our own inside functions": len(imports_in_functions(files)),
        "class names used twice": len(names_used_twice(files)),
        "vague locals, %": round(100 * len(vague_locals(files)) / max(len(every), 1), 2),
        "Any per 1,000 lines": round(_per_thousand(files), 1),
        "filler None in errors": len(filler_nones(files)),
        "method names in strings": len(methods_in_strings(files)),
        "contracts told by hasattr": len(contracts_by_hasattr(files)),
        "broad excepts without a reason": len(broad_excepts_without_reason(files)),
    }


def _per_thousand(files: Iterable[Source]) -> float:
    files = list(files)
    return 1000 * sum(anys(source) for source in files) / max(sum(source.lines for source in files), 1)


def offenders(name: str, files: list[Source]) -> list[str]:
    """Where a limited number comes from, the worst first."""
    if name == "largest file":
        return [f"{source.file} {source.lines}" for source in sorted(files, key=lambda source: -source.lines)[:10]]
    if name in ("largest class", "largest function"):
        kind = "classes" if name == "largest class" else "functions"
        nodes = [(length(node), source.at(node, node.name)) for source in files for node in getattr(source, kind)]
        return [f"{place} {size}" for size, place in sorted(nodes, key=lambda pair: -pair[0])[:10]]
    if name == "import cycles":
        return [" <-> ".join(circle) for circle in cycles(files)]
    if name == "class names used twice":
        return [
            f"{name}: {', '.join(f'{place.file}:{place.line}' for place in places)}"
            for name, places in names_used_twice(files).items()
        ]
    if name == "vague locals, %":
        return _by_file(vague_locals(files))
    if name == "Any per 1,000 lines":
        counts = Counter({source.file: anys(source) for source in files})
        return [f"{file} {count}" for file, count in counts.most_common(25) if count]
    finders = {
        "imports of our own inside functions": imports_in_functions,
        "filler None in errors": filler_nones,
        "method names in strings": methods_in_strings,
        "contracts told by hasattr": contracts_by_hasattr,
        "broad excepts without a reason": broad_excepts_without_reason,
    }
    return [str(place) for place in finders[name](files)]


def _by_file(places: list[Place]) -> list[str]:
    lines = defaultdict(list)
    for place in places:
        lines[place.file].append(str(place.line))
    worst = sorted(lines.items(), key=lambda pair: -len(pair[1]))
    return [
        f"{file} {len(numbers)} (lines {', '.join(numbers[:12])}{' ...' * (len(numbers) > 12)})"
        for file, numbers in worst
    ]


# ---- the report


def _spread(values: list[int]) -> str:
    values = sorted(values)
    return f"median {values[len(values) // 2]}, p90 {values[int(len(values) * 0.9)]}, max {values[-1]}"


def report(files: list[Source]) -> Iterator[str]:
    for package in (*PACKAGES, "both"):
        part = [source for source in files if package in ("both", source.file.partition("/")[0])]
        functions = [length(node) for source in part for node in source.functions]
        lines = sum(source.lines for source in part)
        yield f"{package}: {len(part)} files, {lines:,} lines, {len(functions):,} functions"
        yield f"  lines of a file:     {_spread([source.lines for source in part])}"
        yield f"  lines of a function: {_spread(functions)}"
    yield ""
    yield f"{'by room':<24}{'files':>6}{'lines':>8}{'Any/kloc':>10}{'vague locals':>15}"
    rooms = defaultdict(list)
    for source in files:
        rooms[source.room].append(source)
    for room, part in sorted(rooms.items()):
        every = sum(1 for source in part for _ in locals_of(source))
        vague = len(vague_locals(part))
        share = f"{vague} ({100 * vague / max(every, 1):.1f} %)"
        lines = sum(source.lines for source in part)
        yield f"{room:<24}{len(part):>6}{lines:>8,}{_per_thousand(part):>10.1f}{share:>15}"
    for name, figure in figures(files).items():
        yield ""
        yield f"{name}: {figure:g}"
        yield from (f"    {line}" for line in offenders(name, files))


if __name__ == "__main__":
    print("\n".join(report(sources(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT))))
