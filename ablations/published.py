"""Finished trials as they are published: tables, the curves of a table in one file, the pictures of a few trials.

A published folder is a results folder for those who read tables, curves and pictures; a run goes by single trials, and
goes on from it where it is unpacked into another folder. Only what is done is in it, by the sources that stand.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ablations import lines as lines_of
from ablations import provenance
from ablations.columns import COLUMNS, PACKED, TRIAL, Result, encoded
from ablations.store import Store
from ablations.table import Trial


def pack(trials: Sequence[Trial], store: Store, into: Store) -> list[Result]:
    """Write what is done of these trials, a file of lines and one of curves a table -> the lines.

    A table that nothing is done of is left as it is. The spectra along a curve are left out: those of the end are in
    the table.
    """
    tables: dict[str, set[tuple[str, str]]] = {}
    for trial in trials:
        tables.setdefault(trial.table.name, set()).add((trial.row.name, trial.fingerprint))
    states = store.states({trial.fingerprint for trial in trials if not trial.infeasible})
    packed = []
    for name, members in tables.items():
        lines = [
            line
            for line in store.table(name)
            if (line["row"], line["fingerprint"]) in members
            and (line["outcome"] == lines_of.INFEASIBLE or states.get(line["fingerprint"]) == "done")
        ]
        if lines:
            curves = store.curves(name, [line["fingerprint"] for line in lines])
            into.folder.write(f"curves/{name}.parquet", encoded(PACKED, list(_flat(curves.items()))))
            into.folder.write(f"{name}.parquet", encoded(COLUMNS, lines, definitions=store.definitions(name)))
            packed += lines
    return packed


def _flat(curves: Iterable[tuple[str, list[Result]]]) -> Iterable[Result]:
    for fingerprint, curve in curves:
        for line in curve:
            yield {**line, "fingerprint": fingerprint, "z_singular_values": None}


def copy_pictures(fingerprint: str, store: Store, into: Store) -> None:
    """Publish what a drawing of a trial needs, where that is kept."""
    name = f"pictures/{fingerprint}.parquet"
    if content := store.folder.read(name):
        into.folder.write(name, content)


def unpack(published: Store, store: Store) -> int:
    """Bring into `store` what is published by the sources that stand and is not there -> how many trials."""
    taken = 0
    for file in sorted(published.table_files()):
        name = file.removesuffix(".parquet")
        lines = {line["fingerprint"]: line for line in published.table(name) if line["outcome"] != lines_of.INFEASIBLE}
        curves, states = published.curves(name, lines), store.states(lines)
        for fingerprint, line in lines.items():
            if states[fingerprint] != "done" and not provenance.is_stale(line):
                result = {column: line[column] for column in TRIAL}
                store.write({**result, "pictures": published.pictures(fingerprint)}, curves.get(fingerprint, []))
                taken += 1
    return taken
