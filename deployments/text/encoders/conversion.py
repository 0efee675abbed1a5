"""Quantises an exported model for an engine: `python -m deployments.text.encoders.conversion`, a job on stdin.

int8 weights per channel for ONNX Runtime, weights and activations calibrated for OpenVINO. It needs neither torch nor
transformers, which take seconds to import.
"""

from __future__ import annotations

import json
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cluster.value import JsonObject
from deployments.conversions import complete
from deployments.vectors import Arrays

#: The files of a model: as it was exported, and what is made of that.
EXPORTED, ONNX_INT8, OPENVINO_INT8 = "model.onnx", "model-int8.onnx", "model-int8.xml"
#: How much of what is hard to round in activations is moved into the weights before both are rounded. Less than NNCF's
#: own .95, which was chosen for larger models; vectors are nearer to fp32's, see benchmarks/LOG.md.
SMOOTHING = 0.8


def quantize_weights(source: Path, target: Path) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(source)
    # The shapes that the exporter noted are those of its example, and the quantiser would take them for the only ones.
    del model.graph.value_info[:]
    quantize_dynamic(
        model,
        target,
        per_channel=True,
        op_types_to_quantize=["MatMul", "Gemm"],
        use_external_data_format=True,
        weight_type=QuantType.QInt8,
        # Of what comes out of operations that ONNX does not describe.
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )


def calibrate(source: Path, target: Path, sample: Sequence[tuple[Sequence[int], Sequence[int]]]) -> None:
    """int8 weights and activations, the ranges of the latter as they are on the sample."""
    import nncf
    import openvino
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, AdvancedSmoothQuantParameters

    model = openvino.Core().read_model(str(source))
    names = {item.get_any_name() for item in model.inputs}

    def arrays(ids: Sequence[int], types: Sequence[int]) -> Arrays:
        inputs = {"input_ids": ids, "attention_mask": [1] * len(ids), "token_type_ids": types}
        return {name: np.array([values], dtype=np.int64) for name, values in inputs.items() if name in names}

    texts = [arrays(*text) for text in sample]
    done = nncf.quantize(
        model,
        nncf.Dataset(texts),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(texts),
        advanced_parameters=AdvancedQuantizationParameters(
            smooth_quant_alphas=AdvancedSmoothQuantParameters(matmul=SMOOTHING)
        ),
    )
    openvino.save_model(done, str(target))


def main() -> None:
    logging.disable(logging.WARNING)
    convert(json.load(sys.stdin))


def convert(job: JsonObject) -> None:
    folder = Path(job["place"])
    model = folder / EXPORTED
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore")
        if job["engine"] == "onnx_int8":
            complete(folder / ONNX_INT8, lambda file: quantize_weights(model, file))
        if job["engine"] == "openvino_int8":
            complete(folder / OPENVINO_INT8, lambda file: calibrate(model, file, job["sample"]))


if __name__ == "__main__":
    main()
