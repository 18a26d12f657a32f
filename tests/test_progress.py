"""The trials of a run as a person sees them go."""

from __future__ import annotations

import sys

import pytest

from ablations import table as tables
from ablations.progress import Progress


def test_a_terminal_without_rich_has_plain_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    (trial,) = tables.plan(
        tables.get("stop_gradient"), recipe="digits", data="digits@0", train_images=1437, overrides={}, rows=["with"]
    )
    with Progress([trial]) as progress:
        progress.start(trial.fingerprint)
    assert capsys.readouterr().out == "stop_gradient/with seed 0: starting\n"
