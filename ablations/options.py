"""The options of a command line, and which seeds they name."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence

from ablations.table import UserError
from simsiam.config import GRAPH, MAX_PIXELS, STEPS

MOST_SEEDS = 1000
_LAST_SEED = 1_000_000
_SEEDS_OF_A_VERDICT = 5  # with 3, the interval's half-width is 2.5 standard deviations
_LOOKS = (3, 5, 10)  # seeds at which --seeds-until-decided judges, before its last


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ablations/run.py", description="Train the rows of the paper's tables.")
    add = parser.add_argument
    add("--list", action="store_true", help="list tables, rows and recipes, and exit")
    add("--table", help="which table, 'all', or FILE.py with one of your own")
    add("--grid", action="append", default=[], metavar="FIELD=VALUE,VALUE", help="each combination of these as a row")
    add("--tune", action="append", default=[], metavar="FIELD=VALUE,VALUE", help="each row of a table at its own best")
    add("--name", help="of the grid's table (default: made of its fields)")
    add("--recipe", default="digits", help="which baseline (default: digits)")
    add(
        "--data",
        help="folder of the pictures, s3://, gs://, hf://datasets/OWNER/NAME, or a name of public data, as cifar10 "
        "(default: $SIMSIAM_DATA, else the recipe's own)",
    )
    add("--test-fraction", type=float, help="of pictures without a split, a folder a class: so many are for testing")
    add("--label-column", metavar="NAME", help="of Parquet, where it is not label or labels")
    add("--max-pixels", type=int, default=MAX_PIXELS, help=f"of the largest picture (default: {MAX_PIXELS})")
    add("--rows", help="only these rows, separated by commas")
    add("--seeds", metavar="N | FIRST-LAST", help="seeds 0 to N-1, or these (default: 1, with --claims 5)")
    add("--claims", action="store_true", help="judge the paper's claims by 5 seeds; on one's own pictures, too")
    add("--seeds-until-decided", type=int, metavar="MAX", help="judge, and add seeds where a claim is undecided")
    add("--set", action="append", default=[], metavar="FIELD=VALUE", help="change a field of the recipe")
    add("--from", dest="given", metavar="TABLE/ROW", help="encoders of kept checkpoints, for tables that need one")
    add("--weights", metavar="FILE", help="an encoder in a file of safetensors or torch, for tables that need one")
    add(
        "--rerun",
        choices=("stale", "failed", "unkept"),
        help="stale: also what other sources gave; failed: only what failed; unkept: also what has no kept checkpoint",
    )
    add("--workers", type=int, default=1, help="workers a trial; the same numbers up to rounding (default: 1)")
    add("--threads", type=int, default=1, help="of torch, a worker; another number rounds otherwise (default: 1)")
    add("--loader-processes", type=int, default=0, help="decoding processes a worker (default: 0)")
    add("--gpus-per-trial", type=float, help="below 1: so much of a GPU and its memory (default: 1, or 1 / --jobs)")
    add("--launcher", choices=("ray", "local"), default="ray", help="local: in this process, without Ray")
    add("--step", choices=STEPS, default=GRAPH, help="how a GPU takes a training step (default: graph)")
    add("--jobs", type=int, default=1, help="with --launcher local: so many trials at once, each in its own process")
    add("--results", help="folder, or s3:// or gs:// (default: $SIMSIAM_RESULTS, else results/ or ~/simsiam-results)")
    add("--checkpoint-seconds", type=float, default=30.0, help="between two checkpoints of a trial (default: 30)")
    add("--time-limit", type=float, metavar="MINUTES", help="end by then, if need be half done, with exit code 75")
    add("--price", type=float, help="of an hour of one CPU or GPU, for the column of that name")
    add("--keep-checkpoints", action="store_true", help="keep the last checkpoint of each finished trial, in kept/")
    add("--pictures", action="store_true", help="keep some pictures of each trial; of public data they are kept anyway")
    add(
        "--check",
        nargs="?",
        const="",
        metavar="VIEWS.png",
        help="show what the data are, and exit; with a file's name, draw pictures and their views into it",
    )
    add("--plan", action="store_true", help="show what would run and what is there, and exit")
    return parser


def looks(args: argparse.Namespace, seeds: Sequence[int] = (0,)) -> list[Sequence[int]]:
    """The seeds after which the claims are judged, each time; the last are all that there are at most.

    Raises UserError for `--seeds` that are none.

    Args:
        seeds: those there are if nothing is said of them.
    """
    if most := args.seeds_until_decided:
        return [range(n) for n in (*(n for n in _LOOKS if n < most), most)]
    if args.seeds is not None:
        return [_seeds(args.seeds)]
    return [range(_SEEDS_OF_A_VERDICT) if args.claims or args.tune else seeds]


def _seeds(text: str) -> range:
    """Those of `--seeds 5` and `--seeds 5-9`. Raises UserError."""
    if not (read := re.fullmatch(r"(\d+)(?:-(\d+))?", text.strip(), re.ASCII)):
        raise UserError(f"--seeds takes N, for seeds 0 to N-1, or FIRST-LAST, as 5-9. Got '{text}' instead.")
    number, last = (None if each is None else int(each) for each in read.groups())
    assert number is not None
    found = range(number) if last is None else range(number, last + 1)
    if not 1 <= len(found) <= MOST_SEEDS or found[-1] > _LAST_SEED:
        raise UserError(
            f"--seeds must be 1 to {MOST_SEEDS} seeds, the last at most {_LAST_SEED:,}. Got {text} instead."
        )
    return found
