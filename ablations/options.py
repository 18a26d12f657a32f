"""The options of a command line, and which seeds they name."""

from __future__ import annotations

import argparse
import os.path
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from ablations.table import SET_ELSEWHERE, UserError
from simsiam import config as configs
from simsiam.config import GRAPH, MAX_PIXELS, STEPS

MOST_SEEDS = 1000
_LAST_SEED = 1_000_000
_PATH = os.path.expanduser  # of an option: the shell leaves the ~ of --weights=~/one.pt as it is
_SEEDS_OF_A_VERDICT = 5  # with 3, the interval's half-width is 2.5 standard deviations
_LOOKS = (3, 5, 10)  # seeds at which --seeds-until-decided judges, before its last


_EXAMPLES = """\
examples:
  ablations/run.py --table stop_gradient                               a first table, minutes on a laptop
  ablations/run.py --table predictor --claims --plan                   what judging it would train, and how long
  ablations/run.py --table similarity --recipe imagenette --data DIR   on one's own pictures
  ablations/run.py --grid base_lr=0.1,0.2,0.4 --grid dim=64,256 --seeds 3
  ablations/run.py --table predictor --tune base_lr=0.05,0.1,0.2,0.4   each row at its own learning rate

exit codes: 0; 1 a trial failed; 2 a wrong command; 75 the time limit came first; 130 Ctrl-C.
What is finished stays: the same command goes on from it, and trains nothing twice. After 75, 130, a crash or a kill
repeat it as it was; after 1, what failed is tried again."""

# What people type who come from other tools -> the field, or the option, that it is here.
FIELDS_ELSEWHERE = {
    **{"lr": "base_lr", "learning_rate": "base_lr", "batch": "batch_size", "bs": "batch_size", "wd": "weight_decay"},
    **{"arch": "backbone", "model": "backbone", "epoch": "epochs", "resolution": "image_size"},
}
_HABITS = {
    "dataset": "--data",
    "output": "--results",
    "output_dir": "--results",
    "gpus": "--workers N, one GPU each",
    "resume": "nothing: the same command goes on from what is there",
    "sweep": "--grid FIELD=VALUE,VALUE",
    "multirun": "--grid FIELD=VALUE,VALUE",
    "seed": "--seeds N, or --seeds FIRST-LAST",
}


class _Parser(argparse.ArgumentParser):
    """Says beside what it does not know how the same is said here."""

    def error(self, message: str) -> NoReturn:
        super().error(message + "".join(f"\n{hint}" for hint in _hints(message)))


class _Once(argparse.Action):
    """What an option of one value does: argparse's own would take the last of several, and drop the others unsaid."""

    _given: argparse.Namespace | None = None  # that which has a value already

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        if self._given is namespace:
            remedy = _SEVERAL.get(self.dest, "Leave one out")
            raise argparse.ArgumentError(self, f"it is given twice, and takes one value. {remedy}.")
        self._given = namespace
        setattr(namespace, self.dest, values)


# Of which one may want several -> how.
_SEVERAL = {
    "table": "Run one command for each table, or use --table all",
    "rows": "Separate the rows by commas: --rows ONE,OTHER",
    "seeds": "Give the number of seeds, or the first and the last of them: --seeds 0-9",
}


def _hints(message: str) -> Iterator[str]:
    unknown = message.removeprefix("unrecognized arguments: ")
    for word in unknown.split() if unknown != message else ():
        name = word.lstrip("-").partition("=")[0].replace("-", "_")
        name = FIELDS_ELSEWHERE.get(name, name)
        if name in _HABITS:
            yield f"For {word} there is {_HABITS[name]}."
        elif name in configs.FIELDS:
            yield f"{name} is a field: --set {name}=VALUE, a --set for each; several values: --grid {name}=VALUE,VALUE."


def parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="ablations/run.py",
        allow_abbrev=False,  # --gpus would be --gpus-per-trial, which is something else
        description="Train the rows of the paper's tables.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.register("action", None, _Once)  # of all that name no action; the groups share it
    _look(parser.add_argument_group("looking, without training").add_argument)
    _what(parser.add_argument_group("what to train").add_argument)
    _data(parser.add_argument_group("pictures").add_argument)
    _encoder(parser.add_argument_group("starting from a trained encoder").add_argument)
    _where(parser.add_argument_group("where and how it runs: no number depends on it, up to rounding").add_argument)
    _kept(parser.add_argument_group("results").add_argument)
    return parser


def _look(add: Callable[..., Any]) -> None:
    add("--list", action="store_true", help="tables, their rows, and recipes")
    add("--fields", action="store_true", help="every field of a recipe, with its value, its rule and its unit")
    add("--plan", action="store_true", help="what would run, what is there, and how long it may take")
    add("--probe", action="store_true", help="with --plan: time a step of each kind that was not trained here yet")
    add("--device", metavar="KIND", help="with --plan: how long on another kind, as 'NVIDIA H200', by measured speeds")
    clusters = "with --plan and --device or --probe: how long on a cluster's machines"
    add("--cluster", type=_PATH, metavar="FILE.yaml", help=clusters)
    add("--fingerprints", action="store_true", help="with --plan: of all results, not of the first ten")
    add(
        "--check",
        type=_PATH,
        nargs="?",
        const="",
        metavar="VIEWS.png",
        help="what the data are; with a file's name, draw pictures and their views into it",
    )


def _what(add: Callable[..., Any]) -> None:
    add("--table", help="which table, 'all', or FILE.py with one of your own")
    add("--rows", help="only these rows, separated by commas")
    add("--recipe", default="digits", help="which baseline (default: digits)")
    add("--set", action="append", default=[], metavar="FIELD=VALUE", help="change a field of the recipe")
    add(
        "--grid",
        action="append",
        default=[],
        metavar="FIELD=VALUE,VALUE",
        help="each combination of these as a row, on the recipe or on each row of --table",
    )
    add(
        "--tune",
        action="append",
        default=[],
        metavar="FIELD=VALUE,VALUE",
        help="train each row of --table at each combination, and judge it at its own best, which no test label chooses",
    )
    add("--name", help="of the table of --grid or --tune (default: made of its fields)")
    add("--seeds", metavar="N | FIRST-LAST", help="seeds 0 to N-1, or these (default: 1, with --claims or --tune 5)")
    add("--claims", action="store_true", help="judge the paper's claims by 5 seeds; on one's own pictures, too")
    add("--seeds-until-decided", type=int, metavar="MAX", help="judge, and add seeds where a claim is undecided")


def _data(add: Callable[..., Any]) -> None:
    add(
        "--data",
        help="folder of the pictures, s3://, gs://, hf://datasets/OWNER/NAME, or a name of public data, as cifar10 "
        "(default: $SIMSIAM_DATA, else the recipe's own)",
    )
    add("--test-fraction", type=float, help="of pictures without a split, a folder a class: so many are for testing")
    add("--label-column", metavar="NAME", help="of Parquet, where it is not label or labels")
    add("--max-pixels", type=int, default=MAX_PIXELS, help=f"of the largest picture (default: {MAX_PIXELS})")


def _encoder(add: Callable[..., Any]) -> None:
    add("--from", dest="given", metavar="TABLE/ROW", help="encoders of kept checkpoints, for tables that need one")
    weights = "an encoder in a file of safetensors or torch, for tables that need one"
    add("--weights", type=_PATH, metavar="FILE", help=weights)


def _where(add: Callable[..., Any]) -> None:
    add("--launcher", choices=("ray", "local"), default="ray", help="local: in this process, without Ray")
    add("--jobs", type=int, default=1, help="with --launcher local: so many trials at once, each in its own process")
    add("--workers", type=int, default=1, help="workers a trial; the same numbers up to rounding (default: 1)")
    add("--threads", type=int, default=1, help="of torch, a worker; another number rounds otherwise (default: 1)")
    add("--loader-processes", type=int, default=0, help="decoding processes a worker (default: 0)")
    add("--gpus-per-trial", type=float, help="below 1: so much of a GPU and its memory (default: 1, or 1 / --jobs)")
    add("--step", choices=STEPS, default=GRAPH, help="how a GPU takes a training step (default: graph)")
    add("--checkpoint-seconds", type=float, default=30.0, help="between two checkpoints of a trial (default: 30)")
    add("--time-limit", type=float, metavar="MINUTES", help="end by then, if need be half done, with exit code 75")


def _kept(add: Callable[..., Any]) -> None:
    add("--results", help="folder, or s3:// or gs:// (default: $SIMSIAM_RESULTS, else results/ or ~/simsiam-results)")
    add(
        "--rerun",
        choices=("stale", "failed", "unkept"),
        help="stale: also what other sources gave; failed: only what failed; unkept: also what has no kept checkpoint",
    )
    add("--keep-checkpoints", action="store_true", help="keep the last checkpoint of each finished trial, in kept/")
    add(
        "--pictures",
        action="store_true",
        help="keep some pictures of each trial; of public data but the Hub's they are kept anyway",
    )
    add(
        "--track",
        action="append",
        choices=("tensorboard", "wandb", "mlflow", "none"),
        help="what else shows the trials as they go; repeatable (default: $SIMSIAM_TRACK, else tensorboard, where it "
        "is installed, into RESULTS/tensorboard)",
    )
    add("--price", type=float, help="of an hour of one CPU or GPU: for --plan, and the column of that name")


def assignment(text: str, option: str, form: str) -> tuple[str, str]:
    """The field and the value of FIELD=VALUE, as text. Raises UserError for what no such option sets."""
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"{option} takes {form}. Got '{text}' instead.")
    if name in SET_ELSEWHERE:
        raise UserError(f"{option} {name} does not exist: use {SET_ELSEWHERE[name]}.")
    if name not in configs.FIELDS:
        hint = f" Here it is {FIELDS_ELSEWHERE[name]}." if name in FIELDS_ELSEWHERE else ""
        known = [field for field in configs.FIELDS if field not in SET_ELSEWHERE]
        raise UserError(f"{option} {text}: {configs.unknown('field', name, known)}{hint}")
    return name, value


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
        raise UserError(f"--seeds takes N, for seeds 0 to N-1, or FIRST-LAST, as 0-4. Got '{text}' instead.")
    # Python makes no whole number of thousands of digits, and no length of a range of some; a bound does as well.
    number, last = (None if each is None else int(min(float(each), _LAST_SEED + 2)) for each in read.groups())
    assert number is not None
    if last is not None and last < number:
        raise UserError(f"--seeds FIRST-LAST: the last must not be before the first. Got {text}: use {last}-{number}.")
    found = range(number) if last is None else range(number, last + 1)
    if not 1 <= len(found) <= MOST_SEEDS or found[-1] > _LAST_SEED:
        raise UserError(
            f"--seeds must be 1 to {MOST_SEEDS} seeds, the last at most {_LAST_SEED:,}. Got {text} instead."
        )
    return found
