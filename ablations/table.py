"""Row, Claim, Table, Trial, and the plan: which trials a table asks for, and which of them are one training.

Imports the standard library and simsiam.config alone, so that listing costs nothing.
"""

from __future__ import annotations

import importlib.util
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from simsiam import config as configs
from simsiam import recipes
from simsiam.config import Config
from simsiam.methods import DETECTION, METHODS, NONE, SWITCHES

Fields = Mapping[str, Any]

_MOST_AVERAGES = 2 << 30  # bytes of a moving average for each picture (Sec. 5.2)


class UserError(ValueError):
    """What was asked for cannot be done. The message is one line for the user; the exit code is 2."""


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
    """

    name: str
    changes: Fields | Callable[[Fields], Fields]
    paper: float | None = None
    note: str = ""


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
    """

    name: str
    title: str
    section: str
    varies: tuple[str, ...]
    rows: tuple[Row, ...]
    base: Fields | Callable[[Fields], Fields] = field(default_factory=dict)
    claims: tuple[Claim, ...] = ()

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
    `encoder_from`, where the encoder is from that it starts with, or whose network it has, or None."""

    table: Table
    row: Row
    recipe: str
    overrides: str
    config: Config
    infeasible: str | None
    baseline: bool
    encoder_from: str | None = None

    @property
    def fingerprint(self) -> str:
        return configs.fingerprint(self.config)

    @property
    def name(self) -> str:
        return f"{self.table.name}/{self.row.name} seed {self.config.seed}"


def names() -> list[str]:
    """The known tables, those of the paper in its order."""
    from ablations import tables

    found = {module.name for module in pkgutil.iter_modules(tables.__path__)}
    return [name for name in tables.ORDER if name in found] + sorted(found - set(tables.ORDER))


def get(name: str) -> Table:
    """The table of that name. Raises UserError."""
    if name not in names():
        raise UserError(configs.unknown("table", name, names()))
    return importlib.import_module(f"ablations.tables.{name}").TABLE


def no_encoders(kind: str, fields: Fields) -> Encoder:
    """Where none is given. Raises UserError."""
    raise UserError("An encoder is needed, and none is given.")


def plan(
    table: Table,
    *,
    recipe: str,
    data: str,
    train_images: int,
    overrides: Fields,
    rows: Iterable[str] | None = None,
    seeds: Iterable[int] = (0,),
    encoders: Encoders = no_encoders,
) -> list[Trial]:
    """Every trial of a table, in the paper's row order, and of each row in the order of the seeds.

    Args:
        recipe: a name in simsiam/recipes.py.
        data: the identity of the data, `layout@digest`.
        train_images: how many training pictures the data hold.
        overrides: fields of `--set`, over the recipe and the table's baseline, under the row.
        rows: their names; None for all.
        encoders: the encoder of a row that starts from one.

    Raises UserError for unknown names, for a baseline that breaks a rule or that the data cannot feed, and for an
    override of what the table itself varies.
    """
    baseline = _baseline(table, recipe, data, overrides)
    _check_that_overrides_act(table, recipe, data, overrides)
    if reason := _infeasible(Config(**baseline), train_images):
        fits = min(baseline["batch_size"], train_images // 2)
        raise UserError(reason + (f" Add --set batch_size={fits}." if reason.startswith("batch_size") and fits else ""))
    trials, seeds = [], list(seeds)
    for row in _chosen(table, rows):
        for seed in seeds:
            fields = {**_fields(row, baseline, recipe, overrides), "seed": seed}
            encoder = encoders(fields["encoder"], fields) if fields.get("encoder") in KINDS else None
            config = _config(_started(fields, encoder, overrides), f"Row {row.name} of table {table.name}")
            trials.append(
                Trial(
                    table=table,
                    row=row,
                    recipe=recipe,
                    overrides=configs.canonical(overrides),
                    config=config,
                    infeasible=(encoder and encoder.missing) or _infeasible(config, train_images),
                    encoder_from=None if encoder is None else encoder.origin,
                    baseline=config == Config(**{**baseline, "seed": seed}),
                )
            )
    return trials


def _chosen(table: Table, rows: Iterable[str] | None) -> list[Row]:
    known = {row.name: row for row in table.rows}
    chosen = list(known) if rows is None else list(rows)
    for name in chosen:
        if name not in known:
            raise UserError(configs.unknown(f"row of table {table.name}", name, known))
    return [row for row in table.rows if row.name in chosen]


def recipe(name: str, data: str, overrides: Fields) -> Config:
    """The Config of a recipe on some data, with overrides. Raises UserError."""
    return _config(_with_method({"data": data, **recipes.RECIPES[name]}, name, overrides), f"Recipe {name}")


def distinct(trials: Iterable[Trial]) -> dict[str, Trial]:
    """Fingerprint -> the first trial that asks for it, of those that can start: what there is to train."""
    found: dict[str, Trial] = {}
    for trial in trials:
        if trial.infeasible is None:
            found.setdefault(trial.fingerprint, trial)
    return found


def _baseline(table: Table, recipe: str, data: str, overrides: Fields) -> dict[str, Any]:
    if recipe not in recipes.RECIPES:
        raise UserError(configs.unknown("recipe", recipe, recipes.RECIPES))
    fields = recipes.RECIPES[recipe]
    base = table.base(fields) if callable(table.base) else table.base
    baseline = _with_method(_with_method({"data": data, **fields}, recipe, base), recipe, overrides)
    _config(baseline, f"Recipe {recipe}" + (" with --set" if overrides else ""))
    return baseline


def _fields(row: Row, baseline: Fields, recipe: str, overrides: Fields) -> dict[str, Any]:
    changes = row.changes(baseline) if callable(row.changes) else row.changes
    return _with_method(baseline, recipe, {**(overrides if "method" in changes else {}), **changes})


def _started(fields: Fields, encoder: Encoder | None, overrides: Fields) -> Fields:
    """The fields of a row with the encoder that it starts from, or whose network it has. Raises UserError."""
    if encoder is None:
        return fields
    for name, value in encoder.network.items():
        if overrides.get(name, value) != value:
            raise UserError(
                f"--set {name}={overrides[name]}: the encoder of {encoder.origin} has {value}. Leave it out."
            )
    digest = None if fields["encoder"] == NETWORK else encoder.digest
    return {**fields, **encoder.network, "encoder": digest}


def _with_method(baseline: Fields, recipe: str, chosen: Fields) -> dict[str, Any]:
    """A baseline with what was chosen over it; where that is a method, over all that the method is by itself."""
    method = METHODS.get(chosen.get("method", ""))  # the Config refuses an unknown one by name
    return {**baseline, **(method.fields(recipe, baseline, chosen) if method else {}), **chosen}


def _check_that_overrides_act(table: Table, recipe: str, data: str, overrides: Fields) -> None:
    """Refuse an override that every row overwrites, or that no row's method has a use for.

    A row may be a function of it, as twice the epochs are.
    """
    for name in set(overrides) & (set(table.varies) | set(SWITCHES)):
        without = {other: value for other, value in overrides.items() if other != name}
        try:
            both = [(_baseline(table, recipe, data, each), recipe, each) for each in (overrides, without)]
            rows = [{Config(**_without_encoder(_fields(row, *each))) for each in both} for row in table.rows]
        except ValueError:
            continue  # a rule breaks with it or without it: it acts
        if any(len(row) > 1 for row in rows):
            continue
        if name in table.varies:
            raise UserError(f"--set {name}: table {table.name} varies this field itself. Leave it out, or use --rows.")
        if all(getattr(config, name) != overrides[name] for row in rows for config in row):
            raise UserError(f"--set {name}: no row of table {table.name} has a method that uses it. Leave it out.")


def _without_encoder(fields: Fields) -> dict[str, Any]:
    return {**fields, "encoder": None} if fields.get("encoder") in KINDS else dict(fields)


def _config(fields: Fields, who: str) -> Config:
    try:
        return Config(**fields)
    except ValueError as error:
        raise UserError(f"{who}: {error}") from None


def _infeasible(config: Config, train_images: int) -> str | None:
    """Why these data cannot feed this Config, or None."""
    if config.train_images is not None and config.train_images >= train_images:
        return (
            f"train_images must be below the {train_images} pictures there are (none = all). "
            f"Got {config.train_images} instead."
        )
    images = config.train_images or train_images
    boxes = config.data.partition("@")[0] == "voc"
    if boxes and config.method != DETECTION:
        return (
            f"These data are boxes, of Pascal VOC's layout, for --table detection. Got method={config.method} instead."
        )
    if not boxes and config.method == DETECTION:
        return f"method=detection needs boxes, --data of Pascal VOC's layout. Got {config.data} instead."
    if config.method == DETECTION and importlib.util.find_spec("pycocotools") is None:
        return 'method=detection needs pycocotools: pip install -e ".[detection]"'
    if config.method == NONE:
        return None
    if config.batch_size > images:
        return f"batch_size must be at most the {images} training images. Got {config.batch_size} instead."
    steps = images // config.batch_size
    if config.eta_steps and config.eta_steps >= steps:
        return f"eta_steps must be below the {steps} steps of an epoch (0 = an epoch). Got {config.eta_steps} instead."
    if config.queue and config.queue > images / 2:
        return f"queue must be at most half of the {images} training images. Got {config.queue} instead."
    if config.eta_momentum is not None and config.dim and (size := 4 * images * config.dim) > _MOST_AVERAGES:
        return f"the moving averages of {images} images must have at most {_MOST_AVERAGES:,} bytes. They have {size:,}."
    return None
