from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from cluster.runtime.heartbeat import Heart, beats


def test_a_beat_says_who_and_how_long_ago(tmp_path: Path) -> None:
    Heart(tmp_path, "ingress").beat()
    (beat,) = beats(tmp_path)
    assert (beat.kind, beat.pid) == ("ingress", os.getpid()) and beat.age_s < 5
    long_ago = time.monotonic_ns() - 60 * 10**9
    os.utime(tmp_path / f"ingress-{os.getpid()}", ns=(long_ago, long_ago))
    (beat,) = beats(tmp_path)
    assert 60 <= beat.age_s < 65


def test_whoever_has_ended_is_forgotten(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    path = tmp_path / f"supervisor-{ended.pid}"
    path.touch()
    assert list(beats(tmp_path)) == [] and not path.exists()


def test_without_a_folder_nobody_is_missed_and_nobody_fails(tmp_path: Path) -> None:
    Heart(tmp_path / "none", "ingress").beat()
    assert list(beats(tmp_path / "none")) == []


def test_nobody_watches_over_a_process_that_has_stopped_its_heart(tmp_path: Path) -> None:
    heart = Heart(tmp_path, "ingress")
    heart.beat()
    heart.stop()
    assert list(beats(tmp_path)) == []
    heart.stop()
