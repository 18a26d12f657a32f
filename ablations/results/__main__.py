"""Results on the command line: python -m ablations.results claims | compare | fidelity | watch | diff | export"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from ablations import board, printed, printed_grid, results, todays
from ablations.agreement import CONTRARY, DIFFER
from ablations.results import selection
from ablations.store import Store
from ablations.table import UserError
from ablations.terminal import answer, is_terminal, reason, say
from simsiam.recipes import RECIPES

_SECONDS = 3.0  # between two looks of watch
_SILENT = 30.0  # a run that has left no word for so many seconds may be no more
_CLEAR = "\033[H\033[2J"  # of a terminal: from the top, on a clear page


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0; 1 where two results differ or a file fails; 2 for a wrong command."""
    args = _parser().parse_args(argv)
    try:
        with _warnings_said():
            code: int = args.run(args)
        return code
    except UserError as error:
        say(f"error: {error}", error=True)
        return 2
    except OSError as error:
        say(f"error: {reason(error)}.", error=True)
        return 1


@contextlib.contextmanager
def _warnings_said() -> Iterator[None]:
    """Say at the end what was warned of meanwhile, once each: before an error, too, that it may be the reason of."""
    told: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            yield
    finally:
        for message in dict.fromkeys(str(each.message) for each in told):
            say(message, error=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ablations.results")
    commands = parser.add_subparsers(dest="command", required=True)
    judged = commands.add_parser("claims", help="judge the paper's claims")
    judged.add_argument("tables", nargs="*", help="only of these tables")
    compared = commands.add_parser("compare", help="whether the rows and claims of two results folders agree")
    compared.add_argument("places", nargs=2, metavar="PLACE", help="folder, or s3:// or gs://; both may be the same")
    compared.add_argument("--other-recipe", help="of the second, where it has another")
    compared.add_argument("--other-overrides", help="of the second, where it has others; '' for none")
    compared.add_argument("--other-data", help="of the second, where there are several")
    compared.add_argument("--other-encoder-from", help="of the second, where a table has several")
    watched = commands.add_parser("watch", help="how far the runs are that write there, until Ctrl-C")
    watched.add_argument("tables", nargs="*", help="judge the claims of these besides")
    watched.add_argument("--once", action="store_true", help="show it once")
    cheap = commands.add_parser("fidelity", help="whether fewer epochs rank a table's rows as more epochs do")
    cheap.add_argument("table")
    for command in (judged, compared, cheap, watched):
        command.add_argument("--recipe", default="digits")
        command.add_argument("--overrides", default="", help="as in the column of that name, in any order")
        command.add_argument("--data", help="as in the column of that name, where there are several")
        command.add_argument("--encoder-from", help="as in the column of that name, where a table has several")
    differing = commands.add_parser("diff", help="the fields in which two trials differ, and their results")
    differing.add_argument("trials", nargs=2, metavar="TRIAL", help="fingerprint, its first digits, or TABLE/ROW/SEED")
    exported = commands.add_parser("export", help="write a trial's encoder as safetensors, under torchvision's names")
    exported.add_argument("fingerprint")
    exported.add_argument("file", metavar="FILE.safetensors")
    for command in (judged, cheap, watched, differing, exported):
        command.add_argument("--results", help="folder of the results (default: as of run.py)")
    judged.set_defaults(run=_claims)
    compared.set_defaults(run=_compare)
    cheap.set_defaults(run=_fidelity)
    watched.set_defaults(run=_watch)
    differing.set_defaults(run=_diff)
    exported.set_defaults(run=_export)
    return parser


def _where(args: argparse.Namespace) -> dict[str, Any]:
    """Which lines of a recipe are asked for."""
    return {"overrides": args.overrides, "data": args.data, "encoder_from": args.encoder_from}


def _claims(args: argparse.Namespace) -> int:
    found = results.claims(args.recipe, **_where(args), names=args.tables, root=args.results)
    answer(printed.claims(found, overrides=todays.canonical(args.overrides)))
    for table in {table.name: table for table, _ in found if table.tuned}.values():
        _, own = results.tuned(table.name, recipe=args.recipe, **_where(args), root=args.results)
        answer(f"\n{table.title}:\n\n" + printed_grid.claims([each for its, each in found if its is table], own))
    return 0


def _compare(args: argparse.Namespace) -> int:
    one, other = args.places
    others = {name: its for name, its in vars(args).items() if name.startswith("other_")}
    rows, claims = results.agreement(one, other, recipe=args.recipe, **_where(args), **others)
    answer(printed.agreement(rows, claims))
    return int(any(row.says == DIFFER for row in rows) or any(claim.says == CONTRARY for claim in claims))


def _fidelity(args: argparse.Namespace) -> int:
    found = results.fidelity(args.table, recipe=args.recipe, **_where(args), root=args.results)
    answer(printed.fidelity(found))
    return 0


def _watch(args: argparse.Namespace) -> int:
    store = results.opened(args.results)
    _check_asked(store, args)
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            if not args.once and is_terminal():
                print(_CLEAR, end="")
            with _warnings_said():  # at each look: there may be no end
                read = answer(_watched(store, args))
            if args.once or not read:
                break
            time.sleep(_SECONDS)
    return 0


def _check_asked(store: Store, args: argparse.Namespace) -> None:
    """Raises UserError for a recipe or a table that there is none of, not even under way: its results would not come.

    A file that is damaged is no reason: it may be half written.
    """
    if args.recipe not in RECIPES:
        raise UserError(selection.unknown("recipe", args.recipe, RECIPES))
    under_way = {trial.name.partition("/")[0] for _, each in board.posted(store.folder) for trial in each.trials}
    for name in args.tables:
        if name not in under_way and f"{name}.parquet" not in store.table_files():
            selection.check_table(name, store)


def _watched(store: Store, args: argparse.Namespace) -> str:
    """How far the runs are, and the verdicts of the tables that are named."""
    parts = []
    height = shutil.get_terminal_size().lines
    posted = board.posted(store.folder)
    for seconds, each in posted:
        silent = f" (no word for {board.duration(seconds)}: killed, or cut off)" if seconds > _SILENT else ""
        trials, others = each.window(height // len(posted))
        cells: list[tuple[str, ...]] = [("trial", "status", "epoch", "loss", "z_std", "kNN", "left")]
        cells += [(trial.name, trial.status, *trial.cells()) for trial in trials]
        parts += [each.summary + silent, printed.aligned(cells), *([others] if others else [])]
    if not posted:
        parts.append(f"No run is under way in {store.folder}; {len(store.fingerprints())} trials are done there.")
    if args.tables:
        try:
            found = results.claims(args.recipe, **_where(args), names=args.tables, root=args.results)
            parts.append(printed.claims(found, overrides=todays.canonical(args.overrides)))
        except UserError as error:  # nothing of them is done yet, or a file cannot be read now: the next look may
            parts.append(str(error))
    return "\n".join(parts)


def _diff(args: argparse.Namespace) -> int:
    answer(results.diff(*args.trials, root=args.results))
    return 0


def _export(args: argparse.Namespace) -> int:
    results.export(args.fingerprint, args.file, root=args.results)
    say(f"Written: {args.file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
