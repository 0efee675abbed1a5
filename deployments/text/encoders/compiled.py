"""The body of a model on ONNX Runtime or OpenVINO: exported once per machine, in a process of its own, then loaded.

The conversion imports an exporter and a quantiser that no worker needs afterwards, so a child does it; what it wrote
stays on disk for the next launch.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cluster import errors
from cluster.value import JsonObject
from deployments.conversions import run
from deployments.text.encoders import conversion, export
from deployments.text.encoders.conversion import EXPORTED, ONNX_INT8, OPENVINO_INT8
from deployments.text.engine_limits import TWICE_BYTES
from deployments.text.tokenizing import Encoded
from deployments.vectors import Arrays, Floats

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from openvino import CompiledModel

#: OpenVINO needs some milliseconds to prepare for each new shape, so lengths are rounded up to multiples of this.
MULTIPLE = 8
#: Lengths of single short texts, which it prepares for at the start.
SHORT_LENGTHS = range(MULTIPLE, 65, MULTIPLE)


class Compiled(Protocol):
    #: What lengths are rounded up to.
    multiple: int

    def __call__(self, arrays: Arrays, is_alone: bool = False) -> Floats:
        """The body's output for one padded batch; any thread may call at any time. One that is alone may have all
        cores."""


class OnnxRuntime:
    multiple = 1

    def __init__(self, model: Path, threads: int, parallel: int) -> None:
        self._narrow = self._session(model, max(1, threads // parallel))
        self._wide = self._session(model, threads) if _may_be_twice(model, parallel) else self._narrow
        self._names = [item.name for item in self._narrow.get_inputs()]

    @staticmethod
    def _session(model: Path, threads: int) -> InferenceSession:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Threads that spin while they wait would keep the cores from the thread that reads the next request.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])

    def __call__(self, arrays: Arrays, is_alone: bool = False) -> Floats:
        session = self._wide if is_alone else self._narrow
        output: Floats = session.run(None, {name: arrays[name] for name in self._names})[0]
        return output


class OpenVino:
    multiple = MULTIPLE

    def __init__(self, model: Path, threads: int, parallel: int) -> None:
        self._narrow = self._compiled(model, threads, parallel)
        self._wide = self._compiled(model, threads, 1) if _may_be_twice(model, parallel) else self._narrow
        self._names = [item.get_any_name() for item in self._narrow.inputs]
        self._local = threading.local()
        for length in SHORT_LENGTHS:
            self({name: np.ones((1, length), dtype=np.int64) for name in self._names}, is_alone=True)

    @staticmethod
    def _compiled(model: Path, threads: int, streams: int) -> CompiledModel:
        import openvino

        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": streams,
            "INFERENCE_PRECISION_HINT": "bf16",
        }
        return openvino.Core().compile_model(str(model), "CPU", settings)

    def __call__(self, arrays: Arrays, is_alone: bool = False) -> Floats:
        name = "wide" if is_alone else "narrow"
        request = getattr(self._local, name, None)
        if request is None:
            request = (self._wide if is_alone else self._narrow).create_infer_request()
            setattr(self._local, name, request)
        outputs = request.infer({name: arrays[name] for name in self._names}, share_inputs=True, share_outputs=True)
        return np.array(outputs[0], dtype=np.float32)


def _may_be_twice(model: Path, parallel: int) -> bool:
    """Whether there is a second copy of the model that uses all cores, for a batch that is alone."""
    parts = (model, model.with_suffix(".bin"), model.with_name(f"{model.name}.data"))
    size = sum(file.stat().st_size for file in parts if file.exists())
    return parallel > 1 and size <= TWICE_BYTES


#: Engine -> the file it runs, and who runs it.
ENGINES: Mapping[str, tuple[str, Callable[[Path, int, int], Compiled]]] = {
    "onnx": (EXPORTED, OnnxRuntime),
    "onnx_int8": (ONNX_INT8, OnnxRuntime),
    "openvino_bf16": (EXPORTED, OpenVino),
    "openvino_int8": (OPENVINO_INT8, OpenVino),
}


def converted(
    engine: str,
    folder: Path,
    loader: JsonObject,
    sample: Sequence[Encoded],
    place: Path,
    threads: int,
    here: bool = False,
) -> Path:
    """The file that this engine runs, made now if it is not there yet. `loader` says how the model is loaded; `here`
    that this process ends soon, and may convert by itself."""
    file = place / ENGINES[engine][0]
    if file.exists():
        return file
    place.mkdir(parents=True, exist_ok=True)
    job = {
        "engine": engine,
        "folder": str(folder),
        "loader": dict(loader),
        "sample": [[list(text.ids), list(text.type_ids)] for text in sample],
        "place": str(place),
    }
    # In two processes: what quantises needs no torch.
    for module, made in ((export, place / EXPORTED), (conversion, file)):
        if made.exists():
            continue
        if here:
            module.convert(job)
        else:
            run(module.__name__, job, f"The model could not be converted for {engine}", threads)
    return file


def start(engine: str, file: Path, threads: int, parallel: int) -> Compiled:
    try:
        return ENGINES[engine][1](file, threads, parallel)
    except ImportError as error:
        raise errors.LoadFailed(
            f"The engine {engine} needs a library that is not installed: {error}; `pip install model-cluster[cpu]`."
        ) from None
