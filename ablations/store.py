"""Results as Parquet, on a disk or in a bucket: one file a trial, one a curve, one a table.

A trial is done when trials/<fingerprint>.parquet is there. A failure is kept apart, in failed/, and is not done.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import io
import os
import statistics
import typing
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from ablations import provenance
from ablations.files import Folder
from ablations.table import Trial, UserError
from simsiam import config as configs
from simsiam.config import Config

T = TypeVar("T")
Result = dict[str, Any]

_AT_ONCE = 16  # files read at the same time: a bucket answers each after some hundredths of a second

FAILED, INFEASIBLE = "failed", "infeasible"  # the outcomes of trials that have no numbers

_TEXT, _REAL, _WHOLE, _TIME = pa.string(), pa.float64(), pa.int64(), pa.timestamp("us", tz="UTC")
_TYPES = {bool: pa.bool_(), int: _WHOLE, float: _REAL, str: _TEXT}

# Column -> (type, unit).
Columns = dict[str, tuple[pa.DataType, str]]

KEY: Columns = {
    "table": (_TEXT, "name in ablations/tables"),
    "row": (_TEXT, "name in the table"),
    "recipe": (_TEXT, "name in simsiam/recipes.py"),
    "overrides": (_TEXT, "--set, canonical text; empty for none"),
    "seed": (_WHOLE, ""),
}
METRICS: Columns = {
    "outcome": (_TEXT, "finished, collapsed, diverged, infeasible or failed"),
    "fingerprint": (_TEXT, "identity of the trial"),
    "loss": (_REAL, "mean of the last epoch"),
    "loss_roughness": (_REAL, "mean absolute change from epoch to epoch, second half of training"),
    "z_std": (_REAL, "std of z/||z|| times sqrt(d), test set"),
    "effective_rank": (_REAL, "of z/||z||, test set, 1 to d"),
    "knn_top1": (_REAL, "per cent of the test set"),
    "linear_top1": (_REAL, "per cent of the test set"),
    "knn_top1_init": (_REAL, "per cent of the test set, untrained network"),
    "knn_top1_pixels": (_REAL, "per cent of the test set, raw pixels; small data only"),
    "paper": (_REAL, "the paper's linear top-1 on ImageNet, per cent"),
    "message": (_TEXT, "why it failed or is infeasible"),
}
EVALUATION: Columns = {
    "test_images": (_WHOLE, "images evaluated on"),
    "knn_k": (_WHOLE, "neighbours"),
    "knn_temperature": (_REAL, ""),
    "probe": (_TEXT, "recipe of the linear probe"),
}
PROVENANCE: Columns = {
    "version": (_TEXT, "of this package"),
    "sources": (_TEXT, "digest of the code that decides a number"),
    "torch": (_TEXT, "version"),
    "ray": (_TEXT, "version"),
    "cuda": (_TEXT, "version; none on CPU"),
    "device": (_TEXT, "name"),
    "workers": (_WHOLE, "at the end"),
    "workers_by_step": (_TEXT, "step:workers from that step on, for each change of their number"),
    "gpu_fraction": (_REAL, "of a GPU's memory that a worker may use; speeds count only at 1; none on CPU"),
    "threads": (_WHOLE, "of torch, a worker"),
    "images_per_second": (_REAL, "median over epochs, all workers, source images, evaluation excluded"),
    "step": (_TEXT, "eager, graph or compiled: how a GPU took a training step"),
    "eval_seconds": (_REAL, "s, evaluation after the epochs, all together; within wall_seconds"),
    "wall_seconds": (_REAL, "s, training and evaluation, start-up excluded"),
    "device_seconds": (_REAL, "s, the same, of each worker's CPU or share of a GPU, added up"),
    "price": (_REAL, "of the device_seconds, at --price an hour; none if not given"),
    "started": (_TIME, "UTC, of the last attempt"),
    "ended": (_TIME, "UTC"),
}
CURVE: Columns = {
    "epoch": (_WHOLE, "epochs done"),
    "loss": (_REAL, "mean of the epoch"),
    "z_std": METRICS["z_std"],
    "effective_rank": METRICS["effective_rank"],
    "knn_top1": METRICS["knn_top1"],
    "lr": (_REAL, "of the encoder, at the epoch's start"),
    "seconds": (_REAL, "s, of the epoch's steps"),
    "eval_seconds": (_REAL, "s, of the epoch's evaluation"),
    "images_per_second": (_REAL, "source images, evaluation excluded"),
}


def _config_columns() -> Columns:
    columns = {}
    for name, hint in configs.TYPES.items():
        kind = next(arg for arg in (typing.get_args(hint) or (hint,)) if arg is not type(None))
        columns[name] = _TYPES[kind], configs.FIELDS[name].metadata.get("unit", "")
    return columns


COLUMNS: Columns = {**KEY, **METRICS, **_config_columns(), **EVALUATION, **PROVENANCE}
TRIAL: Columns = {name: column for name, column in COLUMNS.items() if name not in KEY or name == "seed"}


@dataclass(frozen=True)
class Checkpoint:
    """The place of one trial's checkpoint."""

    folder: Folder
    name: str

    def modified(self) -> int | None:
        """When it was written last, in ns; None if it is not there."""
        return self.folder.modified(self.name)

    def read(self) -> bytes | None:
        return self.folder.read(self.name)

    def write(self, content: bytes) -> None:
        self.folder.write(self.name, content)


@dataclass(frozen=True)
class Store:
    """A results folder."""

    folder: Folder

    @classmethod
    def at(cls, place: str | os.PathLike[str]) -> Store:
        """The store of a path, or of s3://bucket/prefix or gs://bucket/prefix."""
        return cls(Folder.at(place))

    def trial(self, fingerprint: str) -> Result | None:
        """The result of a trial that is done, or None."""
        return self._read_one(_trial(fingerprint))

    def failure(self, fingerprint: str) -> Result | None:
        """The result of a trial that failed, or None."""
        return self._read_one(_failed(fingerprint))

    def curve(self, fingerprint: str) -> list[Result] | None:
        """The curve of a trial that is done, or None."""
        return self._read(_curve(fingerprint))

    def result(self, trial: Trial) -> Result | None:
        """What is known of a trial: done, infeasible, failed; or None.

        A result stays when running it again fails, or cannot start with the workers of another command.
        """
        if done := self.trial(trial.fingerprint):
            return done
        if trial.infeasible:
            return unfinished(trial.config, INFEASIBLE, trial.infeasible)
        return self.failure(trial.fingerprint)

    def state(self, fingerprint: str) -> str:
        """`done`, `stale` (done, by other sources than these), `half done`, `failed` or `to run`."""
        if done := self.trial(fingerprint):
            return "done" if done["sources"] == provenance.sources() else "stale"
        if self.folder.exists(_failed(fingerprint)):
            return "failed"
        return "half done" if self.folder.exists(self.checkpoint(fingerprint).name) else "to run"

    def states(self, fingerprints: Iterable[str]) -> dict[str, str]:
        """Fingerprint -> its state."""
        return _each(self.state, fingerprints)

    def checkpoint(self, fingerprint: str) -> Checkpoint:
        """The checkpoint of a trial by the sources there are now: others' is not gone on from."""
        return Checkpoint(self.folder, f"checkpoints/{fingerprint}-{provenance.sources()}.pt")

    def write(self, result: Result, curve: list[Result], *, keep_checkpoint: bool = False) -> None:
        """Keep a finished trial: its curve first, then the file that says it is done.

        A result of other sources that was there goes to superseded/.
        """
        fingerprint = result["fingerprint"]
        before = self.trial(fingerprint)
        if before and before["sources"] != result["sources"]:
            for kind in ("curves", "trials"):
                old = f"superseded/{kind}/{fingerprint}-{before['sources']}.parquet"
                self.folder.move(f"{kind}/{fingerprint}.parquet", old)
        self.folder.write(_curve(fingerprint), _parquet(CURVE, curve))
        self.folder.write(_trial(fingerprint), _parquet(TRIAL, [result]))
        if keep_checkpoint:
            self.folder.move(self.checkpoint(fingerprint).name, f"kept/{fingerprint}-{result['sources']}.pt")
        self.tidy([fingerprint])

    def tidy(self, done: Collection[str]) -> None:
        """Remove the old failures and the checkpoints of trials that are done; a kill may have left some, or parts."""
        for folder in ("failed", "checkpoints"):
            for name in self.folder.names(folder, hidden=True):
                if name.removeprefix(".").partition(".")[0].partition("-")[0] in done:
                    self.folder.remove(f"{folder}/{name}")

    def write_failure(self, result: Result) -> None:
        """Keep what became of a trial that failed, if that is possible: on a full disk, this is lost first."""
        with contextlib.suppress(OSError):
            self.folder.write(_failed(result["fingerprint"]), _parquet(TRIAL, [result]))

    def table(self, name: str) -> list[Result]:
        """The lines of results/<table>.parquet; none if it is not there."""
        return self._read(f"{name}.parquet") or []

    @staticmethod
    def estimate(config: Config, finished: list[Result]) -> float | None:
        """Seconds that training this Config may take: from `finished` trials of nets, views and pictures like its own
        on this kind of device, by epochs. None where there is none.
        """
        device, alike = provenance.machine(), {name: getattr(config, name) for name in _COST}
        speeds = [
            done["wall_seconds"] / done["epochs"]
            for done in finished
            if done["device"] == device and done["outcome"] != "diverged" and alike.items() <= done.items()
        ]
        return statistics.median(speeds) * config.epochs if speeds else None

    def fingerprints(self) -> list[str]:
        """Of every finished trial there is."""
        return [name.removesuffix(".parquet") for name in self.folder.names("trials")]

    def finished(self) -> list[Result]:
        """Every finished trial there is."""
        return [result for result in _each(self.trial, self.fingerprints()).values() if result]

    def rebuild(self, trials: Sequence[Trial]) -> None:
        """Bring the files of these trials' tables up to date with what is done or failed by now.

        What a table file holds besides (other recipes, other overrides, more seeds) stays.
        """
        known = {trial.fingerprint: trial for trial in trials}
        results = _each(lambda fingerprint: self.result(known[fingerprint]), known)
        by_table: dict[str, list[Trial]] = {}
        for trial in trials:
            by_table.setdefault(trial.table.name, []).append(trial)
        with self.folder.alone():
            for name, members in by_table.items():
                self._rebuild(name, members, results)

    def _rebuild(self, name: str, members: list[Trial], results: dict[str, Result | None]) -> None:
        lines = {_key(line): line for line in self.table(name)}
        for trial in members:
            if result := results[trial.fingerprint]:
                line = {**result, **_membership(trial)}
                lines[_key(line)] = line
        order = {row.name: i for i, row in enumerate(members[0].table.rows)}
        ordered = sorted(
            lines.values(),
            key=lambda line: (
                line["recipe"],
                line["overrides"],
                line["data"],
                order.get(line["row"], len(order)),
                line["seed"],
            ),
        )
        if ordered:
            self.folder.write(f"{name}.parquet", _parquet(COLUMNS, ordered))

    def _read_one(self, name: str) -> Result | None:
        lines = self._read(name)
        return lines[0] if lines else None

    def _read(self, name: str) -> list[Result] | None:
        """The lines of a Parquet file, or None if it is not there.

        The bytes are read once: pyarrow would open the file twice, and another process may replace it in between.
        """
        content = self.folder.read(name)
        if content is None:
            return None
        try:
            # Without threads: Arrow's, still starting when a short command ends, abort the interpreter.
            return pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False).to_pylist()
        except (pa.ArrowException, OSError, ValueError, LookupError) as error:
            path = f"{self.folder}/{name}"
            raise UserError(f"{path} is damaged ({error}). Remove it; what it held is made again.") from None


def _trial(fingerprint: str) -> str:
    return f"trials/{fingerprint}.parquet"


def _curve(fingerprint: str) -> str:
    return f"curves/{fingerprint}.parquet"


def _failed(fingerprint: str) -> str:
    return f"failed/{fingerprint}.parquet"


def _each(function: Callable[[str], T], names: Iterable[str]) -> dict[str, T]:
    """Name -> function(name), many at a time."""
    names = list(names)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return dict(zip(names, pool.map(function, names), strict=True))


# What the time of an epoch hangs on most; the batch size and the other switches matter little beside it.
_COST = ("data", "train_images", "image_size", "backbone", "stem", "width", "pairs_per_image", "precision")


def unfinished(config: Config, outcome: str, message: str) -> Result:
    """The result of a trial that has no numbers, with the reason."""
    return {
        **dataclasses.asdict(config),
        "fingerprint": configs.fingerprint(config),
        "outcome": outcome,
        "message": message,
        "sources": provenance.sources(),
        "ended": datetime.datetime.now(datetime.UTC),
    }


def _membership(trial: Trial) -> Result:
    return {
        "table": trial.table.name,
        "row": trial.row.name,
        "recipe": trial.recipe,
        "overrides": trial.overrides,
        "seed": trial.config.seed,
        "paper": trial.row.paper,
    }


def _key(line: Result) -> tuple[Any, ...]:
    """What a line of a table is filed under; pictures of another folder are another line."""
    return line["recipe"], line["overrides"], line["data"], line["row"], line["seed"]


def schema(columns: Columns) -> pa.Schema:
    """The Parquet schema, each field with its unit."""
    return pa.schema([pa.field(name, kind, metadata={"unit": unit}) for name, (kind, unit) in columns.items()])


def _parquet(columns: Columns, lines: list[Result]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(lines, schema=schema(columns)), buffer)
    return buffer.getvalue()
