"""Folders and files of weights that were made to harm whoever reads them."""

from __future__ import annotations

import json
import os
import random
import struct
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from gguf import GGML_QUANT_SIZES, GGUFReader
from safetensors.numpy import save_file

from cluster import errors
from cluster.catalog.catalog import Catalog
from cluster.catalog.entry import Source
from cluster.launch import LaunchSpec
from cluster.settings import Settings
from cluster.weights import headers, inventory
from cluster.weights.inventory import inspected, read
from cluster.weights.locate import locate, names_in
from cluster.weights.memory import gguf_bytes, weight_bytes
from cluster.worker.planning import plan_of
from deployments import resolve
from tests.cluster.weights.test_memory import gguf_file

#: Seeds of the fuzzers, and how many files each makes.
SEED, MUTATIONS = 14, 1500
#: The memory that reading may take besides the size of the file, and how often that size may be taken: Python's own
#: objects are larger than the text that they are written in.
SPARE_BYTES, MULTIPLE = 2_000_000, 60


def header(tensors: object, data: int = 0) -> bytes:
    text = json.dumps(tensors).encode() if not isinstance(tensors, bytes) else tensors
    return struct.pack("<Q", len(text)) + text + bytes(data)


def tensor(shape: list[object], end: object, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}


#: A GGUF of 49 bytes with one list of 2^60 numbers.
HUGE_LIST = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"a" + struct.pack("<IIQ", 9, 4, 2**60)
GGUFS = {
    "a list of 2^60 numbers": HUGE_LIST,
    "a list of 2^60 texts": HUGE_LIST[:-12] + struct.pack("<IQ", 8, 2**60),
    "a list of lists of lists of lists": HUGE_LIST[:-12] + struct.pack("<IQIQIQIQ", 9, 1, 9, 1, 9, 1, 9, 1) + bytes(90),
    "2^62 values": b"GGUF" + struct.pack("<IQQ", 3, 0, 2**62),
    "2^62 tensors": b"GGUF" + struct.pack("<IQQ", 3, 2**62, 0),
    "a name of 2^63 letters": b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**63) + bytes(60),
    "a tensor of 2^63 sides": b"GGUF" + struct.pack("<IQQQ", 3, 1, 0, 0) + struct.pack("<IQIQ", 2**31, 1, 0, 0),
    "a tensor of 2^126 numbers": b"GGUF"
    + struct.pack("<IQQQ", 3, 1, 0, 0)
    + struct.pack("<IQQIQ", 2, 2**63, 2**63, 0, 0),
}
SAFETENSORS = {
    "a header of 2^62 bytes": struct.pack("<Q", 2**62) + b"{}" + bytes(100),
    "a header longer than the file": struct.pack("<Q", 1000) + b"{}",
    "lists in lists": header(b"[" * 100_000),
    "objects in objects": header(b'{"a":' * 100_000),
    "a list": header([1, 2]),
    "a tensor that is a number": header({"a": 1}),
    "a tensor without a place": header({"a": {"dtype": "F32", "shape": [1]}}),
    "a shape of 2^62": header({"a": tensor([2**62], 8)}, 8),
    "a shape of 100,000 sides": header({"a": tensor([2**40] * 100_000, 8)}, 8),
    "a shape that is true": header({"a": tensor([True], 4)}, 4),
    "a shape below nothing": header({"a": tensor([-1, -1], 4)}, 4),
    "a place beyond the end": header({"a": tensor([1], 2**62)}, 4),
    "a place that is a text": header({"a": tensor([1], "4")}, 4),
    "a number of 100,000 digits": header(b'{"a":{"dtype":"F32","shape":[' + b"9" * 100_000 + b"]}}"),
    "tensors on each other": header({str(number): tensor([1000], 4000) for number in range(1000)}, 4000),
}


# --------------------------------------------------------------------------------------------------- single files


@pytest.mark.parametrize("content", GGUFS.values(), ids=GGUFS)
def test_a_gguf_that_speaks_of_more_than_it_has_is_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(errors.LoadFailed, match="not a complete GGUF file"):
            gguf_bytes(read(file))
        assert tracemalloc.get_traced_memory()[1] < SPARE_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("content", SAFETENSORS.values(), ids=SAFETENSORS)
def test_a_safetensors_header_that_speaks_nonsense_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(errors.LoadFailed, match=r"model\.safetensors"):
        weight_bytes(read(tmp_path), 4.0)


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"a":' * 100_000, b" " * 12_000_000, b"9" * 100_000, b"\xff", b"{"])
def test_a_config_that_no_parser_should_see_tells_nothing(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(text)
    (tmp_path / "modules.json").write_bytes(text)
    found = read(tmp_path)
    assert found.config() == {} and set(found.wrong) == {"config.json", "modules.json"}


def test_a_config_of_500_MB_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(500_000_000)
    begun = time.monotonic()
    assert "500000000 bytes" in inspected(tmp_path).wrong["config.json"]
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("name", ["../../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "a\0b"])
def test_an_index_names_only_what_lies_beside_it(name: str, tmp_path: Path) -> None:
    part = "model-00001-of-00002.safetensors"
    save_file({"a": np.zeros(1)}, tmp_path / part)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": part, "b": name}}))
    with pytest.raises(errors.LoadFailed, match="names a file that is not beside it"):
        weight_bytes(read(tmp_path))


def test_block_sizes_are_those_of_the_formats_own_library() -> None:
    assert headers.GGML_BLOCKS == {int(kind): sizes for kind, sizes in GGML_QUANT_SIZES.items()}


def test_a_real_file_is_read_as_the_formats_own_library_reads_it(tmp_path: Path) -> None:
    file = gguf_file(tmp_path / "m.gguf")
    header, tensors = headers.gguf_in(str(file)), GGUFReader(file).tensors
    assert (header["architecture"], header["bytes"]) == ("flux", sum(int(row.n_bytes) for row in tensors))
    assert header["weights"] == sum(int(row.n_elements) for row in tensors)


# -------------------------------------------------------------------------------------------------------- folders


@pytest.mark.parametrize("roots", [(), ("/models",)], ids=["any", "roots"])
@pytest.mark.parametrize(
    "path",
    [
        "/" + "a" * 5000,
        "/a" * 5000,
        "~nobody-there/m",
        "loop",
        "/tmp/\ud800",
        "/etc/passwd",
        "/dev/zero",
        "/dev/null/m",
    ],
    ids=["long", "deep", "nobody's", "circle", "no text", "file", "device", "in a device"],
)
def test_a_path_that_cannot_be_is_the_callers_mistake(path: str, roots: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    path = str(tmp_path / path) if path == "loop" else path
    settings = Settings(home=tmp_path, model_roots=roots)
    for type, fields in (
        ("embedding", {"model_path": path}),
        ("image", {"model_path": path}),
        ("image", {"options": {"gguf_model_path": f"{path}.gguf"}}),
        ("image", {"options": {"lightning_model_path": f"{path}.safetensors"}}),
        ("image", {"options": {"controlnet": path}}),
        ("image", {"options": {"lora_modules": {"a": path}}}),
    ):
        name = "mine" if "model_path" in fields else "FLUX.1-dev"
        spec = LaunchSpec.model_validate({"model_name": name, "model_type": type, **fields})
        try:
            resolve(spec, Catalog.builtin(), settings)  # the folder may exist on another machine
        except errors.BadRequest as error:
            assert len(error.message) < 6000


def test_an_empty_path_is_none() -> None:
    assert LaunchSpec(model_name="m", model_path="").model_path is None


def test_pipes_and_devices_are_neither_waited_for_nor_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    os.mkfifo(tmp_path / "model.safetensors")
    (tmp_path / "model.gguf").symlink_to("/dev/zero")
    begun = time.monotonic()
    assert inspected(tmp_path).files == {} and names_in(tmp_path) == []
    for place in (tmp_path / "model.safetensors", tmp_path / "model.gguf", Path("/dev/zero")):
        with pytest.raises(errors.LoadFailed, match="is not an ordinary file"):
            inspected(place)
    assert time.monotonic() - begun < 5


def test_links_in_circles_end(tmp_path: Path) -> None:
    (tmp_path / "again").symlink_to(tmp_path)
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "back").symlink_to(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert read(tmp_path).files == {"config.json": 2}


def test_a_link_does_not_lead_out_of_the_folders_that_may_be_used(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("{}")
    folder = tmp_path / "models" / "m"
    folder.mkdir(parents=True)
    (folder / "config.json").symlink_to(tmp_path / "secret")
    for look in (lambda: inspected(folder, [tmp_path / "models"]), lambda: names_in(folder, [tmp_path / "models"])):
        with pytest.raises(errors.LoadFailed, match="leads out of the folders that may be used"):
            look()
    with pytest.raises(errors.LoadFailed, match="leads out of"):
        locate(Source(hub="local", id=str(folder)), home=tmp_path, roots=[tmp_path / "models"])
    (folder / "config.json").unlink()
    (tmp_path / "models" / "shared.json").write_text("{}")
    (folder / "config.json").symlink_to(tmp_path / "models" / "shared.json")
    assert inspected(folder, [tmp_path / "models"]).config() == {}


def test_a_folder_that_is_no_model_is_not_walked_for_ever() -> None:
    begun = time.monotonic()
    with pytest.raises(errors.LoadFailed, match=r"give the folder of one model|cannot be listed"):
        inspected(Path("/proc"))
    assert time.monotonic() - begun < headers.MOST_CPU_S + 15


# -------------------------------------------------------------------------------------- the process that reads them


def test_whoever_reads_has_little_memory(tmp_path: Path) -> None:
    """A header may have 24 MB; if these are brackets, Python makes 500 MB of lists of them."""
    (tmp_path / "model.safetensors").write_bytes(header(b'{"a":[' + b"[]," * 8_000_000 + b"[]]}"))
    with pytest.raises(errors.LoadFailed, match="takes more than 512 MiB to be read"):
        inspected(tmp_path)


def test_whoever_reads_has_no_secrets_and_does_not_outlive_the_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("PYTHONWARNINGS", "error")
    started: list[dict[str, str]] = []
    monkeypatch.setattr(inventory.environment, "for_child", lambda: started.append({}) or {})  # type: ignore[attr-defined, func-returns-value]
    before = {child.pid for child in psutil.Process().children()}
    inspected(tmp_path)
    assert started == [{}] and {child.pid for child in psutil.Process().children()} <= before


def test_the_dry_run_of_a_hostile_folder_is_an_answer_and_costs_this_process_nothing(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(HUGE_LIST)
    spec = LaunchSpec(
        model_name="FLUX.1-dev", model_type="image", options={"gguf_model_path": str(tmp_path / "m.gguf")}
    )
    before = psutil.Process().memory_info().rss
    begun = time.monotonic()
    with pytest.raises(errors.LoadFailed, match="claims 4611686018427387904 bytes where 0 are left"):
        resolve(spec, Catalog.builtin(), Settings(home=tmp_path))
    assert psutil.Process().memory_info().rss - before < 50_000_000
    print(f"\n{time.monotonic() - begun:.2f} s")


def test_a_dry_run_looks_once_at_each_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file({"a": np.zeros((10, 10), "float16")}, tmp_path / "model.safetensors")
    looks: list[Path] = []
    asked = inventory._answer_of_child
    monkeypatch.setattr(inventory, "_answer_of_child", lambda place, roots: looks.append(place) or asked(place, roots))  # type: ignore[func-returns-value]
    settings = Settings(home=tmp_path)
    with inventory.asking_once():
        spec = LaunchSpec(model_name="mine", model_type="image", model_path=str(tmp_path))
        wanted = resolve(spec, Catalog.builtin(), settings)
        assert plan_of(wanted, settings, on_card=False)
    assert looks == [tmp_path]


# --------------------------------------------------------------------------------------------------------- fuzzing


def mutated(content: bytes, dice: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(dice.choice((1, 1, 2, 4, 16))):
        place = dice.randrange(len(data) or 1)
        match dice.randrange(7):
            case 0:
                data[place : place + 1] = bytes([dice.randrange(256)])
            case 1:
                data[place : place + 8] = struct.pack("<Q", dice.choice((0, 1, 2**31, 2**60, 2**63, 2**64 - 1)))
            case 2:
                data[place : place + 4] = struct.pack("<I", dice.choice((0, 8, 9, 2**31, 2**32 - 1)))
            case 3:
                del data[place : place + dice.randrange(64)]
            case 4:
                data[place:place] = data[place : place + dice.randrange(64)]
            case 5:
                data[place:place] = dice.choice((b"[", b"{", b'"', b"-1", b"1e999", b"true", b"null", b",", b"9" * 30))
            case 6:
                data = data[: dice.randrange(len(data) + 1)]
        data = data or bytearray(b"\0")
    return bytes(data)


def fuzzed(name: str, content: bytes) -> Iterator[bytes]:
    dice = random.Random(f"{SEED} {name}")
    for _ in range(MUTATIONS):
        yield mutated(content, dice)


@pytest.mark.parametrize("name", ["m.gguf", "model.safetensors", "config.json", "model.safetensors.index.json"])
def test_no_mutation_is_more_than_an_error(name: str, tmp_path: Path) -> None:
    seed = tmp_path / "seed"
    if name == "m.gguf":
        gguf_file(seed)
    elif name == "model.safetensors":
        save_file({"a": np.zeros((4, 5), "float32"), "b": np.zeros(7, "float16")}, seed)
    elif name == "config.json":
        seed.write_text(json.dumps({"architectures": ["BertModel"], "block_out_channels": [1, 2], "a": {"b": [{}]}}))
    else:
        seed.write_text(json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}}))
    readers: dict[str, Callable[[str], object]] = {
        "m.gguf": headers.gguf_in,
        "model.safetensors": headers.safetensors_in,
        "config.json": headers.config_in,
        "model.safetensors.index.json": headers.parts_in,
    }
    file = tmp_path / name
    worst_s, answers, worst_bytes = 0.0, 0, 0
    for number, content in enumerate(fuzzed(name, seed.read_bytes())):
        file.write_bytes(content)
        is_measured = number % 20 == 0
        if is_measured:
            tracemalloc.start()
        begun = time.process_time()
        try:
            readers[name](str(file))
            answers += 1
        except headers.Unreadable as reason:
            assert len(str(reason)) < 500
        finally:
            worst_s = max(worst_s, time.process_time() - begun)
            if is_measured:
                worst_bytes = max(worst_bytes, tracemalloc.get_traced_memory()[1] - MULTIPLE * len(content))
                tracemalloc.stop()
    print(f"\n{name}: {answers} of {MUTATIONS} were answered, worst {worst_s * 1000:.1f} ms, {worst_bytes} bytes")
    assert answers and worst_s < 1 and worst_bytes < SPARE_BYTES


def test_no_mutation_of_a_folder_is_more_than_an_error_of_ours(tmp_path: Path) -> None:
    """Everything up to the estimate of memory is tried."""
    save_file({"a": np.zeros((4, 5), "float32")}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"architectures": ["BertModel"], "dtype": "float16"}')
    contents = {name: (tmp_path / name).read_bytes() for name in ("model.safetensors", "config.json")}
    dice = random.Random(SEED)
    for _ in range(500):
        name = dice.choice(list(contents))
        (tmp_path / name).write_bytes(mutated(contents[name], dice))
        try:
            assert 0 <= weight_bytes(read(tmp_path), 4.0) < 10_000
        except errors.ClusterError:
            pass
        (tmp_path / name).write_bytes(contents[name])
