"""The plan: which trials a table asks for, and which of them are one training.

Imports nothing that is heavy, so that listing costs nothing.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ablations.table import KINDS, NETWORK, SET_ELSEWHERE, Encoder, Encoders, Fields, Row, Table, Trial, UserError
from simsiam import config as configs
from simsiam import recipes
from simsiam.config import Config
from simsiam.methods import DETECTION, METHODS, NONE, SWITCHES

_MOST_AVERAGES = 2 << 30  # bytes of a moving average for each picture (Sec. 5.2)


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

    A point of a grid that breaks a rule is infeasible. Raises UserError for unknown names, for a baseline or a row that
    breaks a rule, for a baseline that the data cannot feed, and for an override of what the table itself varies.
    """
    baseline = _baseline(table, recipe, data, overrides)
    if not table.carried:  # else `resolved` has, while its functions were some
        _check_that_overrides_act(table, recipe, data, overrides)
    if reason := _infeasible(Config(**baseline), train_images):
        if reason.startswith("batch_size"):
            asked = dict(recipe=recipe, data=data, overrides=overrides, rows=rows, encoders=encoders)
            reason += _smaller_batch(table, baseline.get("train_images") or train_images, train_images, asked)
        raise UserError(reason)
    trials, its = [], {seed: Config(**{**baseline, "seed": seed}) for seed in seeds}
    text = configs.canonical(overrides)
    for row in _chosen(table, rows):
        fields = _fields(table, row, baseline, recipe, overrides)
        for config, origin, broken in _of_seeds(table, row, fields, overrides, its, encoders):
            trials.append(
                Trial(
                    table=table,
                    row=row,
                    recipe=recipe,
                    overrides=text,
                    config=config,
                    infeasible=broken or _infeasible(config, train_images),
                    encoder_from=origin,
                    baseline=config == its[config.seed],
                )
            )
    return trials


def _smaller_batch(table: Table, images: int, train_images: int, asked: Mapping[str, Any]) -> str:
    """The remedy for a batch that is too large: half of the images, or "" where that would not do either.

    Args:
        images: that are trained on, of the data's `train_images`.
        asked: the other arguments of `plan`.
    """
    fits = max(2, images // 2)
    smaller = {**asked["overrides"], "batch_size": fits}
    try:
        if _infeasible(baseline(table, asked["recipe"], asked["data"], smaller), train_images):
            return ""  # for which `plan` would look for a remedy again
        plan(table, train_images=train_images, **{**asked, "overrides": smaller})
    except UserError:
        return ""
    return f" Use --set batch_size={fits}."


def _of_seeds(
    table: Table, row: Row, fields: Fields, overrides: Fields, seeds: Iterable[int], encoders: Encoders
) -> Iterator[tuple[Config, str | None, str | None]]:
    """A row's Config with each seed, where its encoder is from, and which rule it breaks or why there is no encoder."""
    if fields.get("encoder") in KINDS:
        for seed in seeds:
            its = {**fields, "seed": seed}
            encoder = encoders(its["encoder"], its)
            config, broken = _of_row(table, row, _started(its, encoder, overrides))
            yield config, encoder.origin, broken or encoder.missing
        return
    config, broken = _of_row(table, row, fields)
    for seed in seeds:
        yield _with_seed(config, seed), None, broken


def _with_seed(config: Config, seed: int) -> Config:
    """The same with a seed that is known to be one: its other rules take most of the time of a plan of thousands."""
    other = copy.copy(config)
    object.__setattr__(other, "seed", seed)
    return other


def _chosen(table: Table, rows: Iterable[str] | None) -> list[Row]:
    known = {row.name: row for row in table.rows}
    chosen = list(known) if rows is None else list(rows)
    for name in chosen:
        if name not in known:
            raise UserError(configs.unknown(f"row of table {table.name}", name, known))
    return [row for row in table.rows if row.name in chosen]


def recipe(name: str, data: str, overrides: Fields) -> Config:
    """The Config of a recipe on some data, with overrides. Raises UserError."""
    if name not in recipes.RECIPES:
        raise UserError(configs.unknown("recipe", name, recipes.RECIPES))
    return _config(_with_method({"data": data, **recipes.RECIPES[name]}, name, overrides), f"Recipe {name}")


def distinct(trials: Iterable[Trial]) -> dict[str, Trial]:
    """Fingerprint -> the first trial that asks for it, of those that can start: what there is to train."""
    found: dict[str, Trial] = {}
    for trial in trials:
        if trial.infeasible is None:
            found.setdefault(trial.fingerprint, trial)
    return found


def baseline(table: Table, recipe: str, data: str, overrides: Fields) -> Config:
    """What a table's rows change. Raises UserError."""
    return _config(_baseline(table, recipe, data, overrides), f"Table {table.name}")


def _baseline(table: Table, recipe: str, data: str, overrides: Fields) -> dict[str, Any]:
    if recipe not in recipes.RECIPES:
        raise UserError(configs.unknown("recipe", recipe, recipes.RECIPES))
    fields = recipes.RECIPES[recipe]
    base = _called(table.base, fields, f"Table {table.name}")
    baseline = _with_method(_with_method({"data": data, **fields}, recipe, base), recipe, overrides)
    _config(baseline, f"Recipe {recipe}" + (" with --set" if overrides else ""))
    return baseline


def _fields(table: Table, row: Row, baseline: Fields, recipe: str, overrides: Fields) -> dict[str, Any]:
    changes = _called(row.changes, baseline, f"Row {row.name} of table {table.name}")
    return _with_method(baseline, recipe, {**(overrides if "method" in changes else {}), **changes})


def resolved(table: Table, recipe: str, data: str, overrides: Fields) -> Table:
    """The table with what its baseline and its rows change of this recipe with these overrides as plain values.

    Raises UserError as `plan` does, but for what the data cannot feed.
    """
    baseline = _baseline(table, recipe, data, overrides)
    _check_that_overrides_act(table, recipe, data, overrides)
    of = f"of table {table.name}"
    called = {row.name: _called(row.changes, baseline, f"Row {row.name} {of}") for row in table.rows}
    rows = [dataclasses.replace(row, changes=called[row.name]) for row in table.rows]
    base = _called(table.base, recipes.RECIPES[recipe], f"Table {table.name}")
    return dataclasses.replace(table, base=base, rows=tuple(rows))


def _called(changes: Fields | Callable[[Fields], Fields], fields: Fields, who: str) -> Fields:
    """Changes as a mapping, be they a function of these fields. Raises UserError if they are none of a Config."""
    try:
        found = changes(dict(fields)) if callable(changes) else changes  # a copy: it may change it
    except (Exception, SystemExit) as error:
        said = " ".join(str(error).split())
        raise UserError(f"{who}: what it changes raises {type(error).__name__}: {said}{_place(error)}.") from error
    if not isinstance(found, Mapping):
        raise UserError(f"{who}: what it changes must be field -> value. Got {found!r} instead.")
    for name in found:
        if name not in configs.FIELDS:
            raise UserError(f"{who}: {configs.unknown('field', str(name), configs.FIELDS)}")
        if name in SET_ELSEWHERE:
            raise UserError(f"{who} changes {name}: use {SET_ELSEWHERE[name]}.")
    return dict(found)


def _place(error: BaseException) -> str:
    """Where a function of a table's file has raised, in words: the first file on the way that is none of these here."""
    here = Path(__file__).parent
    frames = traceback.extract_tb(error.__traceback__)
    found = next((frame for frame in frames if Path(frame.filename).resolve().parent != here.resolve()), None)
    return f", in {found.filename}, line {found.lineno}" if found else ""


def _of_row(table: Table, row: Row, fields: Fields) -> tuple[Config, str | None]:
    """A row's Config. Of a point of a grid that breaks a rule: what was asked for, unchecked, and the rule."""
    try:
        return Config(**fields), None
    except ValueError as error:
        if not row.at:
            raise UserError(f"Row {row.name} of table {table.name}: {error}") from None
        config = object.__new__(Config)
        for each in dataclasses.fields(Config):
            object.__setattr__(config, each.name, fields.get(each.name, each.default))
        return config, str(error)


def _started(fields: Fields, encoder: Encoder, overrides: Fields) -> Fields:
    """The fields of a row with the encoder that it starts from, or whose network it has. Raises UserError."""
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
            rows = [{Config(**_without_encoder(_fields(table, row, *each))) for each in both} for row in table.rows]
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
    if config.method == DETECTION and config.train_images is not None:
        return f"method=detection trains on all pictures: train_images must be none. Got {config.train_images} instead."
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
        return (
            f"the moving averages of {images} images must have at most {_MOST_AVERAGES:,} bytes. They have {size:,}; "
            f"dim={_MOST_AVERAGES // (4 * images)} is the most that fits."
        )
    return None
