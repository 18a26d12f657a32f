"""The digest of the sources: what counts and what does not."""

from __future__ import annotations

import functools
import shutil
import sys
import time
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ablations import provenance
from simsiam.methods import METHODS

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "simsiam").mkdir()
    (tmp_path / "ablations").mkdir()
    (tmp_path / "ablations" / "trial.py").write_text("from simsiam import loss\n")
    (tmp_path / "simsiam" / "method.py").write_text("from simsiam.loss import f\n")
    monkeypatch.setattr(provenance, "_PACKAGES", (tmp_path / "simsiam", tmp_path / "ablations"))
    return tmp_path


def forget() -> None:
    """What was read of the files."""
    for each in (provenance._tree, provenance._imported, provenance._digest):
        each.cache_clear()


def digest(tree: Path, source: str) -> str:
    (tree / "simsiam" / "loss.py").write_text(source)
    forget()
    return provenance._sources.__wrapped__("simsiam")


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
    assert digest(tree, VARIED) == "fe123931ea2895d8"


def test_many_threads_that_ask_at_once_make_the_digest_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def digest(*_: object) -> str:
        made.append(time.sleep(0.05))
        return "a digest"

    monkeypatch.setattr(provenance, "digest", digest)
    monkeypatch.setattr(provenance, "_sources", functools.cache(provenance._sources.__wrapped__))
    with ThreadPoolExecutor(16) as pool:
        assert set(pool.map(lambda _: provenance.sources(), range(16))) == {"a digest"}
    assert len(made) == 1


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The packages, to be edited."""
    for package in provenance._PACKAGES:
        shutil.copytree(package, tmp_path / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


@pytest.fixture(scope="module")
def before() -> dict[str, str]:
    """The digests of the packages as they are."""
    return digests(ROOT)


def digests(copied: Path) -> dict[str, str]:
    """Method -> the digest of what it can reach."""
    forget()
    return {name: provenance.digest(copied / "simsiam", copied / "ablations", name) for name in METHODS}


def edited(copied: Path, name: str) -> None:
    with open(copied / name, "a") as file:
        file.write("\nADDED = 1\n")


def test_code_of_two_places_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    provenance.check_one_place()
    (tmp_path / "late.py").write_text("")
    late = types.ModuleType("simsiam.late")
    late.__file__ = str(tmp_path / "late.py")
    monkeypatch.setitem(sys.modules, "simsiam.late", late)
    with pytest.raises(RuntimeError, match=r"of two places: .*late\.py is not within .*simsiam"):
        provenance.check_one_place()


def test_the_digest_is_of_these_sources(copied: Path) -> None:
    found = digests(copied)
    assert found == {name: provenance.sources(name) for name in METHODS}
    others = {name: digest for name, digest in found.items() if name != "none"}
    assert len(set(others.values())) == len(others)
    assert provenance.sources("none") == provenance.sources("simsiam")  # it has no code of its own


@pytest.mark.parametrize(
    "name",
    ["simsiam/objective.py", "simsiam/model.py", "simsiam/batch_norm.py", "simsiam/protocols.py", "ablations/trial.py"],
)
def test_code_that_all_methods_reach_makes_all_results_stale(name: str, copied: Path, before: dict[str, str]) -> None:
    edited(copied, name)
    after = digests(copied)
    assert not [method for method in METHODS if before[method] == after[method]]


@pytest.mark.parametrize(
    ("name", "stale"),
    [
        ("simsiam/relatives/simclr.py", ["simclr"]),
        ("simsiam/relatives/moco.py", ["moco"]),
        ("simsiam/alternation.py", ["alternation"]),
        ("simsiam/expectation.py", ["expectation"]),
        ("simsiam/supervised.py", ["supervised"]),
        ("simsiam/relatives/new.py", []),
        ("simsiam/methods.py", []),
        ("simsiam/recipes.py", []),
        ("simsiam/data/parquet.py", []),
        ("simsiam/data/new.py", []),
        ("ablations/printed.py", []),
    ],
)
def test_a_method_a_recipe_or_a_layout_of_data_makes_no_other_result_stale(
    name: str, stale: list[str], copied: Path, before: dict[str, str]
) -> None:
    edited(copied, name)
    after = digests(copied)
    assert [method for method in METHODS if before[method] != after[method]] == stale
