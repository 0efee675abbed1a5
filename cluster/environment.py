"""Decides which environment variables a launch may set, and which ones a process gets that we start."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Mapping

from cluster import errors
from cluster.names import cut, nearest

#: What a launch may set: how much a library computes at once, and how it keeps memory. None of these names a file, a
#: program, an address or a plugin, so the worst that a value can do is to make the caller's own model slow.
SETTABLE = frozenset(
    """
    OMP_NUM_THREADS OMP_WAIT_POLICY OMP_PROC_BIND OMP_PLACES OMP_DYNAMIC GOMP_SPINCOUNT GOMP_CPU_AFFINITY
    KMP_BLOCKTIME KMP_AFFINITY MKL_NUM_THREADS MKL_DYNAMIC OPENBLAS_NUM_THREADS BLIS_NUM_THREADS
    NUMEXPR_NUM_THREADS NUMEXPR_MAX_THREADS VECLIB_MAXIMUM_THREADS RAYON_NUM_THREADS TOKENIZERS_PARALLELISM
    ONEDNN_PRIMITIVE_CACHE_CAPACITY ONEDNN_MAX_CPU_ISA ONEDNN_DEFAULT_FPMATH_MODE ATEN_CPU_CAPABILITY
    PYTORCH_ALLOC_CONF PYTORCH_CUDA_ALLOC_CONF PYTORCH_NO_CUDA_MEMORY_CACHING PYTORCH_ENABLE_MPS_FALLBACK
    PYTORCH_MPS_HIGH_WATERMARK_RATIO PYTORCH_MPS_LOW_WATERMARK_RATIO TORCHDYNAMO_DISABLE TORCH_COMPILE_DISABLE
    TORCH_CUDNN_V8_API_DISABLED TORCH_ALLOW_TF32_CUBLAS_OVERRIDE NVIDIA_TF32_OVERRIDE CUBLAS_WORKSPACE_CONFIG
    CUDA_LAUNCH_BLOCKING CUDA_MODULE_LOADING CUDA_DEVICE_MAX_CONNECTIONS
    NCCL_DEBUG NCCL_P2P_DISABLE NCCL_IB_DISABLE NCCL_SHM_DISABLE NCCL_CUMEM_ENABLE
    TRANSFORMERS_VERBOSITY DIFFUSERS_VERBOSITY HF_HUB_OFFLINE TRANSFORMERS_OFFLINE HF_HUB_DISABLE_PROGRESS_BARS
    VLLM_ATTENTION_BACKEND VLLM_LOGGING_LEVEL VLLM_USE_V1 VLLM_CPU_KVCACHE_SPACE VLLM_CPU_OMP_THREADS_BIND
    VLLM_WORKER_MULTIPROC_METHOD VLLM_ALLOW_LONG_MAX_MODEL_LEN VLLM_USE_FLASHINFER_SAMPLER
    """.split()
)

#: No setting gives these to a caller: where weights come from, who is let in, and which cards placement chose.
_OPERATORS = re.compile(
    r"(CLUSTER|RAY)_\w*|\w*_(TOKEN|TOKEN_PATH|API_KEY|ENDPOINT|DOMAIN)|(HTTPS?|ALL|NO)_PROXY|HF_HOME"
    r"|\w*VISIBLE_DEVICES|ZE_AFFINITY_MASK|ONEAPI_DEVICE_SELECTOR",
    re.IGNORECASE,
)

#: What any program may need to run at all.
_USUAL = frozenset(
    """
    PATH HOME USER LOGNAME TMPDIR TZ LANG LANGUAGE LC_ALL LC_CTYPE LD_LIBRARY_PATH DYLD_LIBRARY_PATH
    HF_HOME HF_MODULES_CACHE XDG_CACHE_HOME TESSDATA_PREFIX
    """.split()
)


def split(envs: Mapping[str, str] | None, allowed: Collection[str]) -> tuple[dict[str, str], tuple[str, ...]]:
    """The variables of a launch that are set, and the names of the others; `allowed` are the names that the operator
    added."""
    envs = envs or {}
    taken = {name: text for name, text in envs.items() if _may_be_set(name, allowed)}
    return taken, tuple(name for name in envs if name not in taken)


def refuse_others(envs: Mapping[str, str] | None, allowed: Collection[str]) -> None:
    """Raises for the first variable that a launch may not set."""
    for name in split(envs, allowed)[1]:
        short = cut(name)
        if _OPERATORS.fullmatch(name):
            raise errors.BadOption(
                f"envs cannot set {short}: only the operator can, in the server's own environment.",
                "envs",
            )
        near = nearest(name.upper(), SETTABLE | set(allowed), cutoff=0.8)
        hint = f"did you mean {near[0]}? Otherwise s" if near else "s"
        raise errors.BadOption(
            f"envs cannot set {short}; {hint}tart the server with CLUSTER_ALLOW_ENVS={short} if launches may.",
            "envs",
        )


def _may_be_set(name: str, allowed: Collection[str]) -> bool:
    return name in SETTABLE or (name in allowed and not _OPERATORS.fullmatch(name))


def for_child(**variables: str) -> dict[str, str]:
    """The environment of a process that we start. It is built from a list, so that it holds no secret and nothing that
    makes a library run a program."""
    taken = {name: text for name, text in os.environ.items() if name in _USUAL or name in SETTABLE}
    return {**taken, **variables}


def for_python(**variables: str) -> dict[str, str]:
    """The same for a Python that imports what this one can; with `ISOLATED`, no other folder is searched."""
    return for_child(PYTHONPATH=os.pathsep.join(filter(os.path.isabs, sys.path)), **variables)


#: Starts a Python whose imports come from PYTHONPATH and the installation, not from the folder or the user's own.
ISOLATED = (sys.executable, "-s", "-P")
