"""Results for people and scripts: from ablations import results; results.load("batch_size")

On the command line: python -m ablations.results claims | diff FINGERPRINT FINGERPRINT | export FINGERPRINT FILE
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ablations import encoders, provenance, report, verdict
from ablations import table as tables
from ablations.columns import COLUMNS, CURVE, Columns
from ablations.store import Store
from ablations.table import UNKNOWN, Encoder, Encoders, Table, UserError
from ablations.terminal import say
from ablations.verdict import Verdict
from simsiam import config as configs

if TYPE_CHECKING:
    from simsiam.encoder import Transform
    from simsiam.model import Backbone

Root = str | os.PathLike[str] | None

_KEY = ["row", "recipe", "overrides", "data", "seed", "fingerprint"]
_STARTS = ["encoder_from", "encoder", "backbone", "stem", "width"]  # what a row starts from
_ENOUGH = 1 << 40  # training pictures: whether there are too few changes no Config


def load(
    table: str,
    *,
    recipe: str | None = None,
    overrides: str | None = None,
    data: str | None = None,
    root: Root = None,
) -> pd.DataFrame:
    """A table as a frame, a line a row and seed, in the paper's row order.

    `frame.attrs["units"]` has the unit of each column. Lines of different recipes, overrides or data are not
    comparable: choose one of each. Lines of another version of the recipe, of the table or of the row are left out,
    with a warning.

    Args:
        table: its name.
        recipe: only lines of this recipe; None for all.
        overrides: only lines of these overrides, in any order, "" for those without any; None for all.
        data: only lines of these data, `layout@digest`; None for all.
        root: the results folder, or its s3:// or gs:// URI; None for results/ of the repository.

    Raises UserError for an unknown table, one that has no file there, and for a recipe, overrides or data that it has
    no line of.
    """
    tables.get(table)
    folder = _store(root).folder
    content = folder.read(f"{table}.parquet")
    if content is None:
        raise UserError(f"{folder}/{table}.parquet does not exist. Run: python ablations/run.py --table {table}")
    frame = pd.read_parquet(io.BytesIO(content))
    asked = {"recipe": recipe, "overrides": None if overrides is None else _canonical(overrides), "data": data}
    for column, value in asked.items():
        if value is not None:
            if value not in (known := sorted(set(frame[column]))):
                raise UserError(_unknown(f"{column} of the lines of {table}", value, known))
            frame = frame[frame[column] == value]
    lines = frame.reindex(columns=[*_KEY, *_STARTS]).astype(object)  # files of before lack some
    today = _todays(table, lines.where(lines.notna(), None).to_dict("records"))
    return _with_units(frame[today].reset_index(drop=True), COLUMNS)


def curves(
    table: str,
    *,
    recipe: str | None = None,
    overrides: str | None = None,
    data: str | None = None,
    root: Root = None,
) -> pd.DataFrame:
    """The curves of a table's trials, a line an epoch, beside the row, recipe, overrides, data and seed of each.

    Arguments and exceptions as of `load`. A trial that has no curve (it failed, or is infeasible) has no line.
    """
    store, parts = _store(root), []
    lines = load(table, recipe=recipe, overrides=overrides, data=data, root=root)
    for line in lines[_KEY].to_dict("records"):
        if curve := store.curve(line["fingerprint"]):
            parts.append(pd.DataFrame(curve).assign(**{str(name): value for name, value in line.items()}))
    frame = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*_KEY, *CURVE])
    reals = {
        name: "float64" for name, (kind, _) in CURVE.items() if str(kind) == "double"
    }  # a column of None is one too
    return _with_units(frame[[*_KEY, *CURVE]].astype(reals), {**COLUMNS, **CURVE})


def paper(table: str) -> pd.DataFrame:
    """The paper's numbers of a table: row, paper (linear top-1 on ImageNet, per cent), note, section."""
    found = tables.get(table)
    lines = [{"row": row.name, "paper": row.paper, "note": row.note, "section": found.section} for row in found.rows]
    return _with_units(pd.DataFrame(lines), COLUMNS)


def claims(
    recipe: str = "digits",
    *,
    overrides: str = "",
    data: str | None = None,
    looks: int = 1,
    names: Iterable[str] | None = None,
    root: Root = None,
) -> list[tuple[Table, Verdict]]:
    """Every claim of the tables that have results on this recipe with these overrides, judged.

    Lines that are not `load`'s are left out, with a warning.

    Args:
        data: `layout@digest`; None where all lines are of the same.
        looks: how many numbers of seeds were looked at, if seeds were added until the claims were decided.
        names: of the tables; None for all.

    Raises UserError where there are no such lines, or lines of several data and none is chosen.
    """
    store, overrides = _store(root), _canonical(overrides)
    found: dict[str, list[dict[str, Any]]] = {}
    others: set[str] = set()
    for name in tables.names() if names is None else names:
        tables.get(name)
        lines = [line for line in store.table(name) if line["recipe"] == recipe]
        others |= {line["overrides"] for line in lines}
        if lines := [line for line in lines if line["overrides"] == overrides and data in (None, line["data"])]:
            today = _todays(name, lines)
            found[name] = [line for line, its in zip(lines, today, strict=True) if its]
    if not found:
        here = ", ".join(f"--overrides '{each}'" if each else "none" for each in sorted(others))
        of = f" with --overrides '{overrides}'" if overrides else " without overrides" if others else ""
        of += f" on {data}" if data else ""
        there = f" Overrides that it has results with: {here}." if others else ""
        raise UserError(f"{store.folder} has no results of recipe {recipe}{of}.{there}")
    sets = sorted({line["data"] for lines in found.values() for line in lines})
    if len(sets) > 1:
        raise UserError(f"The lines are of several data sets: {', '.join(sets)}. Choose one with --data.")
    return [
        (tables.get(name), each)
        for name, lines in found.items()
        if lines
        for each in verdict.judge(tables.get(name).claims, lines, looks=looks)
    ]


def _canonical(overrides: str) -> str:
    """Overrides in the order in which they stand in a file; as they are if they are none."""
    try:
        return configs.canonical(_fields(overrides))
    except ValueError:
        return overrides


def _unknown(what: str, value: str, known: list[str]) -> str:
    return configs.unknown(what, value, [each or "'' (none)" for each in known])


def _todays(table: str, lines: Sequence[Mapping[Any, Any]]) -> list[bool]:
    """Whether each line is of the Config that today's table, row and recipe give. Warns of those that are not."""
    planned: dict[tuple[Any, ...], dict[tuple[str, int], str]] = {}
    for kind in {_kind(line) for line in lines}:
        recipe, overrides, data, _ = kind
        try:
            trials = tables.plan(
                tables.get(table),
                recipe=recipe,
                data=data,
                train_images=_ENOUGH,
                overrides=_fields(overrides),
                seeds=sorted({line["seed"] for line in lines}),
                encoders=_starts([line for line in lines if _kind(line) == kind]),
            )
        except ValueError:  # a recipe, or a field, that there is no more
            trials = []
        planned[kind] = {(each.row.name, each.config.seed): each.fingerprint for each in trials}
    today = [planned[_kind(line)].get((line["row"], line["seed"])) == line["fingerprint"] for line in lines]
    if others := today.count(False):
        warnings.warn(
            f"{others} line{'s' * (others > 1)} of {table} left out: another version of the recipe, the table or the "
            "row made them. Run its command again.",
            stacklevel=3,
        )
    return today


def _kind(line: Mapping[Any, Any]) -> tuple[Any, ...]:
    """Lines of one kind are rows and seeds of one plan."""
    return (*(line[name] for name in ("recipe", "overrides", "data")), line.get("encoder_from"))


def _starts(lines: Sequence[Mapping[Any, Any]]) -> Encoders:
    """What the rows of these lines, all of one kind, start from: an encoder for each seed."""
    by_seed = {line["seed"]: line for line in [*lines, *(line for line in lines if line.get("encoder"))]}

    def start(kind: str, fields: Mapping[str, Any]) -> Encoder:
        line = by_seed.get(fields["seed"], lines[0])
        network = {name: line[name] for name in ("backbone", "stem", "width")}
        return Encoder(digest=line.get("encoder") or UNKNOWN, network=network, origin=line.get("encoder_from") or "")

    return start


def _fields(overrides: str) -> dict[str, Any]:
    return {name: configs.parse(name, value) for name, _, value in (text.partition("=") for text in overrides.split())}


def encoder(fingerprint: str, *, root: Root = None) -> tuple[Backbone, Transform]:
    """A finished trial's backbone in eval mode, (n, 3, S, S) -> (n, D), and what makes its input of a picture.

    It computes in full float32 (or float64), whatever the trial's precision. The trial must have been run with
    `--keep-checkpoints`. Raises UserError for an unknown one, or where no checkpoint is kept.
    """
    return encoders.loaded(fingerprint, _store(root))


def export(fingerprint: str, path: str | os.PathLike[str], *, root: Root = None) -> None:
    """Write a finished trial's backbone as safetensors under torchvision's names, with its Config in the metadata.

    Raises UserError as `encoder` does, and for a name that does not end in .safetensors.
    """
    if Path(path).suffix != ".safetensors":
        raise UserError(f"An encoder is exported as .safetensors. Got {path} instead.")
    content = encoders.exported(fingerprint, _store(root))
    try:
        Path(path).write_bytes(content)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}.") from None


def diff(one: str, other: str, *, root: Root = None) -> str:
    """The fields in which two trials differ, and their results beside each other. Raises UserError for unknown ones."""
    store = _store(root)
    trials = []
    for fingerprint in (one, other):
        trial = store.trial(fingerprint)
        if trial is None:
            known = store.fingerprints()
            raise UserError(configs.unknown("trial", fingerprint, known))
        trials.append(trial)
    numbers = ("outcome", "loss", "z_std", "effective_rank", "knn_top1", "linear_top1", "wall_seconds", "sources")
    differing = configs.difference(*({name: trial[name] for name in configs.FIELDS} for trial in trials))
    cells: list[tuple[str, ...]] = [("", one, other)]
    cells += [(name, *(_text(trial[name]) for trial in trials)) for name in (*differing, *numbers)]
    return report.aligned(cells)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0, or 2 for a wrong command."""
    parser = argparse.ArgumentParser(prog="python -m ablations.results")
    commands = parser.add_subparsers(dest="command", required=True)
    of_claims = commands.add_parser("claims", help="judge the paper's claims")
    of_claims.add_argument("tables", nargs="*", help="only of these tables")
    of_claims.add_argument("--recipe", default="digits")
    of_claims.add_argument("--overrides", default="", help="as in the column of that name, in any order")
    of_claims.add_argument("--data", help="as in the column of that name, where there are several")
    of_claims.add_argument("--looks", type=int, default=1, help="if seeds were added until decided: how many looks")
    of_diff = commands.add_parser("diff", help="the fields in which two trials differ, and their results")
    of_diff.add_argument("fingerprints", nargs=2)
    of_export = commands.add_parser("export", help="write a trial's encoder as safetensors, under torchvision's names")
    of_export.add_argument("fingerprint")
    of_export.add_argument("file", metavar="FILE.safetensors")
    for command in (of_claims, of_diff, of_export):
        command.add_argument("--results", help="folder of the results (default: results/)")
    args = parser.parse_args(argv)
    try:
        if args.command == "diff":
            say(diff(*args.fingerprints, root=args.results))
        elif args.command == "export":
            export(args.fingerprint, args.file, root=args.results)
            say(f"Written: {args.file}")
        else:
            if args.looks < 1:
                raise UserError(f"--looks must be at least 1. Got {args.looks} instead.")
            with warnings.catch_warnings(record=True) as left_out:
                warnings.simplefilter("always")
                found = claims(
                    args.recipe,
                    overrides=args.overrides,
                    data=args.data,
                    looks=args.looks,
                    names=args.tables or None,
                    root=args.results,
                )
            for each in left_out:
                say(str(each.message), error=True)
            say(report.claims(found, overrides=_canonical(args.overrides)))
    except UserError as error:
        say(f"error: {error}", error=True)
        return 2
    return 0


def _store(root: Root) -> Store:
    store = Store.at(provenance.ROOT / "results" if root is None else root)
    store.folder.check_readable()
    return store


def _with_units(frame: pd.DataFrame, columns: Columns) -> pd.DataFrame:
    units = {name: unit for name, (_, unit) in columns.items()}
    frame.attrs["units"] = {name: units.get(name, "") for name in frame.columns}
    return frame


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
