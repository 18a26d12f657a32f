"""Train and publish a recipe's tables: python -m benchmarks.publish digits --jobs 2

It goes on from what is published and from what is half done, and publishes after each table: interrupt it at any time,
and the table under way waits in --results.
Another person's run, from an empty folder and with other seeds, is compared with it:

    python -m benchmarks.publish digits --first-seed 5 --results /tmp/again --into /tmp/again/published
    python -m ablations.results compare results/published/digits /tmp/again/published

Without a recipe it prints the README's table: the paper's claims, and what each published recipe says of them.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ablations import (
    catalogue,
    grid,
    options,
    printed,
    printed_grid,
    provenance,
    published,
    request,
    results,
    run,
    tuned,
    verdict,
)
from ablations.columns import Result
from ablations.estimate import PUBLISHED
from ablations.store import Store
from ablations.table import Claim, Trial, UserError
from ablations.terminal import say
from ablations.verdict import Verdict
from simsiam.methods import METHODS

ROOT = Path(__file__).resolve().parent.parent
_SHORTEST = 0.5  # minutes: a run that is begun with less comes to nothing


@dataclass(frozen=True)
class Part:
    """What is published of one table: so many seeds of these rows, of all where there are none.

    Args:
        epochs: others than the recipe's, for the fidelity of a shorter table; None for the recipe's.
        tune: what `--tune` is given, for a table with each row at its own best; "" for none.
    """

    table: str
    seeds: int = 5
    rows: tuple[str, ...] = ()
    epochs: int | None = None
    tune: str = ""

    def command(self, args: argparse.Namespace) -> list[str]:
        """The command line of run.py that trains it."""
        seeds = f"{args.first_seed}-{args.first_seed + self.seeds - 1}"
        command = ["--table", self.table, "--recipe", _recipe(args.what), "--seeds", seeds, "--results", args.results]
        command += ["--launcher", "local", "--jobs", str(args.jobs), "--pictures"]
        command += ["--rows", ",".join(self.rows)] if self.rows else []
        command += [] if self.epochs is None else ["--set", f"epochs={self.epochs}"]
        command += ["--tune", self.tune] if self.tune else []
        return command + (["--data", args.data] if args.data else [])


_METHODS = ("simclr", "moco", "byol", "swav", "simsiam")


def _at(times: int, *methods: str) -> tuple[str, ...]:
    """Rows of table methods: these at so many times the epochs."""
    return tuple(f"{method}_{times}x" for method in methods)


# The folder in results/published -> its parts, the most telling first. It begins with the recipe's name.
PARTS = {
    "digits": (
        *map(Part, ("stop_gradient", "predictor", "batch_norm")),
        *(Part(table, epochs=25) for table in ("predictor", "batch_norm")),
        *map(Part, ("symmetrization", "similarity", "batch_size")),
        *map(Part, ("output_dim", "expectation", "alternation", "bn_group")),
        *(Part("methods", seeds=3, rows=_at(times, *_METHODS)) for times in (1, 2)),
        *map(Part, ("relations", "augmentation", "depth", "epochs")),
        *(Part("methods", seeds=3, rows=_at(times, "simclr", "simsiam")) for times in (4, 8)),  # epochs has SimSiam's
    ),
    "digits-tuned": tuple(
        Part(table, seeds=3, tune="base_lr=0.05,0.1,0.2,0.4,0.8")
        for table in ("stop_gradient", "predictor", "batch_norm", "symmetrization")
    ),
    "cifar10_small": tuple(Part(table, seeds=3) for table in ("stop_gradient", "predictor", "batch_norm")),
    "cifar10_short": tuple(
        Part(table, seeds=3)
        for table in ("stop_gradient", "predictor", "batch_norm", "symmetrization", "similarity", "cifar_methods")
    ),
}


def _recipe(what: str) -> str:
    """The recipe of a published folder."""
    return what.partition("-")[0]


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns run.py's exit code. A failed trial stops no other table."""
    args = _parser().parse_args(argv)
    if args.what is None:
        say("\n\n".join(filter(None, (claims(PUBLISHED), changed(PUBLISHED)))))
        return 0
    store, into = Store.at(args.results), Store.at(args.into or PUBLISHED / args.what)
    until = None if args.time_limit is None else time.monotonic() + 60 * args.time_limit
    worst = 0
    try:
        say(f"{published.unpack(into, store)} trials taken from {into.folder}.")
        begun = _taken(args, parts := PARTS[args.what], store, into)
        for part in parts:
            left = None if until is None else (until - time.monotonic()) / 60
            if left is not None and left < _SHORTEST:
                return run.TIME_LIMIT
            code = run.main([*part.command(args), *([] if left is None else ["--time-limit", f"{left:.2f}"])])
            if code != run.INTERRUPTED:
                begun.add(part)
            _publish(args, store, into, [part for part in parts if part in begun])
            if code > 1:
                return code
            worst = max(worst, code)
    except UserError as error:
        say(f"error: {error}", error=True)
        return 2
    return worst


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.publish", description=__doc__.partition("\n")[0])
    parser.add_argument("what", nargs="?", choices=sorted(PARTS), help="none: print the README's tables of claims")
    parser.add_argument("--first-seed", type=int, default=0, help="of the seeds of each table (default: 0)")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once (default: 1)")
    parser.add_argument("--data", help="as of run.py")
    parser.add_argument("--results", default=str(ROOT / "results"), help="where it trains (default: results/)")
    parser.add_argument("--into", help="where it publishes (default: results/published/WHAT)")
    parser.add_argument("--time-limit", type=float, metavar="MINUTES", help="end by then, with exit code 75")
    return parser


def claims(place: Path) -> str:
    """The paper's claims as a Markdown table, a column for each recipe that is published in `place`."""
    columns: dict[str, dict[tuple[str, Claim], str]] = {}
    for recipe in (what for what in PARTS if what == _recipe(what) and (place / what).is_dir()):
        store = Store.at(place / recipe)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of rows that are not trained yet
            found = results.claims(recipe, root=place / recipe)
        columns[recipe] = {(table.name, each.claim): _says(each, store.table(table.name)) for table, each in found}
    judged = {key for column in columns.values() for key in column}
    cells = [("section", "the paper's claim", *columns)]
    for table in map(catalogue.get, catalogue.names()):
        for claim in table.claims:
            if (key := (table.name, claim)) in judged:
                says = (column.get(key, "not run") for column in columns.values())
                cells.append((claim.section, f"{table.name}: {claim}", *says))
    return printed.aligned(cells)


def changed(place: Path) -> str:
    """The claims that get another verdict where each row has its own setting, as a Markdown table, and how many do not.

    Those of rows that are not trained yet are left out. "" where nothing is published.
    """
    cells, same = [("section", "the paper's claim", "at the recipe's", "each at its own", "at", "evidence there")], 0
    for what in (what for what in PARTS if what != _recipe(what) and (place / what).is_dir()):
        for name, at, one, own in _twice(Store.at(place / what)):
            same += one.verdict == own.verdict
            if one.verdict != own.verdict:
                cells.append((one.claim.section, f"{name}: {one.claim}", one.verdict, own.verdict, at, own.evidence))
    found = [printed.aligned(cells)] if cells[1:] else []
    found += [f"With the same verdict at both: {same} claims."] if same else []
    return "\n\n".join(found)


def _twice(store: Store) -> Iterator[tuple[str, str, Verdict, Verdict]]:
    """Of each claim of the tuned tables: the table, its rows' own points, the verdict at the recipe's, and at these.

    The tables are in the paper's order.
    """
    files, order = (file.removesuffix(".parquet") for file in store.table_files()), catalogue.names()
    for name in sorted(files, key=lambda name: order.index(name.partition("_tuned_")[0])):
        lines = store.table(name)
        table = catalogue.carried(name, lines[0]["recipe"], lines[0]["overrides"], store.definitions(name))
        stale = ", stale" * any(map(provenance.is_stale, lines))
        chosen = {choice.row: choice for choice in tuned.choices(table, lines)}
        for one, own in zip(verdict.judge(table.claims, lines), tuned.judged(table, lines), strict=True):
            its = [chosen[row] for row in one.claim.rows]
            if one.n and all(choice.why != tuned.NOT_RUN for choice in its):
                at = ", ".join(f"{each.row} {grid.at(each.point or {})}{' <' * bool(each.edge)}" for each in its)
                yield name.partition("_tuned_")[0], at + stale, one, own


def _says(verdict: Verdict, lines: Sequence[Result]) -> str:
    stale = any(provenance.is_stale(line) for line in lines if line["row"] in verdict.claim.rows)
    return printed.judged(verdict) + ", stale" * stale


def _taken(args: argparse.Namespace, parts: Sequence[Part], store: Store, into: Store) -> set[Part]:
    """The parts that something was unpacked of, with their lines in the tables of `store`.

    Their turn may come late: a table's file is written anew with each of its parts, and must not lose the others'.
    """
    found, stamps = set[Part](), store.stamps()
    for part in parts:
        trials = list(_trials(args, [part]))
        lines = (line for line in into.table(trials[0].table.name) if not provenance.is_stale(line))
        there = {(line["row"], line["fingerprint"]) for line in lines}
        if any((trial.row.name, trial.fingerprint) in there for trial in trials):
            store.rebuild(trials, stamps)
            found.add(part)
    return found


def _publish(args: argparse.Namespace, store: Store, into: Store, parts: Sequence[Part]) -> None:
    """Write what is done of these parts, with a page on how it was made."""
    trials = list(_trials(args, parts))
    lines = published.pack(trials, store, into)
    if not lines:
        return
    for outcome in ("finished", "collapsed"):
        first = next((line for line in lines if line["outcome"] == outcome), None)
        if first:
            published.copy_pictures(first["fingerprint"], store, into)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of rows that are not trained yet
        found = results.claims(_recipe(args.what), root=into.folder.uri)
    tuned = {trial.table.name: trial.table for trial in trials if trial.table.tuned}
    told = [printed_grid.tuned_table(table, its) for name, table in tuned.items() if (its := into.table(name))]
    claims = "\n\n".join(told) or printed.claims(found)
    into.folder.write("README.md", (_page(args, trials, lines) + "\n" + claims + "\n").encode())


def _trials(args: argparse.Namespace, parts: Sequence[Part]) -> Iterable[Trial]:
    for part in parts:
        asked = options.parser().parse_args(part.command(args))
        (seeds,) = options.looks(asked)
        yield from request.read(asked).trials(seeds)


def _page(args: argparse.Namespace, trials: Sequence[Trial], lines: Sequence[Result]) -> str:
    """What was trained, by what, and what it took."""
    asked = Counter(trial.table.name for trial in trials)
    there = Counter(line["table"] for line in lines)
    cells = [("table", "rows x seeds", "done")] + [(name, str(n), str(there[name])) for name, n in asked.items()]
    done = {line["fingerprint"]: line for line in lines if line["wall_seconds"] is not None}.values()
    command = f"python -m benchmarks.publish {args.what}"
    command += f" --first-seed {args.first_seed}" if args.first_seed else ""
    hours = sum(line["device_seconds"] for line in done) / 3600
    days = sorted({f"{line['ended']:%Y-%m-%d}" for line in done})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    made = [(name, sorted({str(line[name]) for line in done})) for name in ("device", "torch", "version", "data")]
    by_method = {line["method"]: line["sources"] for line in done}
    return "\n".join(
        [
            f"# {args.what}\n",
            f"Made by `{command}`: {len(done)} trainings, {hours:.1f} hours of a CPU core or GPU, {when}.",
            "`from ablations import results` and `python -m ablations.results` read this folder; `watch`, `export` and "
            "run.py, which go by single trials, do not: `benchmarks.publish` unpacks it for them.\n",
            printed.aligned(cells),
            "",
            *(f"- {name}: {', '.join(values)}" for name, values in made),
            f"- sources: {', '.join(f'{name} {by_method[name]}' for name in METHODS if name in by_method)}\n",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
