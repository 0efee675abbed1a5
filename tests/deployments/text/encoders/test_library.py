from __future__ import annotations

import subprocess
import sys
import textwrap


def told_by(program: str) -> list[str]:
    """The lines that a separate process prints. In this one other tests have imported everything already."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


#: What a worker imports, and then somebody who needs what was left out. Each import of the real ones takes seconds.
NEEDING = """
    import sys
    import deployments
    {before}
    print(*[name for name in sys.modules if name.partition(".")[0] in ("sklearn", "scipy", "peft", "bitsandbytes")])
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
REAL = "scipy.sparse._coo True peft.peft_model"


def test_a_worker_does_without_what_only_training_needs_and_whoever_needs_it_gets_the_real_one() -> None:
    assert told_by(NEEDING.format(before="import deployments.text.encoders.engines")) == ["", REAL, "ImportError"]


def test_whoever_had_the_real_one_before_keeps_it() -> None:
    before, *after = told_by(NEEDING.format(before="import scipy.sparse, sklearn.metrics, peft"))
    assert "peft" in before.split() and after == [REAL, "coo_matrix"]
