"""What a command asks for, trained where it is missing, and judged after each look."""

from __future__ import annotations

import argparse
import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ablations import grid, planning, printed_plan, rerun, verdict
from ablations.rebuild import Rebuild
from ablations.request import Request
from ablations.store import Store
from ablations.table import Claim, Table, Trial, UserError
from ablations.terminal import say, some
from ablations.verdict import Verdict

if TYPE_CHECKING:
    from simsiam.data import Source

_CHECKED_BYTES = 512 << 20  # encoded pictures up to this size are all decoded once before the first trial
_NAMED = 5  # fingerprints in a message


def train(
    request: Request, looks: list[Sequence[int]], store: Store
) -> tuple[list[tuple[Table, Verdict]], set[str], set[str]]:
    """Train what is missing, and judge. After each look but the last, only rows of undecided claims get more seeds.

    Returns the verdicts, the fingerprints that were asked for and have ended, and those that the time limit has left.
    """
    rows: dict[str, list[str]] | None = None
    found: dict[tuple[str, Claim], Verdict] = {}
    asked: set[str] = set()
    for seeds in looks:
        trials = request.trials(seeds, rows)
        asked |= planning.distinct(trials).keys()
        todo = rerun.todo(trials, store, request.args.rerun)
        say(printed_plan.plan(request, trials, todo, store))
        left = _train_missing(request, trials, todo, store)
        rows, every_row = {}, request.every_row(seeds)
        for table in request.tables:
            its = lines(every_row, table, store)
            for now in verdict.judge(table.claims, its, short=short(trials, table, left)):
                before = found.get((table.name, now.claim))
                # A decided difference stays decided, or the error rate would not hold; outcomes are counted anew.
                if before is None or before.open or before.shows is None:
                    found[table.name, now.claim] = now
                    if now.open:
                        rows.setdefault(table.name, []).extend(now.claim.rows)
            if table.axes and (undecided := grid.undecided(table, its, request.rows)):
                rows[table.name] = undecided
        if left or not rows:
            break
    verdicts = [(table, found[table.name, claim]) for table in request.tables for claim in table.claims]
    return verdicts, asked - left, left


def short(trials: list[Trial], table: Table, left: set[str]) -> set[str]:
    """The rows of a table that the time limit has left without some of their seeds."""
    return {trial.row.name for trial in trials if trial.table.name == table.name and trial.fingerprint in left}


def lines(trials: list[Trial], table: Table, store: Store) -> list[dict[str, Any]]:
    """A table's lines of just these trials: what else its file holds is of other Configs."""
    mine = {(each.row.name, each.fingerprint, each.encoder_from) for each in trials if each.table.name == table.name}
    return [
        line for line in store.table(table.name) if (line["row"], line["fingerprint"], line.get("encoder_from")) in mine
    ]


def _train_missing(request: Request, trials: list[Trial], todo: dict[str, Trial], store: Store) -> set[str]:
    """Train, and keep the table files up to date -> the fingerprints that the time limit has left.

    Raises UserError for pictures, or table files, that are broken.
    """
    rebuild = Rebuild(store, trials)
    done = {name for name, state in store.states(planning.distinct(trials)).items() if state == "done"}
    store.tidy(done)
    rebuild.at_once()
    if request.runtime.keep_checkpoint and (unkept := store.unkept(done - todo.keys())):
        say(
            f"No checkpoint is kept of {len(unkept)} trials that are done: {some(sorted(unkept), _NAMED)}. "
            "--rerun unkept trains them again."
        )
    if not todo or request.runtime.over:
        return set(todo)
    try:
        with rerun.set_aside(store, todo.keys() & done):
            return {trial.fingerprint for trial in _launch(request, list(todo.values()), store, rebuild)}
    finally:
        rebuild.at_once()


def _launch(request: Request, todo: list[Trial], store: Store, rebuild: Callable[[bool], None]) -> list[Trial]:
    from ablations.tracking import Tracking, default_trackers

    trackers = request.args.track or default_trackers()
    # What runs the trials ends before what tells of them.
    with contextlib.ExitStack() as telling, contextlib.ExitStack() as running:
        try:
            launch = running.enter_context(_launcher(request.args, store))
        except ModuleNotFoundError as error:
            launcher = request.args.launcher
            raise UserError(f"--launcher {launcher} needs the package {error.name}, which is not installed.") from None
        # Only now: torch is there, and has been imported while Ray started.
        from ablations.board import Post
        from ablations.progress import Progress
        from simsiam.data import DataError

        if not _checked(request):
            return todo

        def has_checkpoint(trial: Trial) -> bool:
            return store.checkpoint(trial.fingerprint, trial.config.method).modified() is not None

        try:
            tracking = telling.enter_context(Tracking(trackers, store.folder))
            progress = telling.enter_context(Progress(todo, tracking, has_checkpoint))
            telling.enter_context(Post(store.folder, progress.board))
            left = launch(todo, request.runtime, store, progress, rebuild)
        except DataError as error:
            raise UserError(str(error)) from None
    ended = planning.distinct(todo).keys() - {trial.fingerprint for trial in left}
    kept = {name for name, state in store.states(ended).items() if state == "done"}
    kept |= {failure["fingerprint"] for failure in store.failures(ended)}
    if lost := [trial.name for trial in todo if trial.fingerprint in ended - kept]:
        raise OSError(f"{store.folder} did not take what became of {', '.join(lost)}")
    return left


def _checked(request: Request) -> bool:
    """Decode all pictures once, if they are few -> whether the time limit has let it. Raises UserError."""
    from ablations.alarm import within
    from simsiam import data
    from simsiam.checkpoint import TimeLimitError

    if request.source.encoded_bytes > _CHECKED_BYTES:
        most = f"{_CHECKED_BYTES >> 20} MiB"
        say(f"Data: more than {most}, so not all are decoded before the first trial starts. --check does that.")
        return True
    try:
        for note in within(request.runtime.until, lambda: _notes(request.source)):
            say(f"Data: {note}.")
    except data.DataError as error:
        raise UserError(str(error)) from None
    except TimeLimitError:
        return False
    return True


@functools.cache  # asked again at each look, and for each table of benchmarks.publish
def _notes(source: Source) -> list[str]:
    from simsiam import data

    return data.check(source)


def _launcher(args: argparse.Namespace, store: Store) -> contextlib.AbstractContextManager[Callable[..., list[Trial]]]:
    """A context that gives what runs trials. Raises ModuleNotFoundError, also when it is entered."""
    if args.launcher == "ray":
        from ablations.launch import ready

        return ready(store)
    if args.jobs == 1:
        from ablations.launch_local import launch

        return contextlib.nullcontext(launch)
    from ablations import launch_jobs

    return contextlib.nullcontext(functools.partial(launch_jobs.launch, jobs=args.jobs))
