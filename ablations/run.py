"""Train the rows of the paper's tables and collect them: python ablations/run.py --table stop_gradient"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
if not __package__:  # started as a script, the path begins with ablations/ itself and not with the repository
    sys.path[0] = str(ROOT)

from ablations import table as tables  # noqa: E402
from ablations.table import Claim, Table, Trial, UserError  # noqa: E402
from simsiam import config as configs  # noqa: E402
from simsiam.recipes import RECIPES  # noqa: E402

if TYPE_CHECKING:
    from ablations.store import Store
    from ablations.verdict import Verdict
    from simsiam.data import Source

_CHECKED_BYTES = 512 << 20  # encoded pictures up to this size are all decoded once before anything starts
_REBUILD_SECONDS = 3.0  # between two rebuilds of the table files while trials run
_SEEDS_OF_A_VERDICT = 5  # with 3, the interval's half-width is 2.5 standard deviations
_LOOKS = (3, 5, 10)  # seeds at which --seeds-until-decided judges, before its last


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0, 1 if a trial failed, 2 for a wrong command, 130 if interrupted."""
    args = _parser().parse_args(argv)
    if args.list:
        print(_listing())
        return 0
    try:
        return _run(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted. Finished trials are kept; the same command goes on from here.", flush=True)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ablations/run.py", description="Train the rows of the paper's tables.")
    add = parser.add_argument
    add("--list", action="store_true", help="list tables, rows and recipes, and exit")
    add("--table", help="which table, or 'all'")
    add("--recipe", default="digits", help="which baseline (default: digits)")
    add("--data", help="folder of the pictures; digits need none (default: $SIMSIAM_DATA)")
    add("--rows", help="only these rows, separated by commas")
    add("--seeds", type=int, help="seeds 0 to N-1 (default: 1, with --claims 5)")
    add("--claims", action="store_true", help="judge the paper's claims")
    add("--seeds-until-decided", type=int, metavar="MAX", help="judge, and add seeds where a claim is undecided")
    add("--set", action="append", default=[], metavar="FIELD=VALUE", help="change a field of the recipe")
    add("--rerun", choices=("stale", "failed"), help="stale: also what other sources gave; failed: only what failed")
    add("--workers", type=int, default=1, help="workers a trial; never changes a number (default: 1)")
    add("--loader-processes", type=int, default=0, help="decoding processes a worker (default: 0)")
    add("--launcher", choices=("ray", "local"), default="ray", help="local: in this process, without Ray")
    add("--results", help="folder of the results (default: results/, under a Ray job ~/simsiam-results)")
    add("--plan", action="store_true", help="show what would run and what is there, and exit")
    return parser


def _listing() -> str:
    lines = ["Tables:"]
    for name in tables.names():
        table = tables.get(name)
        lines.append(f"  {name:16} {table.title} ({table.section}): {', '.join(r.name for r in table.rows)}")
    lines += ["Recipes:", *(f"  {name}" for name in RECIPES)]
    return "\n".join(lines)


@dataclass(frozen=True)
class _Request:
    """What the command line asks for, apart from the seeds."""

    tables: list[Table]
    recipe: str
    source: Source
    overrides: dict[str, Any]
    rows: list[str] | None
    args: argparse.Namespace

    def trials(self, seeds: int, rows: dict[str, list[str]] | None = None) -> list[Trial]:
        """The trials of all tables; with `rows`, of those rows of each table."""
        return [
            trial
            for table in self.tables
            for trial in tables.plan(
                table,
                recipe=self.recipe,
                data=self.source.name,
                train_images=self.source.train_images,
                overrides=self.overrides,
                rows=self.rows if rows is None else self._chosen(rows.get(table.name, [])),
                seeds=seeds,
            )
        ]

    def _chosen(self, rows: list[str]) -> list[str]:
        return [row for row in rows if self.rows is None or row in self.rows]


def _run(args: argparse.Namespace) -> int:
    request, looks = _request(args), _looks(args)
    from ablations import report
    from ablations.store import Store

    store = Store(_results_folder(args.results))
    if args.plan:
        trials = request.trials(looks[-1])
        todo = _todo(trials, store, args.rerun)
        print(report.plan(trials, todo, store, workers=args.workers, launcher=args.launcher))
        return 0
    store.check_writable()
    verdicts = _train(request, looks, store)
    return _conclude(request, request.trials(looks[-1]), verdicts, store)


def _request(args: argparse.Namespace) -> _Request:
    """Raises UserError for what cannot be asked."""
    if not args.table:
        raise UserError(f"Name a table with --table. Known: {', '.join(tables.names())}, all.")
    for option, low, high in (
        ("seeds", 1, 1000),
        ("seeds_until_decided", 1, 1000),
        ("workers", 1, 100_000),
        ("loader_processes", 0, 1000),
    ):
        value = getattr(args, option)
        if value is not None and not low <= value <= high:
            raise UserError(f"--{option.replace('_', '-')} must be {low} to {high}. Got {value} instead.")
    if args.seeds is not None and args.seeds_until_decided is not None:
        raise UserError("--seeds and --seeds-until-decided exclude each other. Leave one out.")
    if args.launcher == "local" and args.workers > 1:
        raise UserError(f"--launcher local has one worker. Got --workers {args.workers}: use --launcher ray.")
    if args.table == "all" and args.rows:
        raise UserError("--rows is of one table. Got --table all: name one.")
    asked = tables.names() if args.table == "all" else [args.table]
    return _Request(
        tables=[tables.get(name) for name in asked],
        recipe=args.recipe,
        source=_source(args),
        overrides=_overrides(args.set),
        rows=None if args.rows is None else [name.strip() for name in args.rows.split(",")],
        args=args,
    )


def _looks(args: argparse.Namespace) -> list[int]:
    """The numbers of seeds after which the claims are judged; the last is how many seeds there are at most."""
    if args.seeds_until_decided:
        return [n for n in _LOOKS if n < args.seeds_until_decided] + [args.seeds_until_decided]
    return [args.seeds or (_SEEDS_OF_A_VERDICT if args.claims else 1)]


def _overrides(texts: list[str]) -> dict[str, Any]:
    overrides: dict[str, Any] = {}
    for name, value in map(_override, texts):
        if name in overrides:
            raise UserError(f"--set {name} is given twice. Leave one out.")
        overrides[name] = value
    return overrides


def _override(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"--set takes FIELD=VALUE. Got '{text}' instead.")
    if name in ("data", "seed"):
        raise UserError(f"--set {name} does not exist: use {'--data' if name == 'data' else '--seeds'}.")
    try:
        return name, configs.parse(name, value)
    except ValueError as error:
        raise UserError(f"--set {text}: {error}") from None


def _source(args: argparse.Namespace) -> Source:
    from simsiam.data import DataError, locate

    if args.recipe not in RECIPES:
        raise UserError(configs.unknown("recipe", args.recipe, RECIPES))
    path = args.data or (None if args.recipe == "digits" else os.environ.get("SIMSIAM_DATA"))
    if path is None and args.recipe != "digits":
        raise UserError(f"Recipe {args.recipe} needs pictures: name their folder with --data or in $SIMSIAM_DATA.")
    try:
        return locate(None if path is None else Path(path).resolve())
    except (DataError, OSError, RuntimeError) as error:
        raise UserError(f"{error}") from None


def _results_folder(given: str | None) -> Path:
    """Under `ray job submit --working-dir` the repository is a temporary copy, so results must lie elsewhere."""
    if given is not None:
        try:
            return Path(given).resolve()
        except (OSError, RuntimeError) as error:
            raise UserError(f"--results {given}: {error}") from None
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        return Path.home() / "simsiam-results"
    return ROOT / "results"


def _train(request: _Request, looks: list[int], store: Store) -> list[tuple[Table, Verdict]]:
    """Train what is missing, and judge. After each look but the last, only rows of undecided claims get more seeds."""
    from ablations import report, verdict

    rows: dict[str, list[str]] | None = None
    found: dict[tuple[str, Claim], Verdict] = {}
    for seeds in looks:
        trials = request.trials(seeds, rows)
        todo, args = _todo(trials, store, request.args.rerun), request.args
        print(report.plan(trials, todo, store, workers=args.workers, launcher=args.launcher), flush=True)
        _train_missing(request, trials, todo, store)
        rows = {}
        for table in request.tables:
            lines = _lines(request.trials(seeds), table, store)
            for now in verdict.judge(table.claims, lines, looks=len(looks)):
                before = found.get((table.name, now.claim))
                # A decided difference stays decided, or the error rate would not hold; outcomes are counted anew.
                if before is None or before.open or before.shows is None:
                    found[table.name, now.claim] = now
                    if now.open:
                        rows.setdefault(table.name, []).extend(now.claim.rows)
        if not rows:
            break
    return [(table, found[table.name, claim]) for table in request.tables for claim in table.claims]


def _lines(trials: list[Trial], table: Table, store: Store) -> list[dict[str, Any]]:
    """A table's lines of just these trials: what else its file holds is of other Configs."""
    mine = {(trial.row.name, trial.fingerprint) for trial in trials if trial.table.name == table.name}
    return [line for line in store.table(table.name) if (line["row"], line["fingerprint"]) in mine]


def _todo(trials: list[Trial], store: Store, rerun: str | None) -> dict[str, Trial]:
    """Fingerprint -> trial, of those to train: what is missing or failed, and what --rerun names."""
    todo = {}
    for fingerprint, trial in tables.distinct(trials).items():
        state = store.state(fingerprint)
        if state == "failed" or (rerun != "failed" and state in ("to run", "half done", rerun)):
            todo[fingerprint] = trial
    return todo


def _train_missing(request: _Request, trials: list[Trial], todo: dict[str, Trial], store: Store) -> None:
    """Train, and keep the table files up to date. Raises UserError for pictures, or table files, that are broken."""
    rebuild = _Rebuild(store, trials)
    rebuild(at_once=True)
    if todo:
        try:
            _launch(request, list(todo.values()), store, rebuild)
        finally:
            rebuild(at_once=True)


def _launch(request: _Request, todo: list[Trial], store: Store, on_done: Callable[[], None]) -> None:
    from ablations.progress import Progress
    from simsiam import data

    source, args = request.source, request.args
    if data.encoded_bytes(source) <= _CHECKED_BYTES:
        try:
            data.check(source)
        except data.DataError as error:
            raise UserError(str(error)) from None
    runtime = configs.Runtime(
        data_path=str(source.path) if source.path else None,
        workers=args.workers,
        loader_processes=args.loader_processes,
    )
    try:
        if args.launcher == "local":
            from ablations.launch_local import launch
        else:
            from ablations.launch import launch
    except ModuleNotFoundError as error:
        raise UserError(f"--launcher {args.launcher} needs the package {error.name}, which is not installed.") from None
    with Progress(todo) as progress:
        launch(todo, runtime, store, progress, on_done)


class _Rebuild:
    """Brings the table files up to date with what is done, at most every few seconds, or at once."""

    def __init__(self, store: Store, trials: list[Trial]) -> None:
        self._store, self._trials = store, trials
        self._last = time.monotonic()

    def __call__(self, at_once: bool = False) -> None:
        if at_once or time.monotonic() - self._last > _REBUILD_SECONDS:
            self._store.rebuild(self._trials)
            self._last = time.monotonic()


def _conclude(request: _Request, trials: list[Trial], verdicts: list[tuple[Table, Verdict]], store: Store) -> int:
    """Print the tables, the verdicts and the place of the results -> the exit code."""
    from ablations import report

    for table in request.tables:
        print("\n" + report.results(table, _lines(trials, table, store)))
    if verdicts:
        print("\n" + report.claims(verdicts))
    print(f"\nResults: {store.root}: {', '.join(f'{table.name}.parquet' for table in request.tables)}")
    failures = [f for fingerprint in tables.distinct(trials) if (f := store.failure(fingerprint))]
    for failure in failures:
        print(f"Failed: {failure['fingerprint']}: {failure['message']}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
