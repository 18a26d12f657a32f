"""The digest of the sources: what counts and what does not."""

from __future__ import annotations

import functools
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ablations import provenance


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "simsiam").mkdir()
    (tmp_path / "ablations").mkdir()
    (tmp_path / "ablations" / "trial.py").write_text("x = 1\n")
    monkeypatch.setattr(provenance, "_PACKAGES", (tmp_path / "simsiam", tmp_path / "ablations"))
    return tmp_path


def digest(tree: Path, source: str) -> str:
    (tree / "simsiam" / "loss.py").write_text(source)
    return provenance._sources.__wrapped__()


def test_comments_docstrings_and_layout_do_not_count(tree: Path) -> None:
    plain = digest(tree, "def f(x):\n    return -x\n")
    assert digest(tree, '"""A file."""\n\ndef f( x ):  # minus\n    """Minus."""\n    return (-x)\n') == plain


@pytest.mark.parametrize(
    "changed",
    [
        "def f(x):\n    return x\n",
        "def g(x):\n    return -x\n",
        "def f(x, y=1):\n    return -x\n",
        "def f(x):\n    'a'; return -x\ny = 2",
    ],
)
def test_what_is_computed_counts(tree: Path, changed: str) -> None:
    assert digest(tree, changed) != digest(tree, "def f(x):\n    return -x\n")


def test_a_string_that_is_no_docstring_counts(tree: Path) -> None:
    assert digest(tree, "x = 'a'\n") != digest(tree, "x = 'b'\n")


# Functions, classes, f-strings, hints: where syntax trees of Python 3.11, 3.12 and 3.13 differ in form.
VARIED = """
import a.b as c
class K(c.Base, metaclass=M):
    x: int | None = 1.5
    @property
    def f(self, *args: int, y=2, **kw) -> str:
        return f"{self.x!r:>{y}} {args}" f"tail"
async def g():
    match x:
        case [1, *rest] if rest: yield lambda z: (z := 3)
"""


def test_other_versions_of_python_agree(tree: Path) -> None:
    # Else the results of a machine with another Python would all look stale.
    assert digest(tree, VARIED) == "634587be45dc3e76"


def test_many_threads_that_ask_at_once_make_the_digest_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def digest(*_: Path) -> str:
        made.append(time.sleep(0.05))
        return "a digest"

    monkeypatch.setattr(provenance, "digest", digest)
    monkeypatch.setattr(provenance, "_sources", functools.cache(provenance._sources.__wrapped__))
    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(lambda _: provenance.sources(), range(16))) == {"a digest"}
    assert len(made) == 1
