"""Reads what a folder of weights holds, from file names and headers; every count is checked before it is used.

Run as a program, it reads a folder that a stranger named, within limits, and answers in JSON. So that it starts
quickly, it imports only the standard library.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
import sys
from collections.abc import Iterable
from typing import BinaryIO, TypedDict, TypeGuard

#: The most entries of a folder and those below it, and how deep they may lie.
MOST_ENTRIES = 20_000
MOST_DEPTH = 6
#: A safetensors header; those of the largest models have a few million bytes.
MOST_HEADER_BYTES = 25_000_000
MOST_JSON_BYTES = 10_000_000
#: The most configs that are read, of a folder and those right below it.
MOST_CONFIGS = 100
#: The most keys, tensors and strings within lists of a GGUF file; vocabularies have up to a million.
MOST_VALUES = 4_000_000
MOST_DIMENSIONS = 16
#: The most tensors that are listed one by one; of more, only the sums are told.
MOST_TENSORS = 20_000
MOST_ANSWER_BYTES = 8_000_000
LONGEST_NAME = 200

#: The limits of the program.
MOST_MEMORY_BYTES = 512 * 2**20
MOST_CPU_S = 10

CONFIGS = (
    "config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "modules.json",
    "model_index.json",
)
#: A tokenizer, of which only the kind is read: it has the vocabulary in it, and may have tens of megabytes.
TOKENIZER = "tokenizer.json"
MOST_TOKENIZER_BYTES = 100_000_000
KINDS_OF_VOCABULARY = re.compile(rb'"type"\s*:\s*"(BPE|Unigram|WordPiece|WordLevel)"')
INDEX = ".index.json"

#: Bytes of one number, for the dtypes of safetensors that can be loaded in another number format.
PLAIN = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}

#: GGUF's number of a type -> how many weights a block has, and its bytes.
GGML_BLOCKS = {
    **{0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 40)},
    **{10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292)},
    **{16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82)},
    **{23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2)},
    **{34: (256, 54), 35: (256, 66), 39: (32, 17), 40: (64, 36), 41: (128, 18)},
}
#: GGUF's type of a value -> its bytes; 8 is a string and 9 a list.
_VALUE_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _LIST = 8, 9
#: The types of unsigned and signed numbers of 32 and 64 bits, and the most of them that are told.
_INTEGERS = (4, 5, 10, 11)
MOST_SIZES = 100
#: The name of a GGUF file that is no model but what one sees with, and under what its kind stands in it.
PROJECTOR_FILE = re.compile(r"mmproj[^/]*\.gguf$", re.IGNORECASE)
PROJECTOR = ("clip.projector_type", "clip.vision.projector_type")


class Unreadable(Exception):
    """Its text is the end of a sentence that begins with the path of the file."""


# ------------------------------------------------------------------------------------------------------ the folder


def files_in(folder: str, roots: tuple[str, ...] = ()) -> dict[str, int]:
    """Name -> bytes of every ordinary file in a folder and below it. No link may lead out of `roots`, if there are any.

    Links to folders are followed only at the top, where a pipeline may have its parts, and each folder only once."""
    sizes: dict[str, int] = {}
    waiting = [("", folder)]
    visited = {os.path.realpath(folder)}
    entries = 0
    while waiting:
        prefix, path = waiting.pop()
        try:
            content = os.scandir(path)
        except OSError as error:
            raise Unreadable(f"cannot be listed ({error.strerror})") from None
        with content:
            for entry in content:
                entries += 1
                if entries > MOST_ENTRIES:
                    raise Unreadable(f"has more than {MOST_ENTRIES} files: give the folder of one model")
                name = prefix + entry.name
                try:
                    facts = entry.stat()
                except OSError:
                    continue  # a broken link, or a file that was just deleted
                if entry.is_symlink() and roots and not _is_inside(os.path.realpath(entry.path), roots):
                    raise Unreadable(f"has a link, {name}, that leads out of the folders that may be used")
                if stat.S_ISREG(facts.st_mode):
                    sizes[name] = facts.st_size
                elif stat.S_ISDIR(facts.st_mode) and name.count("/") < MOST_DEPTH:
                    real = os.path.realpath(entry.path)
                    if real not in visited and not (entry.is_symlink() and prefix):
                        visited.add(real)
                        waiting.append((f"{name}/", entry.path))
    return sizes


def _is_inside(path: str, roots: tuple[str, ...]) -> bool:
    return any(path == root or path.startswith(root.rstrip("/") + "/") for root in map(os.path.realpath, roots))


def ordinary(path: str) -> tuple[BinaryIO, int]:
    """A file to read and its size. A pipe or device that has taken its place is neither waited for nor read."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise Unreadable(f"cannot be opened ({error.strerror})") from None
    facts = os.fstat(number)
    if not stat.S_ISREG(facts.st_mode):
        os.close(number)
        raise Unreadable("is not an ordinary file")
    return os.fdopen(number, "rb"), facts.st_size


def json_in(path: str) -> object:
    file, size = ordinary(path)
    with file:
        if size > MOST_JSON_BYTES:
            raise Unreadable(f"has {size} bytes, more than the {MOST_JSON_BYTES} that such a file may have")
        return _parsed(file.read(size))


def _parsed(text: bytes) -> object:
    try:
        value: object = json.loads(text)
        return value
    except RecursionError:
        raise Unreadable("is nested too deeply") from None
    except ValueError as error:
        raise Unreadable(f"is not JSON ({str(error)[:100]})") from None


def config_in(path: str) -> object:
    """A config, shortened: nothing reads its long texts, long lists and deeply nested values."""
    return _short(json_in(path), 3)


def _short(value: object, depth: int) -> object:
    if isinstance(value, dict) and depth:
        short = {key[:LONGEST_NAME]: _short(inner, depth - 1) for key, inner in list(value.items())[:500]}
        return {key: inner for key, inner in short.items() if inner is not None}
    if isinstance(value, list) and depth:
        return [_short(inner, depth - 1) for inner in value[:64]]
    if isinstance(value, str):
        return value[:LONGEST_NAME]
    if isinstance(value, int):
        return value if abs(value) < 2**53 else None
    return value if isinstance(value, float) and math.isfinite(value) else None


def tokenizer_in(path: str) -> dict[str, str]:
    """The kind of vocabulary that a tokenizer has; the model of a tokenizer comes last in its file."""
    file, size = ordinary(path)
    with file:
        if size > MOST_TOKENIZER_BYTES:
            raise Unreadable(f"has {size} bytes, more than the {MOST_TOKENIZER_BYTES} that such a file may have")
        kinds = KINDS_OF_VOCABULARY.findall(file.read(size))
    return {"vocabulary": kinds[-1].decode()} if kinds else {}


def parts_in(path: str) -> list[str]:
    """The files that an index names; they lie beside it."""
    index = json_in(path)
    names = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise Unreadable("does not name any files of weights")
    parts = sorted(set(names.values()))
    for part in parts:
        if "/" in part or part in ("", ".", "..") or "\0" in part:
            raise Unreadable(f"names a file that is not beside it, {part[:LONGEST_NAME]!r}")
    return parts


# ----------------------------------------------------------------------------------------------------- safetensors


def safetensors_in(path: str) -> list[tuple[str, list[int], int, bool]]:
    """Name, shape, bytes, and whether they are plain numbers, of every tensor."""
    file, size = ordinary(path)
    with file:
        length = int.from_bytes(file.read(8), "little")
        if size < 10 or not 2 <= length <= size - 8:
            raise Unreadable("is not a safetensors file")
        if length > MOST_HEADER_BYTES:
            raise Unreadable(f"has a header of {length} bytes, more than the {MOST_HEADER_BYTES} it may have")
        text = file.read(length)
    header = _parsed(text)
    if not isinstance(header, dict):
        raise Unreadable("is not a safetensors file")
    header.pop("__metadata__", None)
    room = size - 8 - length
    tensors = [_tensor(name, fields, room) for name, fields in header.items()]
    end = max((fields["data_offsets"][1] for fields in header.values()), default=0)
    if end != room:
        raise Unreadable(f"has {size} bytes where its header claims {8 + length + end}")
    if sum(tensor_bytes for _, _, tensor_bytes, _ in tensors) > room:
        raise Unreadable("has tensors that overlap")
    return tensors


def _tensor(name: str, fields: object, room: int) -> tuple[str, list[int], int, bool]:
    wrong = Unreadable(f"has a broken entry for the tensor {name[:LONGEST_NAME]!r}")
    if not isinstance(fields, dict):
        raise wrong
    shape, offsets, dtype = fields.get("shape"), fields.get("data_offsets"), fields.get("dtype")
    if not (isinstance(dtype, str) and _are_counts(shape, room) and _are_counts(offsets, room)):
        raise wrong
    if len(shape) > MOST_DIMENSIONS or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise wrong
    size = offsets[1] - offsets[0]
    if dtype in PLAIN and math.prod(shape) * PLAIN[dtype] != size:
        raise wrong
    # Packed numbers take at least one bit each.
    if math.prod(shape) > 8 * size:
        raise wrong
    return name[:LONGEST_NAME], shape, size, dtype in PLAIN


def _are_counts(values: object, room: int) -> TypeGuard[list[int]]:
    """Whether they are whole numbers that a file of that size can have: no count exceeds its bits."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value <= 8 * room for value in values)


# ------------------------------------------------------------------------------------------------------------ GGUF


class _Gguf:
    """Reads forward, and refuses every count that the rest of the file cannot hold."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self._values = 0
        self._order = "little"

    @property
    def left(self) -> int:
        return self._size - self._file.tell()

    def begin(self) -> None:
        if self.taken(4) != b"GGUF":
            raise Unreadable("is not a complete GGUF file (it does not begin like one)")
        version = self.taken(4)
        self._order = "little" if version[0] or version[1] else "big"
        if int.from_bytes(version, self._order) not in (2, 3):  # type: ignore[arg-type]
            raise Unreadable("is not a complete GGUF file (it is of another version)")

    def taken(self, count: int) -> bytes:
        self._holds(count)
        return self._file.read(count)

    def number(self, count: int) -> int:
        return int.from_bytes(self.taken(count), self._order)  # type: ignore[arg-type]

    def many(self, least_bytes: int) -> int:
        """How many items follow, each of at least so many bytes."""
        count = self.number(8)
        self._holds(count * least_bytes)
        self._values += count
        if self._values > MOST_VALUES:
            raise Unreadable(f"is not a complete GGUF file (it claims more than {MOST_VALUES} values)")
        return count

    def text(self, most: int) -> str:
        length = self.number(8)
        if length > most:
            raise Unreadable(f"is not a complete GGUF file (a name in it has {length} letters)")
        return self.taken(length).decode("utf-8", "replace")

    def skip(self, kind: int, depth: int = 3) -> None:
        """Skips a value."""
        if kind in _VALUE_BYTES:
            self.skip_bytes(_VALUE_BYTES[kind])
        elif kind == _STRING:
            self.skip_bytes(self.number(8))
        elif kind == _LIST and depth:
            inner = self.number(4)
            if inner in _VALUE_BYTES:
                self.skip_bytes(self.number(8) * _VALUE_BYTES[inner])
            else:
                for _ in range(self.many(8)):
                    self.skip(inner, depth - 1)
        else:
            raise Unreadable(f"is not a complete GGUF file (it has a value of the type {kind})")

    def skip_bytes(self, count: int) -> None:
        self._holds(count)
        self._file.seek(count, os.SEEK_CUR)

    def data_bytes(self, alignment: int) -> int:
        """The bytes that are left for the tensors themselves."""
        return self._size - -(-self._file.tell() // alignment) * alignment

    def _holds(self, count: int) -> None:
        if count > self.left:
            raise Unreadable(f"is not a complete GGUF file (it claims {count} bytes where {self.left} are left)")


#: How the parts of one GGUF file are named, and how many may be read.
_PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
MOST_PARTS = 200


class GgufHeader(TypedDict):
    """What a GGUF file says of its model."""

    architecture: str
    #: Of all its tensors, and how many weights they have.
    bytes: int
    weights: int
    #: Its sizes, by their names without the architecture.
    sizes: dict[str, int]
    #: What turns pictures into tokens, where that is what it is.
    projector: str


def models_in(names: Iterable[str]) -> list[str]:
    """The GGUF files that are models; what one sees with counts where it is alone."""
    ggufs = sorted(name for name in names if name.endswith(".gguf"))
    return [name for name in ggufs if not PROJECTOR_FILE.search(name)] or ggufs


def gguf_in(path: str) -> GgufHeader:
    file, size = ordinary(path)
    with file:
        reader = _Gguf(file, size)
        reader.begin()
        # At least: a tensor has a name, a number of dimensions, a type and an offset; a value has a name and a type.
        tensors, values = reader.many(24), reader.many(13)
        architecture, alignment, projector = "", 32, ""
        sizes: dict[str, int] = {}
        for _ in range(values):
            key, kind = reader.text(65_535), reader.number(4)
            if key == "general.architecture" and kind == _STRING:
                architecture = reader.text(LONGEST_NAME)
            elif key == "general.alignment" and kind == 4:
                alignment = reader.number(4)
            elif key in PROJECTOR and kind == _STRING:
                projector = reader.text(LONGEST_NAME)
            elif kind in _INTEGERS and key.startswith(f"{architecture}.") and len(key) <= LONGEST_NAME:
                sizes[key.removeprefix(f"{architecture}.")] = reader.number(_VALUE_BYTES[kind])
            else:
                reader.skip(kind)
        if not 1 <= alignment <= 2**20:
            raise Unreadable(f"is not a complete GGUF file (it is aligned to {alignment} bytes)")
        extents = [_gguf_tensor(reader) for _ in range(tensors)]
        room = reader.data_bytes(alignment)
    total = sum(length for _, length, _ in extents)
    if any(start + length > room for start, length, _ in extents) or total > max(room, 0):
        raise Unreadable("is not a complete GGUF file (its tensors do not fit into it)")
    weights = sum(numbers for _, _, numbers in extents)
    few = dict(list(sizes.items())[:MOST_SIZES])
    return {
        "architecture": architecture,
        "bytes": total,
        "weights": weights,
        "sizes": few,
        "projector": projector,
    }


def _gguf_tensor(reader: _Gguf) -> tuple[int, int, int]:
    """The tensor's offset in the data, its bytes, and how many weights it has."""
    reader.text(65_535)
    dimensions = reader.number(4)
    if dimensions > MOST_DIMENSIONS:
        raise Unreadable(f"is not a complete GGUF file (a tensor has {dimensions} dimensions)")
    numbers = math.prod(reader.number(8) for _ in range(dimensions))
    kind, start = reader.number(4), reader.number(8)
    if kind not in GGML_BLOCKS:
        raise Unreadable(f"is not a complete GGUF file (a tensor has the type {kind})")
    block, size = GGML_BLOCKS[kind]
    return start, -(-numbers // block) * size, numbers


# --------------------------------------------------------------------------------------------------- all of a place


class PlaceInventory(TypedDict):
    files: dict[str, int]
    configs: dict[str, object]
    parts: dict[str, list[str]]
    weights: dict[str, dict[str, object]]
    #: Why a file could not be read; only a launch that needs the file fails for it.
    wrong: dict[str, str]


def inventory(place: str, roots: tuple[str, ...] = ()) -> PlaceInventory:
    """The inventory of a folder or of one file."""
    if os.path.isdir(place):
        files, base = files_in(place, roots), place
    else:
        file, size = ordinary(place)
        file.close()
        if roots and not _is_inside(os.path.realpath(place), roots):
            raise Unreadable("is a link that leads out of the folders that may be used")
        base, name = os.path.split(place)
        files = {name: size, **_other_parts(base, name, roots)}
    answer: PlaceInventory = {"files": files, "configs": {}, "parts": {}, "weights": {}, "wrong": {}}
    tensors = 0
    ggufs = models_in(files)
    is_alone = len({_PART.sub("", name) for name in ggufs}) == 1
    # The top first, so that a limit cuts off what lies deep.
    for name in sorted(files, key=lambda name: (name.count("/"), name)):
        path = os.path.join(base, name)
        try:
            if os.path.basename(name) in CONFIGS and name.count("/") < 2 and len(answer["configs"]) < MOST_CONFIGS:
                answer["configs"][name] = config_in(path)
            elif name == TOKENIZER:
                answer["configs"][name] = tokenizer_in(path)
            elif name.endswith(INDEX) and name.count("/") < 2:
                answer["parts"][name] = parts_in(path)
            elif name.endswith(".safetensors"):
                rows = safetensors_in(path)
                tensors += len(rows)
                answer["weights"][name] = {**_sums(rows), "tensors": rows if tensors <= MOST_TENSORS else None}
            elif name in ggufs and is_alone:
                answer["weights"][name] = dict(gguf_in(path))
        except Unreadable as reason:
            answer["wrong"][name] = str(reason)
    return answer


def _other_parts(base: str, name: str, roots: tuple[str, ...]) -> dict[str, int]:
    """The sizes of the files beside the first part of a GGUF file that make a whole with it."""
    match = _PART.search(name)
    if match is None:
        return {}
    sizes = {}
    for number in range(1, min(int(match[2]), MOST_PARTS) + 1):
        part = f"{name[: match.start()]}-{number:05}-of-{match[2]}.gguf"
        path = os.path.join(base, part)
        if os.path.isfile(path) and (not roots or _is_inside(os.path.realpath(path), roots)):
            sizes[part] = os.path.getsize(path)
    return sizes


def _sums(rows: list[tuple[str, list[int], int, bool]]) -> dict[str, int]:
    plain = [row for row in rows if row[3]]
    return {
        "numbers": sum(math.prod(shape) for _, shape, _, _ in rows),
        "bytes": sum(size for _, _, size, _ in rows),
        "plain_numbers": sum(math.prod(shape) for _, shape, _, _ in plain),
        "plain_bytes": sum(size for _, _, size, _ in plain),
    }


def _limit() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CPU, (MOST_CPU_S, MOST_CPU_S))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    # macOS has the name and refuses the number.
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY_BYTES, MOST_MEMORY_BYTES))


def main() -> None:
    _limit()
    order = json.load(sys.stdin)
    try:
        answer = inventory(order["place"], tuple(order["roots"]))
        text = json.dumps(answer)
        if len(text) > MOST_ANSWER_BYTES:
            for weights in answer["weights"].values():
                weights.pop("tensors", None)
            text = json.dumps(answer)
        if len(text) > MOST_ANSWER_BYTES:
            raise Unreadable("is too large: give the folder of one model")
    except Unreadable as reason:
        text = json.dumps({"refused": str(reason)})
    except MemoryError:
        text = json.dumps({"refused": f"takes more than {MOST_MEMORY_BYTES // 2**20} MiB to be read"})
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
