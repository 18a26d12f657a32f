"""Train the rows of the paper's tables and collect them: python ablations/run.py --table stop_gradient"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
if not __package__:  # started as a script, the path begins with ablations/ itself and not with the repository
    sys.path[0] = str(ROOT)

from ablations import table as tables  # noqa: E402
from ablations.table import Trial, UserError  # noqa: E402
from simsiam import config as configs  # noqa: E402
from simsiam.recipes import RECIPES  # noqa: E402

if TYPE_CHECKING:
    from ablations.store import Store
    from simsiam.data import Source

_CHECKED_BYTES = 512 << 20  # encoded pictures up to this size are all decoded once before anything starts
_REBUILD_SECONDS = 3.0  # between two rebuilds of a table file while trials run


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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ablations/run.py", description="Train the rows of the paper's tables.")
    add = parser.add_argument
    add("--list", action="store_true", help="list tables, rows and recipes, and exit")
    add("--table", help="which table")
    add("--recipe", default="digits", help="which baseline (default: digits)")
    add("--data", help="folder of the pictures; digits need none (default: $SIMSIAM_DATA)")
    add("--rows", help="only these rows, separated by commas")
    add("--seeds", type=int, default=1, help="seeds 0 to N-1 (default: 1)")
    add("--set", action="append", default=[], metavar="FIELD=VALUE", help="change a field of the recipe")
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


def _run(args: argparse.Namespace) -> int:
    trials, source = _trials(args)
    from ablations.store import Store

    store = Store(_results_folder(args.results))
    feasible = {trial.fingerprint: trial for trial in trials if trial.infeasible is None}
    todo = [trial for fingerprint, trial in feasible.items() if store.trial(fingerprint) is None]
    print(_summary(trials, feasible, todo, store), flush=True)
    if args.plan:
        return 0
    store.check_writable()
    rebuild = _Rebuild(store, trials)
    try:
        if todo:
            _launch(args, todo, source, store, rebuild)
    except KeyboardInterrupt:
        print("\nInterrupted. Finished trials are kept; the same command goes on from here.", flush=True)
        return 130
    finally:
        rebuild(at_once=True)
    return _conclude(trials, store)


def _trials(args: argparse.Namespace) -> tuple[list[Trial], Source]:
    """What the command line asks for. Raises UserError."""
    if not args.table:
        raise UserError(f"Name a table with --table. Known: {', '.join(tables.names())}.")
    for option in ("seeds", "workers"):
        if getattr(args, option) < 1:
            raise UserError(f"--{option} must be at least 1. Got {getattr(args, option)} instead.")
    if args.launcher == "local" and args.workers > 1:
        raise UserError(f"--launcher local has one worker. Got --workers {args.workers}: use --launcher ray.")
    table = tables.get(args.table)
    overrides = dict(_override(text) for text in args.set)
    source = _source(args)
    return tables.plan(
        table,
        recipe=args.recipe,
        data=source.name,
        train_images=source.train_images,
        overrides=overrides,
        rows=args.rows.split(",") if args.rows else None,
        seeds=args.seeds,
    ), source


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
        return locate(Path(path).resolve() if path else None)
    except DataError as error:
        raise UserError(str(error)) from None


def _results_folder(given: str | None) -> Path:
    """Under `ray job submit --working-dir` the repository is a temporary copy, so results must lie elsewhere."""
    if given:
        return Path(given).resolve()
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        return Path.home() / "simsiam-results"
    return ROOT / "results"


def _summary(trials: list[Trial], feasible: dict[str, Trial], todo: list[Trial], store: Store) -> str:
    waiting = {trial.fingerprint for trial in todo}
    lines = []
    for trial in trials:
        if trial.infeasible:
            state = f"infeasible: {trial.infeasible}"
        elif trial.fingerprint not in waiting:
            state = "done"
        elif store.checkpoint(trial.fingerprint).path.exists():
            state = "to be continued"
        else:
            state = "to run"
        lines.append(f"  {trial.fingerprint}  {trial.name}: {state}")
    lines.append(f"{len(trials)} rows and seeds, {len(feasible)} distinct trainings, {len(todo)} to run.")
    lines.append(f"Results: {store.root}")
    return "\n".join(lines)


def _launch(
    args: argparse.Namespace, todo: list[Trial], source: Source, store: Store, on_done: Callable[[], None]
) -> None:
    from ablations.report import Progress
    from simsiam import data

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


def _conclude(trials: list[Trial], store: Store) -> int:
    """Print the table and the place of the results -> the exit code."""
    from ablations import report
    from ablations.store import FAILED

    mine = {(trial.recipe, trial.overrides, trial.row.name, trial.config.seed) for trial in trials}
    table = trials[0].table
    lines = [
        line
        for line in store.table(table.name)
        if (line["recipe"], line["overrides"], line["row"], line["seed"]) in mine
    ]
    print("\n" + report.results(table, lines))
    print(f"\nResults: {store.root / table.name}.parquet")
    failed = [line for line in lines if line["outcome"] == FAILED]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
