"""Seeds that are added until a claim is decided: which rows get them, and what a later look may change."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made import a_result

from ablations import catalogue, options, request, training
from ablations.store import Store
from ablations.table import WITHIN, WORSE, Claim, Row, Table, Trial
from ablations.verdict import REPRODUCED, UNDECIDED, Verdict

ROWS = ("base", "far", "near", "apart")
LOOKS = [range(3), range(5), range(8)]

Score = Callable[[str, int], float]  # of a row and a seed


def decide(
    place: Path, monkeypatch: pytest.MonkeyPatch, score: Score, *claims: Claim
) -> tuple[dict[str, int], list[Verdict]]:
    """Row -> seeds that were trained, and the verdicts, where training gives these scores."""
    rows = tuple(Row(name=row, changes={"dim": 64 + 8 * i}) for i, row in enumerate(ROWS))
    table = Table(name="looked_at", title="T", section="S", varies=("dim",), rows=rows, claims=claims)
    monkeypatch.setattr(catalogue, "get", lambda *_, **__: table)
    store = Store.at(place)

    def launch(asked: Any, todo: list[Trial], store: Store, rebuild: Any) -> list[Trial]:
        for trial in todo:
            knn = score(trial.row.name, trial.config.seed)
            store.write(a_result(trial.config, knn_top1=knn, knn_top1_init=20.0), [{"epoch": 1, "loss": -0.5}])
        return []

    monkeypatch.setattr(training, "_launch", launch)
    asked = request.read(options.parser().parse_args(["--table", "looked_at", "--launcher", "local"]))
    verdicts, _, left = training.train(asked, LOOKS, store)
    assert not left
    seeds = {row: sum(line["row"] == row for line in store.table("looked_at")) for row in ROWS}
    return seeds, [verdict for _, verdict in verdicts]


def test_seeds_are_added_where_a_claim_is_open_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    means = {"base": 90.0, "far": 60.0, "near": 89.0, "apart": 90.0}

    def score(row: str, seed: int) -> float:  # the rows near each other differ by a point, in seeds that differ by two
        return means[row] + 2 * ((seed * 7 + 3 * ROWS.index(row)) % 5) / 5

    far, near = Claim(WORSE, ("far", "base"), "", margin=10.0), Claim(WITHIN, ("near", "apart"), "", margin=0.2)
    seeds, (decided, last) = decide(tmp_path, monkeypatch, score, far, near)
    assert decided.verdict == REPRODUCED
    assert (decided.n, last.n) == (3, seeds["near"])
    assert (seeds["base"], seeds["far"]) == (3, 3)
    assert seeds["near"] == seeds["apart"] > 3


def test_it_ends_where_nothing_is_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def score(row: str, seed: int) -> float:
        return (60.0 if row == "far" else 90.0) + seed / 10

    seeds, _ = decide(tmp_path, monkeypatch, score, Claim(WORSE, ("far", "base"), "", margin=10.0))
    assert set(seeds.values()) == {3}


def test_a_difference_that_was_decided_stays_decided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def score(row: str, seed: int) -> float:  # far behind by three seeds, as far ahead by those that come after
        return 80.0 + seed / 10 if row != "far" else 60.0 + seed / 9 if seed < 3 else 100.0

    far, open_ = Claim(WORSE, ("far", "base"), "", margin=10.0), Claim(WITHIN, ("far", "base"), "", margin=20.0)
    seeds, (decided, last) = decide(tmp_path, monkeypatch, score, far, open_)
    assert seeds["far"] == seeds["base"] == 8
    assert (decided.verdict, decided.n) == (REPRODUCED, 3)
    assert (last.verdict, last.n) == (UNDECIDED, 8)
