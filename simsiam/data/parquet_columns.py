"""What a Parquet file says of its columns, in its footer."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from simsiam.data import arrow
from simsiam.data.arrow import File
from simsiam.data.parquet_files import name_of, open_place
from simsiam.data.pictures import DataError
from simsiam.text import printable

_COLUMNS = {"image": ("image", "img"), "label": ("label", "labels")}


def opened(place: str, file: File) -> pq.ParquetFile:
    """A file, of which only the footer is read. Raises DataError."""
    files, root = open_place(place)
    try:
        return pq.ParquetFile(f"{root}/{file.name}", filesystem=files)
    except (pa.ArrowInvalid, OSError) as error:
        raise unreadable(error, f"{name_of(place, file)} is no readable Parquet file: {error}") from None


def unreadable(error: Exception, message: str) -> Exception:
    """A DataError; but what the network did stays as it is, which is worth another attempt."""
    return error if arrow.of_the_network(error) else DataError(message)


def rows(place: str, file: File, *, label: str | None) -> int:
    """How many pictures there are, from the file's footer alone."""
    with opened(place, file) as parquet:
        columns(place, file, parquet, label)
        return parquet.metadata.num_rows


def unlabelled(place: str, file: File, label: str | None) -> bool:
    """Whether there is no label, or none but nulls and numbers below 0, as far as the file's footer says."""
    with opened(place, file) as parquet:
        label = _column(parquet, "label", label)
        if label is None:
            return True
        kind = parquet.schema_arrow.field(label).type
        if not pa.types.is_integer(kind):
            return pa.types.is_null(kind)
        groups = [parquet.metadata.row_group(i) for i in range(parquet.metadata.num_row_groups)]
        columns = [group.column(i) for group in groups for i in range(group.num_columns)]
        return all(_is_unknown(column) for column in columns if column.path_in_schema == label)


def _is_unknown(column: Any) -> bool:
    """Of a row group's labels. Statistics may be left out of a file; then they are known to be read only."""
    told = column.statistics
    if told is None:
        return False
    return told.null_count == column.num_values if not told.has_min_max else told.max < 0


def names_in(place: str, file: File, label: str | None) -> list[str]:
    """The names of the classes 0, 1, ..., as Hugging Face writes them into a file; none where it has not."""
    with opened(place, file) as parquet:
        label, metadata = _column(parquet, "label", label), parquet.schema_arrow.metadata or {}
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError):
        return []
    return [str(name) for name in names] if isinstance(names, list) else []


def columns(place: str, file: File, parquet: pq.ParquetFile, label: str | None) -> tuple[str, str]:
    """The names of the image and the label column."""
    known = {**_COLUMNS, "label": (printable(label),) if label else _COLUMNS["label"]}
    found = {what: _column(parquet, what, label if what == "label" else None) for what in _COLUMNS}
    for what, column in found.items():
        if column is None:
            remedy = "Name it with --label-column." if what == "label" else "Rename the one that is meant."
            raise DataError(
                f"{name_of(place, file)} has no {what} column. Known names: {', '.join(known[what])}. Its columns: "
                f"{printable(', '.join(parquet.schema_arrow.names))}. {remedy}"
            )
    return str(found["image"]), str(found["label"])


def _column(parquet: pq.ParquetFile, what: str, named: str | None = None) -> str | None:
    """The column of that kind: the one that was named, else the first of the known names."""
    known = (named,) if named else _COLUMNS[what]
    return next((name for name in known if name in parquet.schema_arrow.names), None)
