"""What runs again: trials that are missing or failed, and those that --rerun names; and where a result is then."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence

from ablations import planning
from ablations.store import Store
from ablations.table import Trial


def todo(trials: Sequence[Trial], store: Store, rerun: str | None) -> dict[str, Trial]:
    """Fingerprint -> trial, of those to train: what is missing or failed, and what --rerun names."""
    distinct = planning.distinct(trials)
    wanted = ("failed",) if rerun == "failed" else ("failed", "to run", "half done", rerun)
    states = store.states(distinct)
    unkept = store.unkept(states) if rerun == "unkept" else set()
    return {name: distinct[name] for name, state in states.items() if state in wanted or name in unkept}


@contextlib.contextmanager
def set_aside(store: Store, fingerprints: Collection[str]) -> Iterator[None]:
    """Finished results, while their trials run again for their checkpoints, which makes them look unfinished.

    At the end, those whose trials have not begun, or have failed, are back.
    """
    results = [result for result in map(store.trial, fingerprints) if result]
    try:
        for result in results:
            store.supersede(result)
        yield
    finally:
        for result in results:
            if store.state(result["fingerprint"]) in ("to run", "failed"):
                store.restore(result)
