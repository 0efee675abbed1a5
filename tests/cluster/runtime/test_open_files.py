from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from cluster.runtime.open_files import LEAST, WANTED, wanted_of, warning_of

NO_LIMIT = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "hard", "wanted"),
    [
        (1024, 4096, 4096),
        (1024, 1_000_000, WANTED),
        (256, NO_LIMIT, WANTED),
        (100_000, 1_000_000, 100_000),
        (NO_LIMIT, NO_LIMIT, NO_LIMIT),
        (512, 512, 512),
    ],
)
def test_the_limit_is_raised_as_far_as_it_goes_and_never_lowered(soft: int, hard: int, wanted: int) -> None:
    assert wanted_of(soft, hard) == wanted


def test_too_few_are_told_by_their_number() -> None:
    assert warning_of(LEAST) is warning_of(NO_LIMIT) is None
    assert "may have 512 files and connections open here, and 4096 are needed" in (warning_of(512) or "")


def test_a_process_raises_its_own() -> None:
    program = (
        "import resource as r; from cluster.runtime.open_files import raise_limit\n"
        "_, hard = r.getrlimit(r.RLIMIT_NOFILE)\n"
        "r.setrlimit(r.RLIMIT_NOFILE, (300, min(hard, 5000)))\n"
        "print(raise_limit(), *r.getrlimit(r.RLIMIT_NOFILE))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    limit, soft, hard = map(int, done.stdout.split())
    assert limit == soft == hard > 300
