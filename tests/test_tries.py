"""How often a trial has failed in one place."""

from __future__ import annotations

from ablations.tries import Failures


def test_failures_count_those_in_a_row_at_one_checkpoint_of_each_trial() -> None:
    failures = Failures()
    assert [failures.add("a", reached) for reached in (None, None, 7, 7, 7, 9, 7)] == [1, 2, 1, 2, 3, 1, 1]
    assert failures.add("b", 7) == 1
    assert failures.add("a", 7) == 2
