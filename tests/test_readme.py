"""What the README says is what the committed files give."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablations import options
from ablations.results import __main__ as results_main

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
PUBLISHED = ROOT / "results" / "published" / "digits"


def test_the_table_of_claims_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert results_main.main(["claims", "--results", str(PUBLISHED)]) == 0
    assert capsys.readouterr().out.strip() in README


def test_its_commands_are_ones_that_run_understands() -> None:
    shown = [line for line in README.splitlines() if line.startswith("    ") and "ablations/run.py --" in line]
    lines = [line.partition("#")[0].split() for line in shown]
    commands = [words[words.index("ablations/run.py") + 1 :] for words in lines if "ablations/run.py" in words]
    assert len(commands) > 8
    for command in commands:
        options.parser().parse_args(command)
