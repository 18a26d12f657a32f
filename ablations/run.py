"""Train the rows of the paper's tables and collect them: python ablations/run.py --table stop_gradient"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
if not __package__:  # started as a script, the path begins with ablations/ itself and not with the repository
    sys.path[0] = str(ROOT)

from ablations import catalogue, options, planning  # noqa: E402
from ablations import request as requests  # noqa: E402
from ablations.request import Request  # noqa: E402
from ablations.table import Table, Trial, UserError  # noqa: E402
from ablations.terminal import reason, say  # noqa: E402
from simsiam import config as configs  # noqa: E402

if TYPE_CHECKING:
    from ablations.encoders import Encoders
    from ablations.store import Store
    from ablations.verdict import Verdict

# Exit codes: what sysexits.h has for "try again later", and what shells have for Ctrl-C.
TIME_LIMIT, INTERRUPTED = 75, 130


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code.

    0; 1 if a trial failed, 2 for a wrong command, 75 if the time limit has come first, 130 if interrupted.
    """
    args = options.parser().parse_args(argv)
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # else nohup has asked to go on
        signal.signal(signal.SIGHUP, _hang_up)
    try:
        if args.list or args.fields:
            return _tell(args)
        return _run(args) if args.check is None else _check(args)
    except UserError as error:
        say(f"error: {error}", error=True)
        return 2
    except OSError as error:  # a disk that is full, a bucket that stays out of reach
        say(f"error: {reason(error)}. Finished trials are kept; the same command goes on from here.", error=True)
        return 1
    except KeyboardInterrupt:
        say("\nInterrupted. Finished trials are kept; the same command goes on from here.")
        return INTERRUPTED


def _hang_up(*_: object) -> None:
    """The terminal has gone: end as by Ctrl-C, or processes of ours would stay."""
    raise KeyboardInterrupt


def _tell(args: argparse.Namespace) -> int:
    """Show the tables and recipes, or a recipe's fields -> the exit code. Raises UserError."""
    from ablations import files, listing
    from ablations.store import Store

    if args.fields:
        say(listing.fields(args.recipe, requests.overrides(args.set)))
        return 0
    store = Store.at(files.results_place(args.results))
    store.folder.check_readable()
    text, wrong = listing.listing(store)
    say(text)
    for each in wrong:
        say(f"error: {each}", error=True)
    return 2 if wrong else 0


def _check(args: argparse.Namespace) -> int:
    """Show what the data are. Raises UserError."""
    from ablations import data_check
    from simsiam.data import DataError

    source, overrides = requests.source(args), requests.overrides(args.set)
    try:
        say(data_check.report(source))
        if args.check:
            data_check.sheet(source, planning.recipe(args.recipe, source.name, overrides), Path(args.check))
            say(f"Twelve pictures, each with two views: {args.check}")
    except DataError as error:
        raise UserError(str(error)) from None
    return 0


def _run(args: argparse.Namespace) -> int:
    from ablations import files, printed_plan, rerun, training
    from ablations.store import Store

    store = Store.at(files.results_place(args.results))
    encoders = _encoders(args, store)
    request, looks = requests.read(args, encoders), options.looks(args, encoders.seeds)
    for note in request.source.notes:
        say(f"Data: {note}.")
    if args.plan:
        store.folder.check_readable()
        trials = request.trials(looks[-1])
        _check_tables(request, trials, store)
        todo = rerun.todo(trials, store, args.rerun)
        say(printed_plan.plan(request, trials, todo, store, looks=[len(seeds) for seeds in looks]))
        return 0
    if not planning.distinct(first := request.trials(looks[0])):
        raise UserError(f"No trial can start: {first[0].infeasible}")
    store.folder.check_writable()
    rerun.settle(store)  # what a killed command has left aside
    _check_tables(request, first, store)
    encoders.keep(store)
    verdicts, ended, left = training.train(request, looks, store)
    return _conclude(request, looks[-1], verdicts, store, ended, left)


def _check_tables(request: Request, trials: list[Trial], store: Store) -> None:
    """Refuse a name that is another table's in the results, and a grid that changes nothing. Raises UserError."""
    from ablations import grid

    for table in request.tables:
        catalogue.check_that_it_is_free(table, store)
        if request.rows is None:
            grid.check_that_axes_act(table, trials, request.args.table)


def _encoders(args: argparse.Namespace, store: Store) -> Encoders:
    """The encoders that the command gives. Raises UserError."""
    from ablations import encoders

    if args.given and args.weights:
        raise UserError("--from and --weights exclude each other. Leave one out.")
    if args.given:
        store.folder.check_readable()
        return encoders.of_trials(args.given, store)
    return encoders.of_file(Path(args.weights)) if args.weights else encoders.Encoders({})


def _conclude(
    request: Request,
    seeds: Sequence[int],
    verdicts: list[tuple[Table, Verdict]],
    store: Store,
    ended: set[str],
    left: set[str],
) -> int:
    """Print the tables, the verdicts and the place of the results -> the exit code, by what this command asked for."""
    from ablations import printed, printed_grid, training

    trials = request.trials(seeds)
    for table in request.tables:
        # A tuned table judges its claims itself: as any others, by what there is of all rows.
        lines = training.lines(request.every_row(seeds) if table.tuned else trials, table, store)
        grid = table.axes and printed_grid.results(table, lines, short=training.short(trials, table, left))
        say("\n" + (grid or printed.results(table, lines)))
    if verdicts and request.judges and not request.tables[0].tuned:
        say("\n" + printed.claims(verdicts, overrides=configs.canonical(request.overrides)))
    failures = store.failures(sorted(ended))
    for failure in failures:
        say(f"Failed: {failure['fingerprint']}: {failure['message']}")
    say("\n" + "\n".join(f"Results: {store.folder}/{table.name}.parquet" for table in request.tables))
    if left:
        say(f"The time limit has come before {len(left)} trainings. The same command goes on from here.")
        return TIME_LIMIT
    _write_page(store)
    return 1 if failures else 0


def _write_page(store: Store) -> None:
    """The page of all results, where what it needs is installed; it is no reason for a run to fail."""
    from ablations import report

    if os.environ.get("SIMSIAM_REPORT") == "0" or not report.installed():
        return
    try:
        say(f"Page: {report.write(store)}")
    except Exception as error:
        say(f"The page could not be written ({error}). Try: python ablations/report.py", error=True)


if __name__ == "__main__":
    sys.exit(main())
