"""Row, Claim, Table, Trial: what a table of the paper is, and one training of it.

Imports nothing that is heavy, so that listing costs nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from simsiam import config as configs
from simsiam.config import Config
from simsiam.methods import DETECTION

Fields = Mapping[str, Any]


class UserError(ValueError):
    """What was asked for cannot be done. The message is one line for the user; the exit code is 2."""


SET_ELSEWHERE = {"data": "--data", "seed": "--seeds"}  # fields of a Config that have an option of their own

# What a row's `encoder` may be: the one that the command gives; no encoder, but the given one's network; torchvision's
# for the recipe's network.
GIVEN, NETWORK, TORCHVISION = KINDS = "given", "network", "torchvision"
UNKNOWN = "0" * 16  # the digest of an encoder that is not at hand


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """A trained backbone that a row starts from.

    Args:
        digest: its identity (simsiam/encoder.py).
        network: the Config's fields that it fixes: backbone, stem, width.
        origin: where it is from, for a person.
        missing: why it is not at hand, or None.
    """

    digest: str
    network: Fields
    origin: str
    missing: str | None = None


Encoders = Callable[[str, Fields], Encoder]  # one of KINDS, and a row's fields with the seed -> its encoder


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table: what it changes of the baseline.

    Args:
        name: as typed after `--rows`.
        changes: field -> value; or a function of the baseline's fields that gives them. `encoder` may be one of KINDS.
        paper: the paper's linear top-1 accuracy on ImageNet, per cent; None where the paper gives no number.
        note: what the paper says beside the number.
        of, at: of a grid (ablations/grid.py): the row that it varies, and its value of each axis.
    """

    name: str
    changes: Fields | Callable[[Fields], Fields]
    paper: float | None = None
    note: str = ""
    of: str | None = None
    at: Fields = field(default_factory=dict)


COLLAPSES, DOES_NOT_COLLAPSE, UNSTABLE = "collapses", "does not collapse", "unstable"
WORSE, WITHIN, ORDERING = "worse", "within", "ordering"


@dataclass(frozen=True)
class Claim:
    """What the paper says of some rows of a table, in a form that seeds can decide.

    Args:
        kind: `COLLAPSES` and `DOES_NOT_COLLAPSE` are of one row; `UNSTABLE`, of two, says that the first does not train
            stably beside the second; `WORSE`, of two, that the first is worse by more than the margin; `WITHIN`, of two
            or more, that no two differ by more than the margin; `ORDERING`, of two or more, that each is better than
            the next.
        rows: their names.
        margin: points of our kNN top-1. Ours, because points of the paper's ImageNet accuracy do not transfer.
        section: of the paper.
    """

    kind: str
    rows: tuple[str, ...]
    section: str
    margin: float = 0.0

    def __str__(self) -> str:
        first, *rest = self.rows
        return {
            COLLAPSES: f"{first} collapses",
            DOES_NOT_COLLAPSE: f"{first} does not collapse",
            UNSTABLE: f"{first} does not train stably, unlike {' '.join(rest)}",
            WORSE: f"{first} is worse than {' '.join(rest)} by more than {self.margin:g}",
            WITHIN: f"{', '.join(self.rows)} are within {self.margin:g} of each other",
            ORDERING: " > ".join(self.rows),
        }[self.kind]


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table of the paper.

    Args:
        name: as typed after `--table`, and the name of its file.
        title: what it asks.
        section: of the paper.
        varies: the fields that its rows differ in.
        rows: in the paper's order.
        base: what the table's baseline changes of the recipe; or a function of the recipe's fields that gives it.
        claims: what the paper concludes from it.
        axes: of a grid, the fields that it varies by itself, each with its values.
        tuned: whether each row is also judged at its own best point of the grid (ablations/tuned.py).
        carried: whether its results carry it with them (ablations/definition.py), for no file of ablations/tables does.
    """

    name: str
    title: str
    section: str
    varies: tuple[str, ...]
    rows: tuple[Row, ...]
    base: Fields | Callable[[Fields], Fields] = field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    axes: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    tuned: bool = False
    carried: bool = False

    @property
    def detects(self) -> bool:
        """Whether it is of boxes."""
        return not callable(self.base) and self.base.get("method") == DETECTION

    @property
    def needs_encoder(self) -> bool:
        """Whether a row starts from an encoder that the command gives."""
        return any(not callable(row.changes) and row.changes.get("encoder") in (GIVEN, NETWORK) for row in self.rows)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One row with one seed. `infeasible` says why it can never start, or is None; `baseline`, whether it is that;
    `encoder_from`, where the encoder is from that it starts with, or whose network it has, or None; `looks`, how often
    its command judges the claims while it adds seeds."""

    table: Table
    row: Row
    recipe: str
    overrides: str
    config: Config
    infeasible: str | None
    baseline: bool
    encoder_from: str | None = None
    looks: int = 1

    @functools.cached_property
    def fingerprint(self) -> str:
        return configs.fingerprint(self.config)

    @property
    def name(self) -> str:
        return f"{self.table.name}/{self.row.name} seed {self.config.seed}"
