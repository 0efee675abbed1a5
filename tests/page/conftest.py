from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.page.looking import Eyes, opened_eyes


@pytest.fixture(scope="module")
def eyes() -> Iterator[Eyes]:
    """Skips where there is no browser."""
    with opened_eyes() as eyes:
        yield eyes
