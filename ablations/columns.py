"""The columns of the result files, their types and units, and Parquet of them.

results/README.md tells of each.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import typing
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from simsiam import config as configs

Result = dict[str, Any]

_STAMPS, _DEFINITIONS, _WRITTEN = b"stamps", b"tables", b"written"  # keys in a file's metadata
_DIGESTS = {"fingerprint": re.compile("[0-9a-f]{20}"), "sources": re.compile("[0-9a-f]{16}")}  # files are named by them

# What a Config's field was before it was one: files of an earlier version lack it.
_EARLIER = {name: field.metadata["earlier"] for name, field in configs.FIELDS.items() if "earlier" in field.metadata}

_TEXT, _REAL, _WHOLE, _TIME = pa.string(), pa.float64(), pa.int64(), pa.timestamp("us", tz="UTC")
_TYPES = {bool: pa.bool_(), int: _WHOLE, float: _REAL, str: _TEXT}

# Column -> (type, unit).
Columns = dict[str, tuple[pa.DataType, str]]

KEY: Columns = {
    "table": (_TEXT, "name: in ablations/tables, of a grid, or of a file of one's own"),
    "row": (_TEXT, "name in the table"),
    "recipe": (_TEXT, "name in simsiam/recipes.py"),
    "overrides": (_TEXT, "--set, canonical text; empty for none"),
    "seed": (_WHOLE, ""),
    "baseline": (pa.bool_(), "whether the row is the table's baseline"),
    "encoder_from": (_TEXT, "where the encoder is from that it starts with, or whose network it has"),
    "looks": (_WHOLE, "how often claims are judged while seeds are added, at most, by the commands that asked for it"),
}
METRICS: Columns = {
    "outcome": (_TEXT, "finished, collapsed, diverged, infeasible or failed"),
    "fingerprint": (_TEXT, "identity of the trial"),
    "loss": (_REAL, "mean of the last epoch"),
    "loss_roughness": (_REAL, "mean absolute change from epoch to epoch, second half of training"),
    "z_std": (_REAL, "std of z/||z|| times sqrt(d), test set"),
    "effective_rank": (_REAL, "of z/||z||, test set, 1 to d"),
    "z_singular_values": (pa.list_(_REAL), "of centred z/||z||, over sqrt(N), test set, largest first, 64 at most"),
    "predictor_identity": (_REAL, "1 - mean cosine(h(z), z), test set; none without h"),
    "knn_top1": (_REAL, "per cent of the test set"),
    "knn_train_top1": (_REAL, "per cent of training pictures among the others, 10,000 at most; no test label in it"),
    "classifier_top1": (_REAL, "per cent of the test set, by the classifier that was trained; method=supervised only"),
    "linear_top1": (_REAL, "per cent of the test set"),
    "ap": (_REAL, "per cent, COCO's AP of boxes, test set; method=detection only"),
    "ap50": (_REAL, "per cent, the same at IoU 0.5"),
    "ap75": (_REAL, "per cent, the same at IoU 0.75"),
    "knn_top1_init": (_REAL, "per cent of the test set, untrained network"),
    "knn_top1_pixels": (_REAL, "per cent of the test set, raw pixels; small data only"),
    "paper": (_REAL, "the paper's linear top-1 on ImageNet, per cent"),
    "reference": (_REAL, "another published accuracy for these data, method and length, per cent; none without one"),
    "reference_of": (_TEXT, "which evaluation the reference is of"),
    "reference_source": (_TEXT, "who published the reference"),
    "message": (_TEXT, "why it failed or is infeasible"),
}
EVALUATION: Columns = {
    "train_pictures": (_WHOLE, "images trained on, with a label or without"),
    "test_images": (_WHOLE, "images evaluated on"),
    "knn_k": (_WHOLE, "neighbours"),
    "knn_temperature": (_REAL, ""),
    "probe": (_TEXT, "recipe of the linear probe"),
}
PROVENANCE: Columns = {
    "data_place": (_TEXT, "where the pictures were; the digest in data is their identity"),
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
    "ended": (_TIME, "UTC; none where it could not start"),
}
CURVE: Columns = {
    "epoch": (_WHOLE, "epochs done"),
    "loss": (_REAL, "mean of the epoch"),
    "z_std": METRICS["z_std"],
    "effective_rank": METRICS["effective_rank"],
    "z_singular_values": METRICS["z_singular_values"],
    "predictor_identity": METRICS["predictor_identity"],
    "knn_top1": METRICS["knn_top1"],
    "classifier_top1": METRICS["classifier_top1"],
    "lr": (_REAL, "of the encoder, at the epoch's start"),
    "seconds": (_REAL, "s, of the epoch's steps"),
    "eval_seconds": (_REAL, "s, of the epoch's evaluation"),
    "images_per_second": (_REAL, "source images, evaluation excluded"),
}
PACKED: Columns = {"fingerprint": METRICS["fingerprint"], **CURVE}  # curves of many trials


PICTURES: Columns = {
    "kind": (_TEXT, "view, neighbour or z"),
    "group": (_WHOLE, "which picture: 0 to 11 of view, 0 to 7 of neighbour"),
    "place": (_WHOLE, "0: the picture itself; 1, 2: its views; 1 to 5: its nearest neighbours in the training set"),
    "picture": (_WHOLE, "number in its split: of neighbour, place 0 is a test picture; all others are of training"),
    "label": (_WHOLE, "class; -1 where there is none"),
    "image": (pa.binary(), "WebP, 48 pixels at most"),
    "x": (_REAL, "first principal component of z/||z||, test set"),
    "y": (_REAL, "second"),
}


def _config_columns() -> Columns:
    columns = {}
    for name, hint in configs.TYPES.items():
        kind = next(arg for arg in (typing.get_args(hint) or (hint,)) if arg is not type(None))
        columns[name] = _TYPES[kind], configs.FIELDS[name].metadata.get("unit", "")
    return columns


COLUMNS: Columns = {**KEY, **METRICS, **_config_columns(), **EVALUATION, **PROVENANCE}
TRIAL: Columns = {name: column for name, column in COLUMNS.items() if name not in KEY or name == "seed"}


def schema(columns: Columns) -> pa.Schema:
    """The Parquet schema, each field with its unit."""
    return pa.schema([pa.field(name, kind, metadata={"unit": unit}) for name, (kind, unit) in columns.items()])


def encoded(
    columns: Columns,
    lines: list[Result],
    stamps: Mapping[str, Any] | None = None,
    definitions: Mapping[str, Any] = MappingProxyType({}),
) -> bytes:
    """A Parquet file of these lines; of a table, with the stamps of the trials' files that its lines are of, and with
    its definitions where it carries some (ablations/definition.py)."""
    told = {} if stamps is None else {_STAMPS: json.dumps(stamps).encode()}
    told |= {_DEFINITIONS: json.dumps(definitions).encode()} if definitions else {}
    told |= {_WRITTEN: json.dumps({"columns": [*columns], "digest": _digest(told)}).encode()}
    buffer, table = io.BytesIO(), pa.Table.from_pylist(lines, schema=schema(columns).with_metadata(told))
    pq.write_table(table, buffer, write_page_checksum=True)
    return buffer.getvalue()


def _digest(told: Mapping[bytes, bytes]) -> str:
    return hashlib.sha256(told.get(_STAMPS, b"") + told.get(_DEFINITIONS, b"")).hexdigest()


def _opened(content: bytes) -> tuple[pq.ParquetFile, Mapping[bytes, bytes]]:
    """A Parquet file, and what `encoded` has told in it. Raises ValueError, and what pyarrow does, if it is damaged.

    A page has a checksum, but not what stands behind them all: names of columns, and what is told. Somebody may have
    added a column.
    """
    file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
    told = file.schema_arrow.metadata or {}
    written = json.loads(told.get(_WRITTEN, b"{}"))  # of an earlier version: nothing
    if lost := set(written.get("columns", ())) - set(file.schema_arrow.names):
        raise ValueError(f"it was written with {', '.join(sorted(lost))}, too")
    if written and written["digest"] != _digest(told):
        raise ValueError("its metadata are not those that were written")
    return file, told


def stamps_in(content: bytes) -> dict[str, Any]:
    """Those that `encoded` was given; none of a file that it was not."""
    return _told(content, _STAMPS)


def definitions_in(content: bytes) -> dict[str, Any]:
    """The same of the definitions."""
    return _told(content, _DEFINITIONS)


def _told(content: bytes, name: bytes) -> dict[str, Any]:
    found = json.loads(_opened(content)[1].get(name, b"{}"))
    if not isinstance(found, dict):
        raise ValueError(f"its {name.decode()} are {type(found).__name__}")
    return found


def decoded(content: bytes, columns: list[str] | None = None) -> list[Result]:
    """The lines of a Parquet file; with `columns`, those alone.

    Raises what pyarrow does if it is damaged, and ValueError for a digest that is none.
    """
    file, _ = _opened(content)
    there = file.schema_arrow.names
    # Without threads: Arrow's, still starting when a short command ends, abort the interpreter.
    lines: list[Result] = file.read(columns=columns, use_threads=False).to_pylist()
    if "fingerprint" in there:
        missing = {
            name: value for name, value in _EARLIER.items() if name not in there and name in (columns or _EARLIER)
        }
        lines = [{**line, **missing} for line in lines]
    for name, pattern in _DIGESTS.items():
        for line in lines:
            if name in line and not pattern.fullmatch(line[name] or ""):
                raise ValueError(f"{name} {line[name]!r} is no digest")
    return lines
