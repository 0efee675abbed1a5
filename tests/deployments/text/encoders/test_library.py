from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest


def told_by(program: str) -> list[str]:
    """What a separate process prints. In this one other tests have imported everything already."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_worker_does_without_what_only_training_needs() -> None:
    program = """
        import sys
        import deployments.text.encoders.engines
        print(*[name for name in sys.modules if name.partition(".")[0] in ("sklearn", "scipy", "peft", "bitsandbytes")])
    """
    assert told_by(program) == []


@pytest.mark.parametrize(
    ("before", "kept"), [("", "ImportError"), ("import scipy.sparse, sklearn.metrics, peft", "coo_matrix")]
)
def test_whoever_needs_it_gets_the_real_one(before: str, kept: str) -> None:
    program = f"""
        import deployments
        {before}
        from deployments.text.encoders.library import sentence_transformers
        sentence_transformers()
        import peft, scipy.sparse, sklearn.metrics
        from sentence_transformers.util import tensor
        print(scipy.sparse.coo_matrix.__module__, callable(sklearn.metrics.f1_score), peft.PeftModel.__module__)
        try:
            print(type(tensor.coo_matrix(([], ([], [])), shape=(1, 1))).__name__)
        except ImportError as error:
            print(type(error).__name__)
    """
    assert told_by(program) == ["scipy.sparse._coo", "True", "peft.peft_model", kept]
