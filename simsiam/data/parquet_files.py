"""Which Parquet files a folder or a bucket has, and of which split each is."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from simsiam import buckets
from simsiam.data.arrow import File
from simsiam.data.pictures import DataError
from simsiam.data.source import SPLIT_NAMES
from simsiam.text import printable

_NAMES = {name for names in SPLIT_NAMES.values() for name in names}

Splits = dict[str, list[File]]  # a split as it is named there -> its files in order


def splits(place: str) -> Splits:
    """The Parquet files of a folder or a bucket.

    They stand here, in data/, or in one other folder, which Hugging Face calls a config; as train.parquet, as
    train-00000-of-00002.parquet and so on, or as train/0000.parquet. Raises DataError if some of a split's files are
    missing or there twice, and where several folders have a data set.
    """
    files, folders = _listing(place, "")
    here = _by_name([*files, *_listing(place, "data/")[0]])
    if not _NAMES & here.keys():
        below = {folder: _listing(place, f"{folder}/") for folder in folders}
        here |= {name: below[name][0] for name in _NAMES & below.keys() if below[name][0]}
    if not _NAMES & here.keys():
        configs = {folder: found for folder in folders if (found := _config(place, folder, *below[folder]))}
        if len(configs) > 1:
            raise DataError(
                f"{buckets.shown(place)} has several data sets: {printable(', '.join(sorted(configs)))}. Name the "
                f"folder of one, as --data {buckets.shown(place)}/{printable(min(configs))}."
            )
        here = next(iter(configs.values()), here)
    for split in _NAMES & here.keys():
        _check_shards(place, split, here[split])
    return here


def name_of(place: str, file: File) -> str:
    """A file for a person."""
    return f"{buckets.shown(place)}/{printable(file.name)}"


def open_place(place: str) -> tuple[Any, str]:
    """The pyarrow filesystem of a place, and the root in it. Raises DataError."""
    try:
        return buckets.opened(place)
    except pa.ArrowException as error:
        raise DataError(f"{buckets.shown(place)} cannot be opened: {error}") from None


def _config(place: str, folder: str, files: list[File], folders: list[str]) -> Splits:
    """The splits of a folder that is a data set of its own; none if it has not a known one."""
    found = _by_name(files)
    if not _NAMES & found.keys():
        found = {
            name: each for name in sorted(_NAMES & set(folders)) if (each := _listing(place, f"{folder}/{name}/")[0])
        }
    return found if _NAMES & found.keys() else {}


def _by_name(files: Iterable[File]) -> Splits:
    """Split -> its files, by their names."""
    found: Splits = {}
    for file in files:
        if match := re.fullmatch(r"(\w+?)(-\d+-of-\d+.*)?", Path(file.name).stem):
            found.setdefault(match[1], []).append(file)
    return found


def _check_shards(place: str, split: str, files: list[File]) -> None:
    if len({Path(file.name).parent for file in files}) > 1:
        raise DataError(f"{buckets.shown(place)} has split {split} twice, beside data/ and in it. Remove one.")
    stems = [Path(file.name).stem for file in files]
    shards = [re.search(r"-(\d+)-of-(\d+)", stem) or re.fullmatch(r"(\d+)()", stem) for stem in stems]
    numbers = [int(shard[1]) for shard in shards if shard]
    totals = {int(shard[2] or len(files)) for shard in shards if shard}
    alone = len(files) == 1 and shards == [None]
    if alone or (len(numbers) == len(files) and totals == {len(files)} and sorted(numbers) == list(range(len(files)))):
        return
    raise DataError(
        f"{buckets.shown(place)} has {len(set(numbers))} of the {max(totals, default=1)} Parquet files of split "
        f"{split}, in {len(files)} files: {printable(', '.join(stems[:3]))}. Each of 0 to N-1 must be there once, of "
        "one N: remove those of another copy, or fetch what is missing."
    )


def _listing(place: str, folder: str) -> tuple[list[File], list[str]]:
    """The Parquet files of a folder within a place, and the folders in it, in order."""

    def attempt() -> tuple[list[File], list[str]]:
        files, root = open_place(place)
        selector = fs.FileSelector(f"{root}/{folder}".rstrip("/"), allow_not_found=True)
        there = [info for info in files.get_file_info(selector) if not info.base_name.startswith(".")]
        found = [
            File(folder + info.base_name, info.size, info.mtime_ns or 0)
            for info in there
            if info.type == fs.FileType.File and info.base_name.endswith(".parquet")
        ]
        folders = [info.base_name for info in there if info.type == fs.FileType.Directory]
        return sorted(found, key=lambda file: file.name), sorted(folders)

    return buckets.patiently(place, attempt)
