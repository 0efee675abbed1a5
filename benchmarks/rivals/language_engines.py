"""Engines of language models without anything of ours around them, each in a process of its own.

python -m benchmarks.rivals.language_engines openvino FOLDER THREADS     answers orders on stdin, one line each
python -m benchmarks.rivals.language_engines llamacpp FILE THREADS SLOTS  serves HTTP; prints its address
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any


def openvino(folder: str, threads: int) -> None:
    """A line holds the prompts of one round and how many tokens each answer has; a line comes back with the seconds
    until the first token of each, and until the last of all."""
    import numpy
    import openvino as ov
    import openvino_genai
    from tokenizers import Tokenizer

    scheduler = openvino_genai.SchedulerConfig()
    scheduler.num_kv_blocks, scheduler.max_num_seqs, scheduler.enable_prefix_caching = 1357, 16, True
    pipeline = openvino_genai.ContinuousBatchingPipeline(folder, scheduler, "CPU", {"INFERENCE_NUM_THREADS": threads})
    tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
    numbers = iter(range(10**9))
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        started = time.perf_counter()
        handles: dict[int, Any] = {}
        for prompt in order["prompts"]:
            config = openvino_genai.GenerationConfig(max_new_tokens=order["tokens"], ignore_eos=True)
            config.apply_chat_template = False
            ids = tokenizer.encode(prompt).ids
            number = next(numbers)
            handles[number] = pipeline.add_request(number, ov.Tensor(numpy.array([ids], numpy.int64)), config)
        firsts: dict[int, float] = {}
        made = 0
        while pipeline.has_non_finished_requests():
            pipeline.step()
            for number, handle in handles.items():
                while handle.can_read():
                    made += sum(len(output.generated_ids) for output in handle.read().values())
                    firsts.setdefault(number, time.perf_counter() - started)
        assert made == order["tokens"] * len(handles), made
        print(json.dumps({"firsts": list(firsts.values()), "seconds": time.perf_counter() - started}), flush=True)


def llamacpp(file: str, threads: int, slots: int) -> None:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel = file, 4608 * slots, slots
    params.verbosity, params.ui = -1, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    engine, place, *counts = sys.argv[1:]
    numbers = [int(count) for count in counts]
    if engine == "openvino":
        openvino(place, numbers[0])
    else:
        llamacpp(place, *numbers[:2])
