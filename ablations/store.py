"""Results as Parquet: one file a trial, one a curve, one a table. Every write is complete or has not happened.

A trial is done when trials/<fingerprint>.parquet is there. A failure is kept apart, in failed/, and is not done.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import fcntl
import io
import os
import statistics
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ablations import provenance
from ablations.table import Trial, UserError
from simsiam import config as configs
from simsiam.config import Config

Result = dict[str, Any]

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
    "workers": (_WHOLE, ""),
    "threads": (_WHOLE, "of torch, a worker"),
    "images_per_second": (_REAL, "median over epochs, all workers, source images, evaluation excluded"),
    "wall_seconds": (_REAL, "s, training and evaluation, start-up excluded"),
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

    path: Path

    def read(self) -> bytes | None:
        return self.path.read_bytes() if self.path.exists() else None

    def write(self, content: bytes) -> None:
        _write(self.path, content)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Store:
    """A results folder."""

    root: Path

    def check_writable(self) -> None:
        """Raises UserError if nothing can be written here."""
        probe = self.root / f".writable-{os.getpid()}"
        try:
            _write(probe, b"")
            probe.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(
                f"The results folder {self.root} cannot be written: {error.strerror}. Give another with --results."
            ) from None

    def trial(self, fingerprint: str) -> Result | None:
        """The result of a trial that is done, or None."""
        return _read_one(self._trial(fingerprint))

    def failure(self, fingerprint: str) -> Result | None:
        """The result of a trial that failed, or None."""
        return _read_one(self._failed(fingerprint))

    def result(self, trial: Trial) -> Result | None:
        """What is known of a trial: infeasible, done, failed; or None. A result stays when running it again fails."""
        if trial.infeasible:
            return unfinished(trial.config, INFEASIBLE, trial.infeasible)
        return self.trial(trial.fingerprint) or self.failure(trial.fingerprint)

    def state(self, fingerprint: str) -> str:
        """`done`, `stale` (done, by other sources than these), `half done`, `failed` or `to run`."""
        if done := self.trial(fingerprint):
            return "done" if done["sources"] == provenance.sources() else "stale"
        if self._failed(fingerprint).exists():
            return "failed"
        return "half done" if self.checkpoint(fingerprint).path.exists() else "to run"

    def checkpoint(self, fingerprint: str) -> Checkpoint:
        """The checkpoint of a trial by the sources there are now: others' is not gone on from."""
        return Checkpoint(self.root / "checkpoints" / f"{fingerprint}-{provenance.sources()}.pt")

    def write(self, result: Result, curve: list[Result]) -> None:
        """Keep a finished trial: its curve first, then the file that says it is done.

        A result of other sources that was there goes to superseded/.
        """
        fingerprint = result["fingerprint"]
        before = self.trial(fingerprint)
        if before and before["sources"] != result["sources"]:
            for kind in ("curves", "trials"):
                self._supersede(self.root / kind / f"{fingerprint}.parquet", before["sources"])
        _write_parquet(self.root / "curves" / f"{fingerprint}.parquet", CURVE, curve)
        _write_parquet(self._trial(fingerprint), TRIAL, [result])
        self._failed(fingerprint).unlink(missing_ok=True)
        self.checkpoint(fingerprint).remove()

    def write_failure(self, result: Result) -> None:
        _write_parquet(self._failed(result["fingerprint"]), TRIAL, [result])

    def table(self, name: str) -> list[Result]:
        """The lines of results/<table>.parquet; none if it is not there."""
        return _read(self.root / f"{name}.parquet") or []

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

    def finished(self) -> list[Result]:
        """Every finished trial there is."""
        paths = sorted((self.root / "trials").glob("*.parquet"))
        return [result for path in paths if (result := _read_one(path))]

    def rebuild(self, trials: Iterable[Trial]) -> None:
        """Bring the files of these trials' tables up to date with what is done or failed by now.

        What a table file holds besides (other recipes, other overrides, more seeds) stays.
        """
        by_table: dict[str, list[Trial]] = {}
        for trial in trials:
            by_table.setdefault(trial.table.name, []).append(trial)
        with self._alone():
            self._rebuild(by_table)

    def _rebuild(self, by_table: dict[str, list[Trial]]) -> None:
        for name, members in by_table.items():
            lines = {_key(line): line for line in self.table(name)}
            for trial in members:
                if result := self.result(trial):
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
                _write_parquet(self.root / f"{name}.parquet", COLUMNS, ordered)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """One process at a time: a table file is read, merged and written."""
        self.root.mkdir(parents=True, exist_ok=True)
        with open(self.root / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _supersede(self, path: Path, sources: str | None) -> None:
        target = self.root / "superseded" / path.parent.name / f"{path.stem}-{sources}.parquet"
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            os.replace(path, target)

    def _trial(self, fingerprint: str) -> Path:
        return self.root / "trials" / f"{fingerprint}.parquet"

    def _failed(self, fingerprint: str) -> Path:
        return self.root / "failed" / f"{fingerprint}.parquet"


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


def _write_parquet(path: Path, columns: Columns, lines: list[Result]) -> None:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(lines, schema=schema(columns)), buffer)
    _write(path, buffer.getvalue())


def _read_one(path: Path) -> Result | None:
    lines = _read(path)
    return lines[0] if lines else None


def _read(path: Path) -> list[Result] | None:
    """The lines of a Parquet file, or None if it is not there.

    The bytes are read once: pyarrow would open the file twice, and another process may replace it in between.
    """
    try:
        # Without threads: Arrow's, still starting when a short command ends, abort the interpreter.
        return pq.ParquetFile(pa.BufferReader(path.read_bytes())).read(use_threads=False).to_pylist()
    except FileNotFoundError:
        return None
    except (pa.ArrowException, OSError, ValueError, LookupError) as error:
        raise UserError(f"{path} is damaged ({error}). Remove it; what it held is made again.") from None


def _write(path: Path, content: bytes) -> None:
    """Write under a temporary name, then rename: a reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
