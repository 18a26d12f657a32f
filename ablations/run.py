"""Train the rows of the paper's tables and collect them: python ablations/run.py --table stop_gradient"""

from __future__ import annotations

import argparse
import functools
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parent.parent
if not __package__:  # started as a script, the path begins with ablations/ itself and not with the repository
    sys.path[0] = str(ROOT)

from ablations import catalogue, options, planning  # noqa: E402
from ablations import request as requests  # noqa: E402
from ablations.request import Request  # noqa: E402
from ablations.table import Claim, Table, Trial, UserError  # noqa: E402
from ablations.terminal import reason, say  # noqa: E402
from simsiam import config as configs  # noqa: E402

if TYPE_CHECKING:
    from ablations.encoders import Encoders
    from ablations.store import Store
    from ablations.verdict import Verdict

_CHECKED_BYTES = 512 << 20  # encoded pictures up to this size are all decoded once before anything starts
_NAMED = 5  # fingerprints in a message
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
    from ablations import files, printed_plan, rerun
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
        long, counts, every = _how_long(request, todo, store), [len(seeds) for seeds in looks], args.fingerprints
        say(printed_plan.plan(trials, todo, store, where=request.where, long=long, looks=counts, every=every))
        return 0
    if not planning.distinct(first := request.trials(looks[0])):
        raise UserError(f"No trial can start: {first[0].infeasible}")
    store.folder.check_writable()
    rerun.settle(store)  # what a killed command has left aside
    _check_tables(request, first, store)
    encoders.keep(store)
    verdicts, ended, left = _train(request, looks, store)
    return _conclude(request, looks[-1], verdicts, store, ended, left)


def _how_long(request: Request, todo: dict[str, Trial], store: Store) -> str:
    """How long the trainings may take, and what they may cost, in words. Raises UserError."""
    from ablations import estimate, printed_plan, provenance

    if not todo:
        return ""
    args, trials = request.args, list(todo.values())
    if args.device:
        its = request.source
        times = estimate.on(args.device, trials, store, args.threads, (its.train_images, its.test_images))
    elif args.probe:
        from ablations import timing

        known = estimate.speeds(estimate.costs(store), provenance.machine(), args.threads)
        found = known | timing.speeds(trials, request.runtime, known)
        times = estimate.times(trials, found, f" on this machine's {provenance.machine()}")
    else:
        times = estimate.here(trials, store, args.threads)
    at_once = None
    if args.cluster is not None:
        from ablations import machines

        at_once = machines.at_once(args.cluster, request.runtime), args.cluster
    return printed_plan.how_long(times, workers=args.workers, price=args.price, at_once=at_once, here=not args.device)


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


def _train(
    request: Request, looks: list[Sequence[int]], store: Store
) -> tuple[list[tuple[Table, Verdict]], set[str], set[str]]:
    """Train what is missing, and judge. After each look but the last, only rows of undecided claims get more seeds.

    Returns the verdicts, the fingerprints that were asked for and have ended, and those that the time limit has left.
    """
    from ablations import grid, printed_plan, rerun, verdict

    rows: dict[str, list[str]] | None = None
    found: dict[tuple[str, Claim], Verdict] = {}
    asked: set[str] = set()
    for seeds in looks:
        trials = request.trials(seeds, rows)
        asked |= planning.distinct(trials).keys()
        todo = rerun.todo(trials, store, request.args.rerun)
        say(printed_plan.plan(trials, todo, store, where=request.where, long=_how_long(request, todo, store)))
        left = _train_missing(request, trials, todo, store)
        rows, every_row = {}, request.every_row(seeds)
        for table in request.tables:
            lines = _lines(every_row, table, store)
            short = _short(trials, table, left)
            for now in verdict.judge(table.claims, lines, short=short):
                before = found.get((table.name, now.claim))
                # A decided difference stays decided, or the error rate would not hold; outcomes are counted anew.
                if before is None or before.open or before.shows is None:
                    found[table.name, now.claim] = now
                    if now.open:
                        rows.setdefault(table.name, []).extend(now.claim.rows)
            if table.axes and (undecided := grid.undecided(table, lines, request.rows)):
                rows[table.name] = undecided
        if left or not rows:
            break
    verdicts = [(table, found[table.name, claim]) for table in request.tables for claim in table.claims]
    return verdicts, asked - left, left


def _short(trials: list[Trial], table: Table, left: set[str]) -> set[str]:
    """The rows of a table that the time limit has left without some of their seeds."""
    return {trial.row.name for trial in trials if trial.table.name == table.name and trial.fingerprint in left}


def _lines(trials: list[Trial], table: Table, store: Store) -> list[dict[str, Any]]:
    """A table's lines of just these trials: what else its file holds is of other Configs."""
    mine = {(each.row.name, each.fingerprint, each.encoder_from) for each in trials if each.table.name == table.name}
    return [
        line for line in store.table(table.name) if (line["row"], line["fingerprint"], line.get("encoder_from")) in mine
    ]


def _train_missing(request: Request, trials: list[Trial], todo: dict[str, Trial], store: Store) -> set[str]:
    """Train, and keep the table files up to date -> the fingerprints that the time limit has left.

    Raises UserError for pictures, or table files, that are broken.
    """
    from ablations import rerun
    from ablations.rebuild import Rebuild

    rebuild = Rebuild(store, trials)
    done = {name for name, state in store.states(planning.distinct(trials)).items() if state == "done"}
    store.tidy(done)
    rebuild.at_once()
    if request.runtime.keep_checkpoint and (unkept := store.unkept(done - todo.keys())):
        say(
            f"No checkpoint is kept of {len(unkept)} trials that are done: {', '.join(sorted(unkept)[:_NAMED])}"
            f"{', ...' if len(unkept) > _NAMED else ''}. --rerun unkept trains them again."
        )
    if not todo or request.runtime.over:
        return set(todo)
    try:
        with rerun.set_aside(store, todo.keys() & done):
            return {trial.fingerprint for trial in _launch(request, list(todo.values()), store, rebuild)}
    finally:
        rebuild.at_once()


def _launch(request: Request, todo: list[Trial], store: Store, rebuild: Callable[[bool], None]) -> list[Trial]:
    from ablations.alarm import within
    from ablations.board import Post
    from ablations.progress import Progress
    from ablations.tracking import Tracking, default_trackers
    from simsiam import data
    from simsiam.checkpoint import TimeLimitError

    source, launcher = request.source, request.args.launcher
    if source.encoded_bytes <= _CHECKED_BYTES:
        try:
            for note in within(request.runtime.until, lambda: data.check(source)):
                say(f"Data: {note}.")
        except data.DataError as error:
            raise UserError(str(error)) from None
        except TimeLimitError:
            return todo
    else:
        most = f"{_CHECKED_BYTES >> 20} MiB"
        say(f"Data: more than {most}, so not all are decoded before the first trial starts. --check does that.")
    try:
        launch = _launcher(request.args)
    except ModuleNotFoundError as error:
        raise UserError(f"--launcher {launcher} needs the package {error.name}, which is not installed.") from None

    def has_checkpoint(trial: Trial) -> bool:
        return store.checkpoint(trial.fingerprint, trial.config.method).modified() is not None

    try:
        with (
            Tracking(request.args.track or default_trackers(), store.folder) as tracking,
            Progress(todo, tracking, has_checkpoint) as progress,
            Post(store.folder, progress.board),
        ):
            left = launch(todo, request.runtime, store, progress, rebuild)
    except data.DataError as error:
        raise UserError(str(error)) from None
    ended = planning.distinct(todo).keys() - {trial.fingerprint for trial in left}
    kept = {name for name, state in store.states(ended).items() if state == "done"}
    kept |= {failure["fingerprint"] for failure in store.failures(ended)}
    if lost := [trial.name for trial in todo if trial.fingerprint in ended - kept]:
        raise OSError(f"{store.folder} did not take what became of {', '.join(lost)}")
    return left


def _launcher(args: argparse.Namespace) -> Callable[..., list[Trial]]:
    """How trials are run. Raises ModuleNotFoundError."""
    if args.launcher == "ray":
        from ablations.launch import launch
    elif args.jobs == 1:
        from ablations.launch_local import launch
    else:
        from ablations import launch_jobs

        return functools.partial(launch_jobs.launch, jobs=args.jobs)
    return launch


def _conclude(
    request: Request,
    seeds: Sequence[int],
    verdicts: list[tuple[Table, Verdict]],
    store: Store,
    ended: set[str],
    left: set[str],
) -> int:
    """Print the tables, the verdicts and the place of the results -> the exit code, by what this command asked for."""
    from ablations import printed, printed_grid

    trials = request.trials(seeds)
    for table in request.tables:
        # A tuned table judges its claims itself: as any others, by what there is of all rows.
        lines = _lines(request.every_row(seeds) if table.tuned else trials, table, store)
        grid = table.axes and printed_grid.results(table, lines, short=_short(trials, table, left))
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
