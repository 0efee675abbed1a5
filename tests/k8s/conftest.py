"""A network for pods, if this machine allows one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.k8s.pods import Network, why_not


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    reason = why_not()
    if reason:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("pods")
    # Pods run as other users than the tests.
    for path in (folder, folder.parent, folder.parent.parent):
        path.chmod(0o755)
    made = Network(folder)
    yield made
    made.close()
