"""What decides a result (`Config`) and what must not (`Runtime`).

A trial is its whole Config, seed included. Imports nothing but the standard library, so that tables are listed and
planned without torch.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
import math
import re
import time
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from simsiam.methods import METHODS, SIMSIAM, SWITCHES
from simsiam.protocols import PROTOCOLS

EAGER, GRAPH, COMPILED = STEPS = "eager", "graph", "compiled"

SCHEMA = 1  # Of the fingerprint. Raise it only when the same Config must no longer answer for old results.


def _one_of(*choices: Any, default: Any = dataclasses.MISSING, unit: str = "", **metadata: Any) -> Any:
    metadata |= {"rule": "one of " + ", ".join(map(str, choices)), "choices": choices, "unit": unit}
    return field(default=default, metadata=metadata)


def _number(
    low: float,
    high: float = math.inf,
    *,
    default: Any = dataclasses.MISSING,
    unit: str = "",
    above: bool = False,
    **metadata: Any,
) -> Any:
    bound = f"above {low}" if above else f"at least {low}"
    rule = bound if high == math.inf else f"{bound} and at most {high}"
    metadata |= {"rule": rule, "low": low, "high": high, "above": above, "unit": unit}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that decides the result of one trial. Two equal Configs are one trial.

    Raises ValueError at construction when a field breaks its rule. A field that cannot act beside the others (the
    learning rate of a predictor that is not there) is set to None or to its neutral value, so that one experiment has
    one spelling; `None` in a result therefore reads "not applicable".
    """

    # Data
    data: str = field(metadata={"unit": "layout@digest"})
    seed: int = _number(0, default=0)
    train_images: int | None = _number(2, default=None, unit="images; None = all")
    image_size: int = _number(4, unit="pixels")

    # Two views of an image (App. A)
    crop_min_area: float = _number(0, 1, above=True, default=0.2, unit="fraction of the area")
    flip_p: float = _number(0, 1, default=0.5, unit="probability")
    jitter_p: float = _number(0, 1, default=0.8, unit="probability")
    brightness: float = _number(0, 1, default=0.4, unit="factor in 1 +- this")
    contrast: float = _number(0, 1, default=0.4, unit="factor in 1 +- this")
    saturation: float = _number(0, 1, default=0.4, unit="factor in 1 +- this")
    hue: float = _number(0, 0.5, default=0.1, unit="turns, +- this")
    grayscale_p: float = _number(0, 1, default=0.2, unit="probability")
    blur_p: float = _number(0, 1, default=0.5, unit="probability")

    # f = backbone + projector, h = predictor (Sec. 3)
    backbone: str = _one_of("resnet10", "resnet18", "resnet50")
    stem: str = _one_of("imagenet", "cifar")
    width: int = _number(4, default=64, unit="channels of the first stage")
    dim: int | None = _number(2, unit="d, channels of z and p")
    projector_layers: int | None = _number(2, 3)
    projector_hidden: int | None = _number(2, unit="channels")
    predictor_hidden: int | None = _number(2, unit="channels")

    # Optimisation (Sec. 3, App. A)
    epochs: int = _number(1, unit="epochs")
    batch_size: int = _number(2, unit="images over all workers, B")
    optimizer: str = _one_of("sgd", "lars", default="sgd")
    base_lr: float = _number(0, above=True, unit="per 256 images: lr = base_lr B / 256")
    momentum: float = _number(0, 0.9999, default=0.9)
    weight_decay: float = _number(0)
    warmup_epochs: float = _number(0, default=0.0, unit="epochs, linear; never for the predictor")
    precision: str = _one_of("float32", "tf32", "bfloat16", "float64", default="float32")

    # Evaluation
    protocol: str = _one_of(*PROTOCOLS, unit="name in simsiam/protocols.py")
    eval_every: int | None = _number(1, default=None, earlier=None, unit="epochs between evaluations; None = 1")

    # The switches: what the paper changes one at a time
    stop_gradient: bool = True  # Sec. 4.1
    predictor: str = _one_of("mlp", "none", "frozen", default="mlp")  # Table 1 (a), (b)
    predictor_lr: str | None = _one_of("cosine", "constant", default="constant")  # Table 1 (c)
    batch_norm: str = _one_of("none", "hidden", "default", "all", default="default")  # Table 3
    projector_affine: bool = True  # Sec. 4.4, text: affine of the projector's output BN
    similarity: str = _one_of("cosine", "cross_entropy", default="cosine")  # Sec. 4.5
    symmetric: bool = True  # Sec. 4.6
    pairs_per_image: int = _number(1, 2, default=1)  # Sec. 4.6: 2 is "asym. 2x"
    bn_group: int | None = _number(2, default=None, unit="images a BN statistic is over; None = the global batch")

    # An encoder that was trained before, whose backbone is the start: the digest of its tensors (simsiam/encoder.py)
    encoder: str | None = field(default=None, metadata={"earlier": None, "rule": "of 16 hexadecimal digits"})

    # The methods it is compared with (Table 4, Sec. 6.2), and Sec. 5's experiments: simsiam/methods.py
    method: str = _one_of(*METHODS, default=SIMSIAM, earlier=SIMSIAM)
    temperature: float | None = _number(0, above=True, default=None, earlier=None, unit="of SimCLR, MoCo, SwAV")
    queue: int | None = _number(2, default=None, earlier=None, unit="keys of MoCo")
    shuffle_keys: bool = field(default=True, metadata={"earlier": True})  # MoCo's Shuffling BN
    prototypes: int | None = _number(2, default=None, earlier=None, unit="of SwAV")
    target_momentum: float | None = _number(0, 0.99999, default=None, earlier=None, unit="of MoCo's, BYOL's encoder")
    eta_steps: int | None = _number(
        0, default=None, earlier=None, unit="steps between two updates of eta; 0 = an epoch"
    )
    eta_momentum: float | None = _number(0, 0.9999, default=None, earlier=None, unit="of a picture's eta")
    eta_normalised: bool = field(default=True, metadata={"earlier": True})  # whether z and eta have length 1
    eta_start: str = _one_of("first", "zero", default="first", earlier="first")  # a picture's first z, or zero

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            value = getattr(self, f.name)
            checked = SWITCHES[f.name] if _is_neutral(f.name, value) else _checked(f.name, value)
            object.__setattr__(self, f.name, checked)
        for values in (_plainer, _other_methods):
            for name, value in values(self).items():
                object.__setattr__(self, name, value)
        _check_together(self)
        for name, neutral in _inert(self).items():
            object.__setattr__(self, name, neutral)

    @property
    def lr(self) -> float:
        """The learning rate after linear scaling, base_lr B / 256 (Sec. 3)."""
        return self.base_lr * self.batch_size / 256

    @property
    def views(self) -> int:
        """Views of an image in one step: two a pair."""
        return 2 * self.pairs_per_image


MAX_PIXELS = 50_000_000  # of one picture: what is small on a disk is not to fill a node's memory


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Where and how fast a trial runs. Never part of its identity: changing it must not change a number."""

    data_path: str | None = None
    test_fraction: float | None = None  # of the pictures there, if they have no split
    label_column: str | None = None  # of the Parquet there, if it has several
    max_pixels: int = MAX_PIXELS  # of the largest picture that is read
    workers: int = 1
    threads: int = 1  # of torch, a worker
    device: str = "cpu"
    step: str = EAGER  # how a GPU takes a training step
    loader_processes: int = 0  # decoding processes a worker; 0 decodes in the worker itself
    checkpoint_seconds: float = 30.0  # wall-clock time between two checkpoints
    gpu_fraction: float = 1.0  # of a GPU's memory that one worker may use
    keep_checkpoint: bool = False  # after the trial is finished
    pictures: bool = False  # whether a result keeps some of the pictures
    price: float | None = None  # of an hour of one CPU or GPU
    until: float | None = None  # seconds since 1970 at which a trial must have ended, if need be half done

    @property
    def over(self) -> bool:
        """Whether the time for trials is over."""
        return self.until is not None and time.time() > self.until


_LARGEST = 2**31 - 1  # of a whole number
_ENCODER = re.compile("[0-9a-f]{16}")

FIELDS: dict[str, dataclasses.Field[Any]] = {f.name: f for f in dataclasses.fields(Config)}
TYPES: dict[str, Any] = typing.get_type_hints(Config)


def fingerprint(config: Config) -> str:
    """The identity of a trial: 20 hex digits of SHA-256 over the canonical JSON of every field.

    A field that was added after results existed declares `earlier` in its metadata, the value those results had; at
    that value it is left out, so they keep their name, and at any other value they cannot answer.
    """
    values = {}
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if "earlier" not in f.metadata or value != f.metadata["earlier"]:
            values[f.name] = value
    text = json.dumps({"schema": SCHEMA, **values}, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The fields in which two Configs, each as a dict, differ: name -> (value in one, value in other)."""
    names = sorted(one.keys() | other.keys())
    return {name: (one.get(name), other.get(name)) for name in names if one.get(name) != other.get(name)}


def parse(name: str, text: str) -> Any:
    """The value of field `name` written as `text` on a command line. Raises ValueError."""
    if name not in FIELDS:
        raise ValueError(unknown("field", name, FIELDS))
    kind, optional = _kind(name)
    if optional and text.lower() in ("none", "null"):
        return None
    readers: dict[type, Any] = {bool: _read_bool, int: int, float: float, str: str}
    try:
        return _checked(name, readers[kind](text))
    except (ValueError, KeyError):
        raise ValueError(_complaint(name, text)) from None


def canonical(values: Mapping[str, Any]) -> str:
    """Overrides as one line of text, the same for any order in which they were given: 'epochs=5 width=16'."""
    return " ".join(f"{name}={json.dumps(value).strip(chr(34))}" for name, value in sorted(values.items()))


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """The message for a name that does not exist: what was asked for, the nearest, and all that exist."""
    near = difflib.get_close_matches(name, list(known), n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return f"Unknown {what} '{name}'.{hint} Known: {', '.join(known)}."


def _read_bool(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]


def _kind(name: str) -> tuple[type, bool]:
    """The type of a field, and whether it may be None."""
    hint = TYPES[name]
    if isinstance(hint, types.UnionType):
        return next(arg for arg in hint.__args__ if arg is not type(None)), True
    return hint, False


def _complaint(name: str, value: Any) -> str:
    optional = _kind(name)[1]
    return f"The field '{name}' must be {_wanted(name)}{' or none' if optional else ''}. Got {value!r} instead."


def _wanted(name: str) -> str:
    """What a field's value must be, in words."""
    kind, _ = _kind(name)
    what = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}[kind]
    rule = FIELDS[name].metadata.get("rule", "")
    return rule if rule.startswith("one of") else f"{what} {rule}".strip()


def _checked(name: str, value: Any) -> Any:
    """`value` as the type of the field, or ValueError. An int is a good float; a bool is no number."""
    kind: Any
    kind, optional = _kind(name)
    if value is None and optional:
        return None
    if kind is float and type(value) is int:
        value = float(value)
    rule = FIELDS[name].metadata
    if type(value) is not kind or ("choices" in rule and value not in rule["choices"]):
        raise ValueError(_complaint(name, value))
    if kind is int and abs(value) > _LARGEST:
        raise ValueError(_complaint(name, value)[:200])
    if "low" in rule:
        low_enough = rule["low"] < value if rule["above"] else rule["low"] <= value
        if not (low_enough and value <= rule["high"] and math.isfinite(value)):
            raise ValueError(_complaint(name, value))
    return value + 0.0 if kind is float else value  # -0.0 becomes 0.0


def _check_together(config: Config) -> None:
    """Rules between fields."""
    for name in METHODS[config.method].acting:
        if SWITCHES[name] is None and getattr(config, name) is None:
            raise ValueError(f"method={config.method} needs {name}, {_wanted(name)}. Got None instead.")
        _checked(name, getattr(config, name))
    if config.encoder is not None and not _ENCODER.fullmatch(config.encoder):
        raise ValueError(_complaint("encoder", config.encoder))
    if config.method == "byol" and config.target_momentum == 0:
        raise ValueError("method=byol needs target_momentum above 0. Got 0.0 instead: that is method=simsiam.")
    if config.predictor != "none" and config.predictor_hidden is None:
        raise ValueError(f"predictor={config.predictor} needs predictor_hidden, a whole number. Got None instead.")
    if config.predictor == "mlp" and config.predictor_lr is None:
        raise ValueError("predictor=mlp needs predictor_lr, cosine or constant. Got None instead.")
    if 0 < config.epochs <= config.warmup_epochs:
        raise ValueError(
            f"warmup_epochs must be below epochs={config.epochs}. Got {config.warmup_epochs}: shorten the warm-up."
        )
    group = config.bn_group
    if group is not None and (group >= config.batch_size or config.batch_size % group):
        raise ValueError(
            f"bn_group must be below batch_size={config.batch_size} and divide it (None = the global batch). "
            f"Got {group} instead."
        )


def _plainer(config: Config) -> dict[str, Any]:
    """Where an experiment of Sec. 5.2 is SimSiam, or SimSiam without a predictor, the fields that say so."""
    if config.method == "alternation" and config.eta_steps == 1:
        return {"method": SIMSIAM}
    if config.method == "expectation" and config.eta_momentum == 0 and config.similarity == "cosine":
        return {"method": SIMSIAM, "predictor": "none"}
    return {}


def _other_methods(config: Config) -> dict[str, Any]:
    """Fields of other methods than this Config's, with the value they are given."""
    acts = METHODS[config.method].acting
    return {name: neutral for name, neutral in SWITCHES.items() if name not in acts}


def _is_neutral(name: str, value: Any) -> bool:
    """Whether a value stands where the field does not act. Where it acts, it may break the field's rule."""
    return name in SWITCHES and value == SWITCHES[name] and type(value) is type(SWITCHES[name])


def _inert(config: Config) -> dict[str, Any]:
    """Fields that cannot act beside the others of this Config, with the value they are given."""
    inert: dict[str, Any] = {}
    if not METHODS[config.method].views:
        inert |= {"eval_every": None, "bn_group": None}
    elif config.eval_every is not None:  # the last epoch is evaluated always
        every = min(config.eval_every, config.epochs)
        inert["eval_every"] = every if every > 1 else None
    if config.predictor == "none":
        inert["predictor_hidden"] = None
        if config.batch_norm == "all":  # differs from "default" in the predictor's output alone
            inert["batch_norm"] = "default"
        if not config.stop_gradient and config.similarity == "cosine":  # then D(z1, z2) is D(z2, z1), gradient and all
            inert["symmetric"] = True
    if config.predictor != "mlp":
        inert["predictor_lr"] = None
    if config.batch_norm in ("none", "hidden"):
        inert["projector_affine"] = True
    jitter = ("brightness", "contrast", "saturation", "hue")
    if config.jitter_p == 0 or not any(getattr(config, name) for name in jitter):
        inert |= dict.fromkeys(("jitter_p", *jitter), 0.0)
    return inert
