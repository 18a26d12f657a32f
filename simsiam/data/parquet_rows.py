"""The rows of a Parquet file, a few at a time, within bounds: what is small on a disk is not to fill a node."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from simsiam.data.arrow import SCHEMA, File
from simsiam.data.parquet_columns import columns, opened, unreadable
from simsiam.data.parquet_files import name_of
from simsiam.data.pictures import DataError

_ROWS = 256  # of a batch
_BATCH_BYTES = 1 << 29  # that a batch may have at most: a dictionary of one picture may stand for all its rows
_FOLD = 50  # bytes that a byte of a file may become. Encoded pictures hardly shrink when they are compressed


def batches(place: str, file: File, *, label: str | None, most: int) -> Iterator[pa.RecordBatch]:
    """The content of a file, in the schema of its copy.

    Args:
        label: the label column, where it was named.
        most: bytes of one picture.

    Raises DataError for what cannot be read, is null or too large, OSError for a bucket that is out of reach.
    """
    name, most_of_all = name_of(place, file), max(most, _FOLD * file.size)
    with opened(place, file) as parquet:
        image, label = columns(place, file, parquet, label)
        largest = _largest_group(parquet, image)
        if largest > most_of_all:
            raise DataError(f"{name} has pictures of {largest:,} bytes in {file.size:,}. {_remedy(most_of_all)}")
        rows = max(1, min(_ROWS, _BATCH_BYTES // max(1, min(largest, most))))
        row, total = 0, 0
        gathered: list[pa.RecordBatch] = []
        try:
            for batch in parquet.iter_batches(rows, columns=[image, label], use_threads=False):
                pictures = _pictures(batch[image])
                _check(pictures, f"{name}, row", row, most)
                row, total = row + len(pictures), total + pictures.nbytes
                if total > most_of_all:
                    raise DataError(f"{name} unfolds to more than {most_of_all:,} bytes. {_remedy(most_of_all)}")
                gathered.append(pa.record_batch([pictures, _labels(batch[label])], schema=SCHEMA))
                if sum(map(len, gathered)) >= _ROWS or sum(each.nbytes for each in gathered) >= _BATCH_BYTES:
                    yield pa.concat_batches(gathered)
                    gathered = []
        except DataError:
            raise
        except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
            raise unreadable(error, f"{name} cannot be read: {error}") from None
        if gathered:
            yield pa.concat_batches(gathered)


def _largest_group(parquet: pa.parquet.ParquetFile, image: str) -> int:
    """Bytes of the pictures of a row group, uncompressed, as the footer says."""
    groups = [parquet.metadata.row_group(i) for i in range(parquet.metadata.num_row_groups)]
    chunks = [group.column(i) for group in groups for i in range(group.num_columns)]
    return max(
        (chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] == image), default=0
    )


def _pictures(column: pa.Array) -> pa.Array:
    """The encoded pictures, in a column of their own or, as Hugging Face has them, beside their paths."""
    return (pc.struct_field(column, "bytes") if pa.types.is_struct(column.type) else column).cast(pa.binary())


def _labels(column: pa.Array) -> pa.Array:
    if not pa.types.is_integer(column.type):
        raise ValueError(f"the labels must be whole numbers; they are {column.type}")
    return column.cast(pa.int64())


def _check(pictures: pa.Array, where: str, first: int, most: int) -> None:
    """Raises DataError for a picture that is not there, or too large."""
    if pictures.null_count:
        row = first + pc.index(pictures.is_null(), True).as_py()
        raise DataError(f"Corrupt image in {where} {row}: it is null. Replace or remove it.")
    lengths = pc.binary_length(pictures)
    if len(pictures) and pc.max(lengths).as_py() > most:
        row = first + pc.index(pc.greater(lengths, most), True).as_py()
        raise DataError(f"Corrupt image in {where} {row}: it has more than {most:,} bytes. {_remedy(most)}")


def _remedy(most: int) -> str:
    return f"At most {most:,} are read, so that no small file fills a node's memory; --max-pixels allows more."
