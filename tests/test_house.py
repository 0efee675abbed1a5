"""Limits for how the sources are written: sizes, names, types, cycles. `make house` shows where each comes from."""

from __future__ import annotations

import pytest

from tests import house
from tests.house import Source

#: How much there may be. What is smaller by now is written down here, so that it stays so.
LIMITS: dict[str, float] = {
    "largest file": 500,
    "largest class": 300,
    "largest function": 100,
    "import cycles": 0,
    "imports of our own inside functions": 4,
    "class names used twice": 0,
    "vague locals, %": 0.3,
    "Any per 1,000 lines": 7.5,
    "filler None in errors": 0,
    "method names in strings": 0,
    "contracts told by hasattr": 0,
    "broad excepts without a reason": 0,
}

#: What to do about it.
ADVICE = {
    "largest file": "A file with two subjects is split along the seam, its test with it.",
    "largest class": "Move what decides into plain functions, or a part with state of its own into a class of its own.",
    "largest function": "Give its steps names.",
    "import cycles": "Move what both need to where neither has to look.",
    "imports of our own inside functions": "Import at the top; only what brings in a model library or Ray may wait.",
    "class names used twice": "Rename the one whose new name says more.",
    "vague locals, %": "Say what the local holds.",
    "Any per 1,000 lines": "Name the type, or the part of it that is used, by a Protocol.",
    "filler None in errors": "Leave the argument out, or give the later one by its name.",
    "method names in strings": "Give it a method, so that the type checker sees the call.",
    "contracts told by hasattr": "Let the class say by its contract what it can.",
    "broad excepts without a reason": "Say beside it why all errors are caught, or catch those that are meant.",
}


@pytest.fixture(scope="module")
def files() -> list[Source]:
    return house.sources()


@pytest.fixture(scope="module")
def figures(files: list[Source]) -> dict[str, float]:
    return house.figures(files)


@pytest.mark.parametrize("name", LIMITS)
def test_the_house_keeps_its_limits(name: str, files: list[Source], figures: dict[str, float]) -> None:
    figure, limit = figures[name], LIMITS[name]
    assert figure <= limit, f"{name}: {figure:g}, and {limit:g} is the most. {ADVICE[name]}\n" + "\n".join(
        house.offenders(name, files)
    )


def test_every_figure_has_a_limit_and_an_advice(figures: dict[str, float]) -> None:
    assert set(figures) == set(LIMITS) == set(ADVICE)


#: A file with each kind of fault, and the figure that must report it.
FAULTS = {
    "class names used twice": "class Worker: ...\n",
    "imports of our own inside functions": "def f():\n    from cluster import errors\n",
    "vague locals, %": "def f(x):\n    for one in x:\n        print(one)\n",
    "Any per 1,000 lines": "def f(x: dict[str, Any]) -> None: ...\n",
    "filler None in errors": "errors.BadRequest('no', None, 'size')\n",
    "method names in strings": "class Client:\n    async def launch(self, s):\n        await s.call('launch', 1)\n",
    "contracts told by hasattr": "def f(self):\n    return hasattr(self._family, 'stream')\n",
    "broad excepts without a reason": "try:\n    f()\nexcept (OSError, Exception):\n    pass\n",
    "import cycles": "import cluster.first\n",
    "largest file": "#\n" * 50,
    "largest class": "class Long:\n" + "    x = 1\n" * 30,
    "largest function": "def long():\n" + "    f()\n" * 30,
}


def test_suppressing_all_errors_needs_a_reason_as_well() -> None:
    texts = {
        "bare": "with suppress(OSError, Exception):\n    f()\n",
        "with_reason": "# A plugin raises anything.\nwith suppress(Exception):\n    f()\n",
        "narrow": "with suppress(OSError):\n    f()\n",
    }
    files = [Source(f"cluster/{name}.py", text) for name, text in texts.items()]
    assert [place.file for place in house.broad_excepts_without_reason(files)] == ["cluster/bare.py"]


@pytest.mark.parametrize("name", FAULTS)
def test_each_figure_tells_its_fault_and_where_it_is(name: str) -> None:
    first = Source("cluster/first.py", "import cluster.second\n\n\nclass Worker: ...\n\n\ndef f(): ...\n")
    before = house.figures([first, Source("cluster/second.py", "")])
    after = [first, Source("cluster/second.py", FAULTS[name])]
    assert house.figures(after)[name] > before[name]
    assert any("cluster/second.py" in line or "cluster.second" in line for line in house.offenders(name, after))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("class names used twice", "class Echo:\n    class Worker: ...\n"),
        ("class names used twice", "class _Worker: ...\n"),
        ("vague locals, %", "def f(one, found): ...\n"),
        ("filler None in errors", "errors.BadRequest('no', 'size')\n"),
        ("broad excepts without a reason", "try:\n    f()\nexcept Exception:  # whatever a plugin raises\n    pass\n"),
        ("broad excepts without a reason", "try:\n    f()\nexcept Exception:\n    # A plugin.\n    pass\n"),
        ("contracts told by hasattr", "def f(value):\n    return hasattr(value, 'tobytes')\n"),
        ("import cycles", "from cluster import third\n"),
    ],
)
def test_what_is_no_fault_is_not_counted(name: str, text: str) -> None:
    first = Source("cluster/first.py", "import cluster.second\n\n\nclass Worker: ...\n")
    assert house.figures([first, Source("cluster/second.py", text), Source("cluster/third.py", "")])[name] == 0


def test_the_report_shows_every_figure(files: list[Source], figures: dict[str, float]) -> None:
    text = "\n".join(house.report(files))
    assert all(f"\n{name}: " in text for name in figures)
    assert "cluster/control" in text and "deployments/ingress" in text
