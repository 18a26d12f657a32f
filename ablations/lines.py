"""A result as a line of a table: which row, seed and data it is of; and the result of a trial that has no numbers."""

from __future__ import annotations

import dataclasses
import datetime
import operator
import re
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from ablations import provenance, references
from ablations.columns import COLUMNS, Result
from ablations.table import TORCHVISION, Trial
from simsiam import config as configs
from simsiam.config import Config
from simsiam.text import printable

_Thing = TypeVar("_Thing")
_Key = TypeVar("_Key", bound=Hashable)

FAILED, INFEASIBLE = "failed", "infeasible"  # the outcomes of trials that have no numbers


def unfinished(config: Config, outcome: str, message: str) -> Result:
    """The result of a trial that has no numbers, with the reason."""
    return {
        **dataclasses.asdict(config),
        "fingerprint": configs.fingerprint(config),
        "outcome": outcome,
        "message": printable(message),  # Parquet takes no half of a UTF-16 pair, as names of files may have
        "sources": provenance.sources(config.method),
        "ended": None if outcome == INFEASIBLE else datetime.datetime.now(datetime.UTC),
    }


def spoiled(result: Result) -> str | None:
    """Why a trial failed, if it was for its data: others of them would come to the same. Else None."""
    message = result.get("message") or ""
    return message if re.match(r"([\w.]+\.)?DataError: ", message) else None


def membership(trial: Trial) -> Result:
    """What a line says of the table beside the trial's result."""
    reference = references.find(trial)
    return {
        "table": trial.table.name,
        "row": trial.row.name,
        "recipe": trial.recipe,
        "overrides": trial.overrides,
        "seed": trial.config.seed,
        "paper": trial.row.paper,
        "baseline": trial.baseline,
        "encoder_from": trial.encoder_from,
        "looks": trial.looks,
        "reference": reference and reference.accuracy,
        "reference_of": reference and reference.of,
        "reference_source": reference and reference.source,
    }


def origins(lines: Iterable[Mapping[Any, Any]]) -> list[str]:
    """Where the encoders are from that commands have given for these lines' rows. Lines of several are not comparable.

    A row that starts from torchvision's weights does so in any command.
    """
    found = {line.get("encoder_from") for line in lines}
    return sorted(each for each in found if isinstance(each, str) and not each.startswith(f"{TORCHVISION} "))


def of_encoder(lines: Sequence[Result], origin: str | None) -> list[Result]:
    """These lines without those whose rows start with another encoder than this; with None all."""
    others = set(origins(lines)) - {origin} if origin else set()
    return [line for line in lines if line.get("encoder_from") not in others]


def same_trainings(lines: Iterable[Mapping[str, Any]]) -> list[list[str]]:
    """The rows, by groups of several, that are one training a seed since their settings come to the same."""
    groups = grouped(lines, operator.itemgetter("fingerprint")).values()
    rows = dict.fromkeys(tuple(dict.fromkeys(line["row"] for line in its)) for its in groups)
    distinct = [each for each in rows if len(each) > 1]
    return [list(each) for each in distinct if not any({*each} < {*other} for other in distinct)]


def grouped(things: Iterable[_Thing], by: Callable[[_Thing], _Key]) -> dict[_Key, list[_Thing]]:
    """Lines, or trials, by what they have in common, in their order."""
    groups: dict[_Key, list[_Thing]] = {}
    for each in things:
        groups.setdefault(by(each), []).append(each)
    return groups


def whole(line: Result) -> Result:
    """A line, or a result, with every column: None of those that a file of before lacks."""
    return {**dict.fromkeys(COLUMNS), **line}


def key(line: Result) -> tuple[Any, ...]:
    """What a line of a table is filed under; pictures of another folder, or another encoder, are another line."""
    return (*(line[name] for name in ("recipe", "overrides", "data", "row", "seed")), line.get("encoder_from"))
