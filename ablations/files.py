"""A folder on a disk or in a bucket, as whole files: each is written completely or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from ablations.table import UserError
from simsiam import buckets

_ROOT = Path(__file__).resolve().parent.parent
_DIGEST = hashlib.sha256().digest_size  # bytes


@dataclass(frozen=True)
class Folder:
    """Files by their names under one root.

    Args:
        uri: an absolute path, or s3://bucket/prefix or gs://bucket/prefix. What pyarrow takes as a query may follow, as
            ?endpoint_override=http://host:port for a server of one's own.
    """

    uri: str

    @classmethod
    def at(cls, place: str | os.PathLike[str]) -> Folder:
        """The folder of a path or URI as a person writes it. Raises UserError for none, or one of an unknown kind."""
        text = os.fspath(place)
        if not text:
            raise UserError("The place of results is empty. Name a folder or a bucket.")
        if buckets.is_bucket(text):
            kind, _, path = text.partition("://")
            return cls(f"{kind}://{path.rstrip('/')}")
        if "://" in text:
            raise UserError(
                f"'{buckets.shown(text)}' is of an unknown kind. Known: a path, {', '.join(buckets.BUCKETS)}."
            )
        try:
            return cls(str(Path(text).expanduser().resolve()))
        except (OSError, RuntimeError) as error:
            raise UserError(f"'{text}' is no folder: {error}") from None

    def __str__(self) -> str:
        return buckets.shown(self.uri)

    @property
    def bucket(self) -> bool:
        return buckets.is_bucket(self.uri)

    def open(self) -> tuple[Any, str]:
        """The pyarrow filesystem, and the root in it. Raises UserError for a URI that pyarrow does not understand."""
        try:
            return buckets.opened(self.uri)
        except pa.ArrowInvalid as error:
            raise UserError(f"The URI of {self} cannot be used: {error}.") from None

    def read(self, name: str) -> bytes | None:
        """The content of a file, or None if it is not there."""

        def attempt() -> bytes | None:
            files, root = self.open()
            try:
                with files.open_input_stream(_within(root, name)) as file:
                    return file.read()
            except FileNotFoundError:
                return None

        return buckets.patiently(self.uri, attempt)

    def write(self, name: str, content: bytes) -> None:
        """Write a file. A reader sees what was there before, or all of this."""
        if not self.bucket:
            _write_to_disk(Path(_within(self.uri, name)), content)
            return

        def attempt() -> None:
            files, root = self.open()
            with files.open_output_stream(_within(root, name)) as file:  # a bucket shows an object once it is complete
                file.write(content)

        buckets.patiently(self.uri, attempt)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

        def attempt() -> None:
            files, root = self.open()
            with contextlib.suppress(FileNotFoundError):
                files.delete_file(_within(root, name))

        buckets.patiently(self.uri, attempt)

    def move(self, name: str, to: str) -> None:
        """Move a file within the folder, if it is there."""
        content = self.read(name)
        if content is not None:
            self.write(to, content)
            self.remove(name)

    def exists(self, name: str) -> bool:
        return self.modified(name) is not None

    def modified(self, name: str) -> int | None:
        """When a file was written last, in ns since 1970; None if it is not there."""

        def attempt() -> int | None:
            files, root = self.open()
            info = files.get_file_info(_within(root, name))
            return info.mtime_ns if info.type == fs.FileType.File else None

        return buckets.patiently(self.uri, attempt)

    def names(self, folder: str, hidden: bool = False) -> list[str]:
        """The sorted names of the files in a sub-folder; with `hidden`, also of those that a killed writer left."""

        return sorted(name for name in self._listing(folder) if hidden or not name.startswith("."))

    def stamps(self, folder: str) -> dict[str, tuple[int, int]]:
        """Name -> (ns since 1970, bytes) of the files in a sub-folder: another one once it is written again."""
        return {name: (f.mtime_ns, f.size) for name, f in self._listing(folder).items() if not name.startswith(".")}

    def _listing(self, folder: str) -> dict[str, Any]:
        def attempt() -> dict[str, Any]:
            files, root = self.open()
            found = files.get_file_info(fs.FileSelector(_within(root, folder).rstrip("/"), allow_not_found=True))
            return {f.base_name: f for f in found if f.type == fs.FileType.File}

        return buckets.patiently(self.uri, attempt)

    def remove_folder(self, folder: str) -> None:
        """Remove a sub-folder with all that is in it, as well as that is possible."""
        files, root = self.open()
        with contextlib.suppress(OSError):
            files.delete_dir(_within(root, folder))

    def check_readable(self) -> None:
        """Raises UserError if a bucket does not answer, asked once: a wrong key must not cost minutes; or if a path is
        no folder, though none need be there yet."""
        try:
            if self.bucket:
                files, root = self.open()
                files.get_file_info(f"{root}/trials")  # there or not: a bucket itself may be asked by fewer people
            else:
                with contextlib.suppress(FileNotFoundError), os.scandir(self.uri):
                    pass
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(f"The results in {self} cannot be read: {reason}. Give others with --results.") from None

    def check_writable(self) -> None:
        """Raises UserError if nothing can be written here. A bucket is asked once."""
        name = f".writable-{os.getpid()}"
        try:
            if self.bucket:
                files, root = self.open()
                files.open_output_stream(f"{root}/{name}").close()
                files.delete_file(f"{root}/{name}")
                files.get_file_info(f"{root}/{name}")  # without s3:ListBucket, AWS denies what is not there
            else:
                self.write(name, b"")
                self.remove(name)
        except OSError as error:
            reason = error.strerror or str(error)
            raise UserError(
                f"The results folder {self} cannot be written: {reason}. Give another with --results."
            ) from None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time, on a disk. A bucket has no locks."""
        if self.bucket:
            yield
            return
        Path(self.uri).mkdir(parents=True, exist_ok=True)
        with open(Path(self.uri, ".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _within(root: str, name: str) -> str:
    """Where a file of that name is. Names come from files that others may have made: none leads out of the folder."""
    if name.startswith("/") or ".." in name.split("/"):
        raise UserError(f"'{name}' would lie outside of the results folder. Remove the file that names it.")
    return f"{root}/{name}"


def _write_to_disk(path: Path, content: bytes) -> None:
    """Write under a temporary name, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not the process's number: containers that share a disk have the same ones.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class DamagedError(UserError):
    """A file is not what was written."""


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=3)


@dataclass(frozen=True)
class Checkpoint:
    """The place of one trial's checkpoint. What is read of it is what was written, bit for bit.

    Args:
        tell: what a person is told by of one that a disk has damaged.
    """

    folder: Folder
    name: str
    tell: Callable[[str], None] = _warn

    def modified(self) -> int | None:
        """When it was written last, in ns; None if it is not there."""
        return self.folder.modified(self.name)

    def read(self) -> bytes | None:
        """What was written; None if there is nothing, or if a disk has damaged it."""
        try:
            return self.intact()
        except DamagedError as error:
            self.tell(f"{error}: the trial starts again")
            return None

    def intact(self) -> bytes | None:
        """The same, but that it raises DamagedError."""
        if (found := self.folder.read(self.name)) is None:
            return None
        content, digest = found[:-_DIGEST], found[-_DIGEST:]
        if hashlib.sha256(content).digest() != digest:
            raise DamagedError(f"{self.folder}/{self.name} is damaged")
        return content

    def write(self, content: bytes) -> None:
        # torch.load, which looks at no checksum, reads a file with more behind it as well.
        self.folder.write(self.name, content + hashlib.sha256(content).digest())


def results_place(given: str | None) -> str:
    """Where the results lie: a path, or the URI of a bucket.

    Args:
        given: what --results says, or None: then $SIMSIAM_RESULTS does, where it is not empty.

    Where nothing is said, they lie in results/ of the repository or, with the package installed without one, of the
    folder that one is in. Under `ray job submit --working-dir` the repository is a temporary copy, so they must lie
    elsewhere. Raises UserError if they would not.
    """
    if given == "":
        raise UserError("--results is empty. Name a folder or a bucket, or leave it out.")
    job = os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR")
    # The shell leaves the ~ of --results=~/runs as it is.
    if place := os.path.expanduser(given or os.environ.get("SIMSIAM_RESULTS", "")):
        if job and json.loads(job).get("runtime_env", {}).get("working_dir") and not _lasts(place):
            raise UserError(
                "The results of a job with a --working-dir must be an absolute path or a bucket: Ray deletes the "
                f"folder that it starts in. Got {place} instead."
            )
        return place
    if job:
        return str(Path.home() / "simsiam-results")
    return str((_ROOT if (_ROOT / "pyproject.toml").is_file() else Path.cwd()) / "results")


def _lasts(place: str) -> bool:
    return buckets.is_bucket(place) or Path(place).is_absolute()
