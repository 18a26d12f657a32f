"""What runs again: trials that are missing or failed, and those that --rerun names; and where a result is then."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ablations import planning
from ablations.store import KINDS, Store
from ablations.table import Trial


def todo(trials: Sequence[Trial], store: Store, rerun: str | None) -> dict[str, Trial]:
    """Fingerprint -> trial, of those to train: what is missing or failed, and what --rerun names."""
    distinct = planning.distinct(trials)
    wanted = ("failed",) if rerun == "failed" else ("failed", "to run", "half done", rerun)
    states = store.states(distinct)
    unkept = store.unkept(states) if rerun == "unkept" else set()
    return {name: distinct[name] for name, state in states.items() if state in wanted or name in unkept}


@contextlib.contextmanager
def set_aside(store: Store, fingerprints: Iterable[str]) -> Iterator[None]:
    """Finished results, while their trials run again for their checkpoints: a result would say that they need not."""
    try:
        for fingerprint in fingerprints:
            for kind in reversed(KINDS):
                store.folder.move(f"{kind}/{fingerprint}.parquet", f"aside/{kind}/{fingerprint}.parquet")
        yield
    finally:
        settle(store)


def settle(store: Store) -> None:
    """Put back what is aside of trials that have not begun again, or have failed; and supersede what is done again.

    What is half done again stays aside.
    """
    for name in store.folder.names("aside/trials"):
        state = store.state(fingerprint := Path(name).stem)
        if state in ("to run", "failed"):
            for kind in KINDS:
                store.folder.move(f"aside/{kind}/{name}", f"{kind}/{name}")
        elif state != "half done" and (result := store.trial(fingerprint)):
            store.supersede(result, "aside/")
