"""benchmarks.scale plans, keeps and rebuilds what `--table all` asks for."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablations import planning
from ablations.store import Store
from benchmarks import scale


def test_one_seed_of_all_tables_is_planned_finished_and_rebuilt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SIMSIAM_DATA", raising=False)
    store, every = Store.at(tmp_path), scale.trials(1)
    scale.finish(store, 1)
    first, one = scale.rebuild(store, 1)
    assert first > 0 < one
    distinct = planning.distinct(every)
    assert 50 < len(distinct) < len(every)
    assert set(store.states(distinct).values()) == {"done"}
    assert len(store.table_files()) == len({trial.table.name for trial in every})
