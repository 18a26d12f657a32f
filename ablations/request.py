"""What a command line asks for: read, checked, and refused with a word on what is there instead."""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablations import asked as named
from ablations import options, planning
from ablations.options import MOST_SEEDS, assignment
from ablations.table import Encoders, Table, Trial, UserError
from simsiam import config as configs
from simsiam.config import Runtime
from simsiam.methods import DETECTION, NONE
from simsiam.recipes import DATA, RECIPES

if TYPE_CHECKING:
    from simsiam.data import Source

_END_SECONDS = 15.0  # of a time limit that are kept for the tables and the end of Ray
_LONGEST = 1_000_000  # minutes
_MOST_PIXELS = 178_956_970  # of one picture: Pillow opens no larger ones


@dataclass(frozen=True)
class Request:
    """What the command line asks for, apart from the seeds."""

    tables: list[Table]
    recipe: str
    source: Source
    overrides: dict[str, Any]
    rows: list[str] | None
    args: argparse.Namespace
    encoders: Encoders
    until: float | None = None  # seconds since 1970 at which the trials must have ended

    @property
    def runtime(self) -> Runtime:
        return Runtime(
            data_path=self.source.asked,
            test_fraction=self.source.test_fraction,
            label_column=self.source.label_column,
            max_pixels=self.source.max_pixels,
            workers=self.args.workers,
            threads=self.args.threads,
            step=self.args.step,
            loader_processes=self.args.loader_processes,
            gpu_fraction=self.args.gpus_per_trial or 1.0,
            checkpoint_seconds=self.args.checkpoint_seconds,
            keep_checkpoint=self.args.keep_checkpoints,
            pictures=self.args.pictures or self.source.is_public,
            price=self.args.price,
            until=self.until,
        )

    @property
    def where(self) -> str:
        """Where the trials run, for a person."""
        workers, jobs = self.args.workers, self.args.jobs
        if self.args.launcher == "ray":
            cpus, share = self.args.threads + self.args.loader_processes, self.runtime.gpu_fraction
            each = f"{cpus} CPU{'s' * (cpus > 1)}{' each' * (workers > 1)}"
            gpu = "a GPU" if share == 1 else f"{share:g} of a GPU"
            return f"on Ray, {workers} worker{'s' * (workers > 1)} a trial with {each}, and {gpu} where there are some"
        return "in this process" if jobs == 1 else f"{jobs} at once in processes of their own"

    @property
    def judges(self) -> bool:
        """Whether the paper's claims are judged aloud: of one's own pictures it says nothing, unless that is asked."""
        asked = self.args.claims or self.args.seeds_until_decided is not None
        return asked or self.source.layout not in ("images", "parquet")

    def every_row(self, seeds: Iterable[int]) -> list[Trial]:
        """The trials of all tables with all their rows, whichever are asked for."""
        return dataclasses.replace(self, rows=None).trials(seeds)

    def trials(self, seeds: Iterable[int], rows: dict[str, list[str]] | None = None) -> list[Trial]:
        """The trials of all tables; with `rows`, of those rows of each table."""
        looks = len(options.looks(self.args))
        return [
            dataclasses.replace(self._placed(trial), looks=looks)
            for table in self.tables
            for trial in planning.plan(
                table,
                recipe=self.recipe,
                data=self.source.name,
                train_images=self.source.train_images,
                overrides=self.overrides,
                rows=self.rows if rows is None else self._chosen(rows.get(table.name, [])),
                seeds=seeds,
                encoders=self.encoders,
            )
        ]

    def _placed(self, trial: Trial) -> Trial:
        """A trial with more workers than it can have is infeasible with these."""
        workers, method, images = self.args.workers, trial.config.method, trial.config.batch_size
        if trial.infeasible or workers == 1 or method == NONE:
            return trial
        if method == DETECTION:  # shares of a batch would draw other proposals
            reason = f"method={method} has one worker. Got --workers {workers}: use --workers 1."
        elif workers > images:
            reason = f"--workers {workers} share a batch of {images}: one would have no picture. Use at most {images}."
        else:
            return trial
        return dataclasses.replace(trial, infeasible=reason)

    def _chosen(self, rows: list[str]) -> list[str]:
        return [row for row in rows if self.rows is None or row in self.rows]


def read(args: argparse.Namespace, encoders: Encoders = planning.no_encoders) -> Request:
    """Raises UserError for what cannot be asked. A time limit counts from now.

    Args:
        encoders: those of `--from` or `--weights`.
    """
    begun = time.time()
    asked = named.tables(args)
    _check_numbers(args)
    if args.seeds is not None and args.seeds_until_decided is not None:
        raise UserError("--seeds and --seeds-until-decided exclude each other. Leave one out.")
    if args.rerun == "unkept" and not args.keep_checkpoints:
        raise UserError("--rerun unkept is for --keep-checkpoints, and would keep none without it. Add that.")
    _check_the_plan(args)
    _check_the_launcher(args)
    if args.table == "all" and args.rows:
        raise UserError("--rows is of one table. Got --table all: name one.")
    its, changed = source(args), overrides(args.set)
    if args.table == "all":
        asked = [table for table in asked if table.detects == (its.layout == "voc")]
    asked = named.with_encoder(named.with_grid(asked, args, data=its.name, overrides=changed), args)
    _check_the_claims(args, asked)
    return Request(
        tables=asked,
        recipe=args.recipe,
        source=its,
        overrides=changed,
        rows=named.rows(args, asked),
        args=args,
        encoders=encoders,
        until=None if args.time_limit is None else begun + 60 * args.time_limit - _END_SECONDS,
    )


def _check_numbers(args: argparse.Namespace) -> None:
    """Raises UserError for one that is out of its range."""
    for option, low, high in (
        ("seeds_until_decided", 1, MOST_SEEDS),
        ("workers", 1, 100_000),
        ("threads", 1, 1000),
        ("loader_processes", 0, 1000),
        ("jobs", 1, 1000),
    ):
        value = getattr(args, option)
        if value is not None and not low <= value <= high:
            raise UserError(f"--{option.replace('_', '-')} must be {low} to {high}. Got {value} instead.")
    if not args.checkpoint_seconds >= 0:
        raise UserError(f"--checkpoint-seconds must be a number at least 0. Got {args.checkpoint_seconds:g} instead.")
    if args.price is not None and not 0 <= args.price < math.inf:
        raise UserError(f"--price must be a finite number at least 0. Got {args.price:g} instead.")
    if args.time_limit is not None and not _END_SECONDS / 60 < args.time_limit <= _LONGEST:
        raise UserError(
            f"--time-limit must be above {_END_SECONDS / 60:g} minutes, the time that the tables take at the end, and "
            f"at most {_LONGEST:,}. Got {args.time_limit:g} instead."
        )


def _check_the_claims(args: argparse.Namespace, tables: list[Table]) -> None:
    """Raises UserError where claims are to be judged, and there are none; a grid's differences are decided, too."""
    option = "--claims" if args.claims else "--seeds-until-decided"
    asked = args.claims or args.seeds_until_decided is not None
    if asked and not any(table.claims or (table.axes and not table.tuned) for table in tables):
        raise UserError(f"{option} is for tables with claims. Got --table {args.table}, which has none: use --seeds N.")


def _check_the_plan(args: argparse.Namespace) -> None:
    """Raises UserError for what only a plan does."""
    for option in ("probe", "device", "cluster", "fingerprints"):
        if getattr(args, option) not in (None, False) and not args.plan:
            raise UserError(f"--{option} is for --plan. Add that, or leave it out.")
    if args.probe and args.device:
        raise UserError("--probe is of this machine, --device of another. Leave one out.")
    if args.cluster is None:
        return
    if not (args.probe or args.device):
        raise UserError(
            "--cluster says how many machines there are, not how fast. Add --device KIND, or --probe there."
        )
    if args.launcher == "local":
        raise UserError("--cluster is of --launcher ray. Leave one of the two out.")
    if args.gpus_per_trial not in (None, 1):
        raise UserError("--cluster: how fast trials are that share a GPU is not known. Leave --gpus-per-trial out.")
    if args.seeds_until_decided is not None:
        raise UserError("--cluster: how many seeds --seeds-until-decided takes is not known. Use --seeds.")


def _check_the_launcher(args: argparse.Namespace) -> None:
    """Raises UserError for what the launcher does not do."""
    share, jobs = args.gpus_per_trial, args.jobs
    if share is not None and not 0 < share <= 1:
        raise UserError(f"--gpus-per-trial must be above 0 and at most 1. Got {share:g} instead.")
    if args.workers > 1 and (share or 1) < 1:
        raise UserError(
            f"--gpus-per-trial {share:g} is for one worker: NCCL wants a whole GPU for each of several. "
            f"Got --workers {args.workers}: leave one of the two out."
        )
    if args.launcher == "local" and args.workers > 1:
        raise UserError(f"--launcher local has one worker. Got --workers {args.workers}: use --launcher ray.")
    if args.launcher == "ray" and jobs > 1:
        raise UserError(
            f"--jobs is of --launcher local. Got --jobs {jobs} with --launcher ray, which runs as many trials at once "
            f"as there is room for: for {jobs} on each GPU use --gpus-per-trial {math.floor(1000 / jobs) / 1000:g}."
        )
    if jobs > 1 and share is not None and jobs * share > 1 + 1e-9:
        raise UserError(
            f"--jobs {jobs} with --gpus-per-trial {share:g} are more than one GPU. "
            f"Use at most --jobs {int(1 / share + 1e-9)}, or leave --gpus-per-trial out."
        )


def overrides(texts: list[str]) -> dict[str, Any]:
    """Field -> value of `--set`. Raises UserError."""
    found: dict[str, Any] = {}
    for name, value in map(_override, texts):
        if name in found:
            raise UserError(f"--set {name} is given twice. Leave one out.")
        found[name] = value
    return found


def _override(text: str) -> tuple[str, Any]:
    name, value = assignment(text, "--set", "FIELD=VALUE")
    try:
        return name, configs.parse(name, value)
    except ValueError as error:
        hint = f" Several values are --grid {text}." if _are_several(name, value) else ""
        raise UserError(f"--set {text}: {error}{hint}") from None


def _are_several(name: str, text: str) -> bool:
    """Whether the text is several values of a field, as --grid takes them."""
    try:
        found = [configs.parse(name, each.strip()) for each in text.split(",")]
    except ValueError:
        return False
    return len(set(found)) == len(found) > 1


def source(args: argparse.Namespace) -> Source:
    """The data that are asked for. Raises UserError."""
    from simsiam.buckets import BUCKETS, is_bucket, shown
    from simsiam.data import DataError, check_answers, is_public, locate

    if args.recipe not in RECIPES:
        raise UserError(configs.unknown("recipe", args.recipe, RECIPES))
    fraction, column, pixels = args.test_fraction, args.label_column, args.max_pixels
    if fraction is not None and not 0 < fraction < 1:
        raise UserError(f"--test-fraction must be above 0 and below 1. Got {fraction:g} instead.")
    if not 1 <= pixels <= _MOST_PIXELS:
        raise UserError(f"--max-pixels must be 1 to {_MOST_PIXELS}, which Pillow opens. Got {pixels} instead.")
    if args.data == "":
        raise UserError("--data is empty. Name a folder, a bucket or public data, or leave it out.")
    path = args.data or (None if args.recipe == "digits" else os.environ.get("SIMSIAM_DATA")) or DATA.get(args.recipe)
    path = None if path is None else os.path.expanduser(path)  # the shell leaves the ~ of --data=~/pictures as it is
    try:
        if path is not None and is_public(path):
            if Path(path).exists():
                raise UserError(
                    f"--data {path} is the name of public data, and a folder here. For the folder, write ./{path}."
                )
            return locate(path, fraction, column, pixels)
        if path is None or not is_bucket(path):
            if path is not None and "://" in path:
                raise UserError(
                    f"--data {shown(path)} is of an unknown kind. Known: a folder, {', '.join(BUCKETS)}, "
                    "hf://datasets/, or a name of public data."
                )
            return locate(None if path is None else Path(path).resolve(), fraction, column, pixels)
        check_answers(path)
        return locate(path, fraction, column, pixels)
    except (DataError, OSError, RuntimeError) as error:
        raise UserError(f"{error}") from None
