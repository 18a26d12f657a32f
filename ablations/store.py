"""Results as Parquet, on a disk or in a bucket: one file a trial, one a curve, one a table.

A trial is done when trials/<fingerprint>.parquet is there. A failure is kept apart, in failed/, and is not done.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from ablations import definition, provenance
from ablations import lines as lines_of
from ablations.columns import (
    COLUMNS,
    CURVE,
    PACKED,
    PICTURES,
    TRIAL,
    Result,
    decoded,
    definitions_in,
    encoded,
    stamps_in,
)
from ablations.files import Checkpoint, Folder
from ablations.lines import FAILED, INFEASIBLE, unfinished
from ablations.table import Trial, UserError
from simsiam.config import Config
from simsiam.methods import METHODS

T = TypeVar("T")
_DAMAGED = pa.ArrowException, OSError, ValueError, LookupError  # what reading a damaged file raises
_LEAST = ("table", "row", "seed", "recipe", "overrides", "data", "fingerprint", "outcome")  # columns of any table
_MADE_BY = ["fingerprint", "method", "sources"]
KINDS = "curves", "pictures", "trials"  # of a finished trial's files: that which says that it is done is the last
_AT_ONCE = 16  # files read at the same time: a bucket answers each after some hundredths of a second


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
        return self._read_one(_trial(fingerprint), fingerprint)

    def failure(self, fingerprint: str) -> Result | None:
        """The result of a trial that failed, or None."""
        return self._read_one(_failed(fingerprint), fingerprint)

    def curve(self, fingerprint: str) -> list[Result] | None:
        """The curve of a trial that is done, or None."""
        return self._read(_curve(fingerprint))

    def curves(self, table: str, fingerprints: Iterable[str]) -> dict[str, list[Result]]:
        """Fingerprint -> curve, in the order asked for, of a table's trials that have one: in a file of its own, or
        packed in the table's."""
        wanted, found = dict.fromkeys(fingerprints), dict[str, list[Result]]()
        for line in self._read(_curve(table), list(PACKED)) or []:
            if (fingerprint := line.pop("fingerprint")) in wanted:
                found.setdefault(fingerprint, []).append(line)
        alone = wanted.keys() & {Path(name).stem for name in self.folder.names("curves")}
        found |= {fingerprint: curve for fingerprint, curve in _each(self.curve, alone).items() if curve}
        return {fingerprint: found[fingerprint] for fingerprint in wanted if fingerprint in found}

    def pictures(self, fingerprint: str) -> list[Result] | None:
        """What a drawing of a trial that is done needs, or None."""
        return self._read(_pictures(fingerprint))

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
        return self._state(fingerprint, self.folder.exists, lambda: self.folder.names("checkpoints"), self._stale)

    def states(self, fingerprints: Iterable[str]) -> dict[str, str]:
        """Fingerprint -> its state, by one look at each folder and at the tables; a trial that is not in a table as its
        file stands now is read."""
        stamps = self.stamps()
        there = {_trial(fingerprint) for fingerprint, (done, _) in stamps.items() if done}
        there |= {_failed(fingerprint) for fingerprint, (_, failed) in stamps.items() if failed}
        half, known, wanted = self.folder.names("checkpoints"), self._sources(stamps), list(fingerprints)
        unseen = [name for name in wanted if _trial(name) in there and name not in known]
        stale = {**known, **_each(self._stale, unseen)}
        return {name: self._state(name, there.__contains__, lambda: half, stale.__getitem__) for name in wanted}

    def _sources(self, stamps: Mapping[str, Any]) -> dict[str, bool]:
        """Fingerprint -> whether its result is stale, of those whose files are the ones that tables were made of."""
        found: dict[str, bool] = {}
        for name in self.table_files():
            content = self.folder.read(name) or b""
            with contextlib.suppress(*_DAMAGED):  # who needs its lines is told
                its = stamps_in(content)
                for line in decoded(content, _MADE_BY):
                    fingerprint = line["fingerprint"]
                    if fingerprint in its and its[fingerprint] == stamps.get(fingerprint):
                        found[fingerprint] = provenance.is_stale(line)
        return found

    def _state(
        self,
        fingerprint: str,
        exists: Callable[[str], bool],
        checkpoints: Callable[[], Collection[str]],
        stale_of: Callable[[str], bool | None],
    ) -> str:
        if exists(_trial(fingerprint)) and (stale := stale_of(fingerprint)) is not None:
            return "stale" if stale else "done"
        if exists(_failed(fingerprint)):
            return "failed"
        its = {f"checkpoints/{name}" for name in checkpoints() if name.startswith(fingerprint)}
        mine = its and {self.checkpoint(fingerprint, method).name for method in METHODS}
        return "half done" if its & mine else "to run"

    def checkpoint(self, fingerprint: str, method: str) -> Checkpoint:
        """The checkpoint of a trial of this method by the sources there are now: others' is not gone on from."""
        return Checkpoint(self.folder, f"checkpoints/{fingerprint}-{provenance.sources(method)}.pt")

    def kept(self, fingerprint: str) -> bytes | None:
        """The last checkpoint of a finished trial, if it was kept: that of its result, not of other sources'.

        Raises DamagedError.
        """
        result = self.trial(fingerprint)
        return Checkpoint(self.folder, _kept(fingerprint, result)).intact() if result else None

    def unkept(self, fingerprints: Iterable[str]) -> set[str]:
        """Of these trials, those that no checkpoint of their result is kept of."""
        wanted, there = set(fingerprints), {f"kept/{name}" for name in self.folder.names("kept")}
        some = wanted & {Path(name).name.partition("-")[0] for name in there}
        results = _each(self.trial, some)
        return wanted - {name for name, result in results.items() if result and _kept(name, result) in there}

    def encoder(self, digest: str | None) -> bytes | None:
        """The file of an encoder that trials start from; None for none, and where it is not there."""
        return None if digest is None else self.folder.read(_encoder(digest))

    def keep_encoder(self, digest: str, content: bytes) -> None:
        if not self.folder.exists(_encoder(digest)):
            self.folder.write(_encoder(digest), content)

    def write(self, result: Result, curve: list[Result], *, keep_checkpoint: bool = False) -> None:
        """Keep a finished trial: its curve, its `pictures` and its checkpoint, then the file that says it is done.

        A result of other sources that was there goes to superseded/.
        """
        fingerprint = result["fingerprint"]
        before = self.trial(fingerprint)
        if before and before["sources"] != result["sources"]:
            self.supersede(before)
        self.folder.write(_curve(fingerprint), encoded(CURVE, curve))
        if pictures := result.get("pictures"):
            self.folder.write(_pictures(fingerprint), encoded(PICTURES, pictures))
        checkpoint = self.checkpoint(fingerprint, result["method"])
        if keep_checkpoint and (content := checkpoint.read()):
            Checkpoint(self.folder, _kept(fingerprint, result)).write(content)
        self.folder.write(_trial(fingerprint), encoded(TRIAL, [result]))
        self.tidy([fingerprint])

    def supersede(self, result: Result, of: str = "") -> None:
        """Put a finished trial's files to superseded/, so that it is to run again. From then on it is not done.

        Args:
            of: the sub-folder that they are in.
        """
        for kind in reversed(KINDS):
            old = f"superseded/{kind}/{result['fingerprint']}-{result['sources']}.parquet"
            self.folder.move(f"{of}{kind}/{result['fingerprint']}.parquet", old)

    def tidy(self, done: Collection[str]) -> None:
        """Remove the old failures and the checkpoints of trials that are done; a kill may have left some, or parts."""
        for folder in ("failed", "checkpoints"):
            for name in self.folder.names(folder, hidden=True):
                if name.removeprefix(".").partition(".")[0].partition("-")[0] in done:
                    self.folder.remove(f"{folder}/{name}")

    def write_failure(self, result: Result) -> None:
        """Keep what became of a trial that failed, if that is possible: on a full disk, this is lost first."""
        with contextlib.suppress(OSError):
            self.folder.write(_failed(result["fingerprint"]), encoded(TRIAL, [result]))

    def fail(self, config: Config, why: str) -> Result:
        """Keep that a trial has failed, and why -> its result."""
        result = unfinished(config, FAILED, why)
        self.write_failure(result)
        return result

    def table(self, name: str, columns: list[str] | None = None) -> list[Result]:
        """The lines of results/<table>.parquet, with `columns` those alone; none if there is none. Raises UserError."""
        return self._lines(f"{name}.parquet", self.folder.read(f"{name}.parquet"), columns)

    def definitions(self, name: str) -> definition.Definitions:
        """What results/<table>.parquet carries of its table; nothing of a table in ablations/tables."""
        return self._of(f"{name}.parquet", self.folder.read(f"{name}.parquet"), definitions_in) or {}

    def fingerprints(self) -> list[str]:
        """Of every finished trial there is."""
        return [name.removesuffix(".parquet") for name in self.folder.names("trials")]

    def failures(self, fingerprints: Iterable[str]) -> list[Result]:
        """Of these trials, the results of those that failed."""
        there = {f"failed/{name}" for name in self.folder.names("failed")}
        failed = [name for name in fingerprints if _failed(name) in there]
        return [result for result in _each(self.failure, failed).values() if result]

    def stamps(self) -> dict[str, list[Any]]:
        """Fingerprint -> what changes when its trial is done or fails once more, of all that have."""
        done, failed = ({Path(n).stem: list(s) for n, s in self.folder.stamps(f).items()} for f in ("trials", "failed"))
        return {fingerprint: [done.get(fingerprint), failed.get(fingerprint)] for fingerprint in done | failed}

    def table_files(self) -> set[str]:
        """Their names."""
        return {name for name in self.folder.names("") if name.endswith(".parquet")}

    def rebuild(self, trials: Sequence[Trial], stamps: Mapping[str, Any] = MappingProxyType({})) -> None:
        """Bring the files of these trials' tables up to date with what is done or failed by now.

        What a table file holds besides (other recipes, other overrides, more seeds) stays.

        Args:
            stamps: as `stamps` gave them before: what is written meanwhile has another one.
        """
        known = {trial.fingerprint: trial for trial in trials}
        results = _each(lambda fingerprint: self.result(known[fingerprint]), known)
        with self.folder.locked():
            for name, members in lines_of.grouped(trials, lambda trial: trial.table.name).items():
                self._rebuild(name, members, results, stamps)

    def _rebuild(
        self, name: str, members: list[Trial], results: dict[str, Result | None], stamps: Mapping[str, Any]
    ) -> None:
        before = self.folder.read(f"{name}.parquet")
        lines = {lines_of.key(line): line for line in self._lines(f"{name}.parquet", before)}
        its = {} if before is None else stamps_in(before)
        carried = definition.among({} if before is None else definitions_in(before), members)
        for trial in members:
            if result := results[trial.fingerprint]:
                line = {**result, **lines_of.membership(trial)}
                earlier = lines.get(lines_of.key(line), {}).get("looks") or 1
                lines[lines_of.key(line)] = line | {"looks": max(earlier, line["looks"])}
                its[trial.fingerprint] = stamps.get(trial.fingerprint)
        place = definition.order(carried, members[0].table)

        def order(line: Result) -> tuple[Any, ...]:
            kind = line["recipe"], line["overrides"]
            return *kind, line["data"], place(*kind, line["row"]), line.get("encoder_from") or "", line["seed"]

        if ordered := sorted(lines.values(), key=order):
            self.folder.write(f"{name}.parquet", encoded(COLUMNS, ordered, its, carried))

    def _lines(self, name: str, content: bytes | None, columns: list[str] | None = None) -> list[Result]:
        """The lines of a table's file of that name with that content."""
        there = self._of(name, content, lambda content: pq.read_schema(pa.BufferReader(content)).names)
        if missing := [column for column in _LEAST if there is not None and column not in there]:
            lacks = ", ".join(missing)
            raise UserError(f"{self.folder}/{name} is no table of results: it lacks {lacks}. Move it away.")
        return self._of(name, content, lambda content: decoded(content, columns)) or []

    def _stale(self, fingerprint: str) -> bool | None:
        """Whether a result is of other sources than these; None if it is not there."""
        lines = self._read(_trial(fingerprint), _MADE_BY)
        return provenance.is_stale(lines[0]) if lines else None

    def _read_one(self, name: str, fingerprint: str) -> Result | None:
        lines = self._read(name)
        if lines and lines[0]["fingerprint"] != fingerprint:
            raise UserError(f"{self.folder}/{name} is of trial {lines[0]['fingerprint']}. Remove it.")
        return lines[0] if lines else None

    def _read(self, name: str, columns: list[str] | None = None) -> list[Result] | None:
        """The lines of a Parquet file, with `columns` those alone; None if it is not there.

        The bytes are read once: pyarrow would open the file twice, and another process may replace it in between.
        """
        return self._of(name, self.folder.read(name), lambda content: decoded(content, columns))

    def _of(self, name: str, content: bytes | None, read: Callable[[bytes], T]) -> T | None:
        """What is read of a file of that name with that content; None if it is not there. Raises UserError."""
        if content is None:
            return None
        try:
            return read(content)
        except _DAMAGED as error:
            raise UserError(f"{self.folder}/{name} is damaged ({error}). {self._remedy(name)}.") from None

    def _remedy(self, name: str) -> str:
        """What makes a damaged file again: of a trial that is done, nothing is made again by itself."""
        folder, _, file = name.rpartition("/")
        if folder not in ("curves", "pictures"):
            return f"Remove it; {'what it held is' if folder else 'its lines are'} made again by the same commands"
        result = f"trials/{file}"
        if self.folder.exists(result):
            return f"Remove it and {result}; the same command trains it again"
        return "Remove it, or fetch it again"


def _trial(fingerprint: str) -> str:
    return f"trials/{fingerprint}.parquet"


def _curve(fingerprint: str) -> str:
    return f"curves/{fingerprint}.parquet"


def _pictures(fingerprint: str) -> str:
    return f"pictures/{fingerprint}.parquet"


def _kept(fingerprint: str, result: Result) -> str:
    return f"kept/{fingerprint}-{result['sources']}.pt"


def _encoder(digest: str) -> str:
    return f"encoders/{digest}.safetensors"


def _failed(fingerprint: str) -> str:
    return f"failed/{fingerprint}.parquet"


def _each(function: Callable[[str], T], names: Iterable[str]) -> dict[str, T]:
    """Name -> function(name), many at a time."""
    names = list(names)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return dict(zip(names, pool.map(function, names), strict=True))
