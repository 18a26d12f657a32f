"""What the README says is what the committed files give."""

from __future__ import annotations

import re
import shlex
import warnings
from pathlib import Path

import pytest

from ablations import options, results
from benchmarks import publish

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PUBLISHED = ROOT / "results" / "published" / "digits"


def test_the_tables_of_claims_are_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert publish.main([]) == 0
    tables = capsys.readouterr().out.strip().split("\n\n")
    assert len(tables) == 3  # the claims; those that tuning changes, and how many it does not
    assert all(table in README for table in tables)


def test_the_first_table_is_the_published_one() -> None:
    lines = results.load("stop_gradient", recipe="digits", overrides="", root=PUBLISHED)
    for row, numbers in lines.groupby("row"):
        cells = [
            f"{numbers[name].mean():.{digits}f} ± {numbers[name].std():.{digits}f}"
            for name, digits in (("knn_top1", 1), ("linear_top1", 1), ("knn_top1_init", 1), ("z_std", 2))
        ]
        assert re.search(rf"^\| {row} +\| [0-9.]+ +\| " + r" +\| ".join(map(re.escape, cells)), README, re.MULTILINE)


@pytest.mark.parametrize("folder", sorted(path.name for path in PUBLISHED.parent.iterdir() if path.is_dir()))
def test_published_lines_are_of_todays_recipes_and_their_curves_are_there(folder: str) -> None:
    place = PUBLISHED.parent / folder
    for file in place.glob("*.parquet"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # as of lines that are of another version of the recipe
            warnings.filterwarnings("ignore", ".* are of several overrides")
            lines = results.load(file.stem, root=place)
            curves = results.curves(file.stem, root=place)
        trained = lines[lines.outcome != "infeasible"]
        assert set(curves.fingerprint) == set(trained.fingerprint)
        last = curves.groupby("fingerprint").knn_top1.last()
        assert (last[trained.fingerprint].to_numpy() == trained.knn_top1.to_numpy()).all()
    assert sum(file.stat().st_size for file in place.rglob("*")) < 5_000_000


def test_its_commands_are_ones_that_run_understands() -> None:
    shown = [line for line in README.splitlines() if line.startswith("    ") and "ablations/run.py --" in line]
    lines = [shlex.split(line, comments=True) for line in shown]
    commands = [words[words.index("ablations/run.py") + 1 :] for words in lines if "ablations/run.py" in words]
    assert len(commands) > 8
    for command in commands:
        options.parser().parse_args(command)
