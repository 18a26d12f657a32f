"""Results on the command line: python -m ablations.results claims | compare | fidelity | diff | export"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence

from ablations import printed, results, todays
from ablations.agreement import CONTRARY, DIFFER
from ablations.table import UserError
from ablations.terminal import say


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0; 1 where two results do not agree; 2 for a wrong command."""
    args = _parser().parse_args(argv)
    try:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            code: int = args.run(args)
        for each in told:
            say(str(each.message), error=True)
        return code
    except UserError as error:
        say(f"error: {error}", error=True)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m ablations.results")
    commands = parser.add_subparsers(dest="command", required=True)
    judged = commands.add_parser("claims", help="judge the paper's claims")
    judged.add_argument("tables", nargs="*", help="only of these tables")
    judged.add_argument("--looks", type=int, default=1, help="if seeds were added until decided: how many looks")
    compared = commands.add_parser("compare", help="whether the rows and claims of two results folders agree")
    compared.add_argument("places", nargs=2, metavar="PLACE", help="folder, or s3:// or gs://")
    cheap = commands.add_parser("fidelity", help="whether fewer epochs rank a table's rows as more epochs do")
    cheap.add_argument("table")
    for command in (judged, compared, cheap):
        command.add_argument("--recipe", default="digits")
        command.add_argument("--overrides", default="", help="as in the column of that name, in any order")
        command.add_argument("--data", help="as in the column of that name, where there are several")
    differing = commands.add_parser("diff", help="the fields in which two trials differ, and their results")
    differing.add_argument("fingerprints", nargs=2)
    exported = commands.add_parser("export", help="write a trial's encoder as safetensors, under torchvision's names")
    exported.add_argument("fingerprint")
    exported.add_argument("file", metavar="FILE.safetensors")
    for command in (judged, cheap, differing, exported):
        command.add_argument("--results", help="folder of the results (default: results/)")
    judged.set_defaults(run=_claims)
    compared.set_defaults(run=_compare)
    cheap.set_defaults(run=_fidelity)
    differing.set_defaults(run=_diff)
    exported.set_defaults(run=_export)
    return parser


def _claims(args: argparse.Namespace) -> int:
    if args.looks < 1:
        raise UserError(f"--looks must be at least 1. Got {args.looks} instead.")
    found = results.claims(
        args.recipe,
        overrides=args.overrides,
        data=args.data,
        looks=args.looks,
        names=args.tables or None,
        root=args.results,
    )
    say(printed.claims(found, overrides=todays.canonical(args.overrides)))
    return 0


def _compare(args: argparse.Namespace) -> int:
    rows, claims = results.agreement(*args.places, recipe=args.recipe, overrides=args.overrides, data=args.data)
    say(printed.agreement(rows, claims))
    return int(any(row.says == DIFFER for row in rows) or any(claim.says == CONTRARY for claim in claims))


def _fidelity(args: argparse.Namespace) -> int:
    found = results.fidelity(
        args.table, recipe=args.recipe, overrides=args.overrides, data=args.data, root=args.results
    )
    say(printed.fidelity(found))
    return 0


def _diff(args: argparse.Namespace) -> int:
    say(results.diff(*args.fingerprints, root=args.results))
    return 0


def _export(args: argparse.Namespace) -> int:
    results.export(args.fingerprint, args.file, root=args.results)
    say(f"Written: {args.file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
