"""Where the encoders come from that rows of a table start from: trials of ours, a file, torchvision."""

from __future__ import annotations

import contextlib
import io
import json
import re
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablations.files import DamagedError
from ablations.lines import grouped
from ablations.store import Store
from ablations.table import GIVEN, NETWORK, UNKNOWN, Encoder, Fields, UserError
from simsiam import config as configs
from simsiam.protocols import PROTOCOLS
from simsiam.text import printable

if TYPE_CHECKING:
    from simsiam.encoder import Transform, Weights
    from simsiam.model import Backbone

_SECONDS = 20.0  # for an answer of torchvision's server
_FINGERPRINT = re.compile("[0-9a-f]{20}")


class Encoders:
    """The encoders of a command, by the rows that ask for them.

    Args:
        given: seed -> the encoder of `--from`; None -> one for every seed.
        asked: `--from` or `--weights` as it was written; None where there is neither.
    """

    def __init__(self, given: Mapping[int | None, Weights], origin: str = "", asked: str | None = None) -> None:
        self._files: dict[str, bytes] = {}
        self._torchvisions: dict[str, Encoder] = {}
        self._given = {seed: self._taken(weights, origin) for seed, weights in given.items()}
        self._asked = asked

    @property
    def seeds(self) -> list[int]:
        """Those that have an encoder; 0 where one is for all of them."""
        return sorted(seed for seed in self._given if seed is not None) or [0]

    def __call__(self, kind: str, fields: Fields) -> Encoder:
        """The encoder for a row with these fields of its Config. Raises UserError where it was not given."""
        if kind not in (GIVEN, NETWORK):
            return self._torchvision(fields)
        if not self._given:
            raise UserError("This table needs an encoder: give --from TABLE/ROW or --weights FILE.")
        found = self._given.get(fields["seed"], self._given.get(None))
        if found is None:
            there = ", ".join(map(str, sorted(seed for seed in self._given if seed is not None)))
            raise UserError(
                f"--from {self._asked} has no checkpoint of seed {fields['seed']}; there are those of {there}. Use "
                "--seeds of those, or train it with --keep-checkpoints."
            )
        return found

    def keep(self, store: Store) -> None:
        """Put the files of the encoders to where the trials read them."""
        for digest, content in self._files.items():
            store.keep_encoder(digest, content)

    def _taken(self, weights: Weights, origin: str) -> Encoder:
        from simsiam import encoder

        digest = encoder.digest(weights)
        network = encoder.network({name: tuple(tensor.shape) for name, tensor in weights.items()})
        self._files[digest] = encoder.packed(weights, {"origin": origin})
        return Encoder(digest=digest, network=network, origin=origin)

    def _torchvision(self, fields: Fields) -> Encoder:
        """torchvision's weights for the row's network, of supervised training on ImageNet."""
        network = {name: fields.get(name, configs.FIELDS[name].default) for name in ("backbone", "stem", "width")}
        name = network["backbone"]
        origin = f"torchvision {name} IMAGENET1K_V1"
        if name not in self._torchvisions:
            try:
                if (network["stem"], network["width"]) != ("imagenet", 64):
                    raise LookupError(f"it has no {name} of width {network['width']} with the stem {network['stem']}")
                self._torchvisions[name] = self._taken(_fetched(name), origin)
            except (OSError, RuntimeError, LookupError) as error:
                missing = f"torchvision's weights cannot be had: {error}."
                self._torchvisions[name] = Encoder(digest=UNKNOWN, network=network, origin=origin, missing=missing)
        return self._torchvisions[name]


def _fetched(name: str) -> Weights:
    """torchvision's weights, from its cache or the network. Raises OSError, RuntimeError, LookupError."""
    import torchvision

    try:
        weights = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"]
    except ValueError:
        raise LookupError(f"it has none of {name}") from None
    with _patience(_SECONDS):
        found: Weights = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    return {key: value for key, value in found.items() if not key.startswith("fc.")}


@contextlib.contextmanager
def _patience(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def of_file(path: Path) -> Encoders:
    """The encoder in a file. Raises UserError."""
    from simsiam import encoder

    try:
        weights = encoder.read(path)
        # Many files are called checkpoint_0099.pth.tar, and a table has a line for each encoder.
        return Encoders({None: weights}, f"{printable(path.name)}@{encoder.digest(weights)}", str(path))
    except encoder.EncoderError as error:
        raise UserError(f"--weights: {error}") from None


def of_trials(asked: str, store: Store) -> Encoders:
    """The encoders of finished trials whose checkpoints were kept: of TABLE/ROW, or of fingerprints.

    Raises UserError.
    """
    names = [name.strip() for name in asked.split(",")]
    if all(_FINGERPRINT.fullmatch(name) for name in names):
        found = {name: weights(name, store) for name in names}
        seeds = {name: _result(name, store)["seed"] for name in names}
        if len(set(seeds.values())) < len(names):
            raise UserError(f"--from {asked}: two of the trials have the same seed. Give one of each.")
        return Encoders({None if len(names) == 1 else seeds[name]: found[name] for name in names}, asked, asked)
    table, slash, row = asked.partition("/")
    if not slash or not table or not row:
        raise UserError(f"--from takes TABLE/ROW, or fingerprints separated by commas. Got '{asked}' instead.")
    lines = [line for line in store.table(table) if line["row"] == row]
    if not lines:
        known = sorted({line["row"] for line in store.table(table)}) or store.table_files()
        raise UserError(f"{store.folder} has no results of {asked}. Known there: {', '.join(sorted(known)) or 'none'}.")
    unkept = store.unkept(line["fingerprint"] for line in lines)
    groups = grouped((line for line in lines if line["fingerprint"] not in unkept), _kind)
    if not groups:
        raise UserError(
            f"No checkpoint of {asked} is kept in {store.folder}. Train it with --keep-checkpoints; what is finished "
            "is trained again with --rerun unkept."
        )
    if len({frozenset(line["fingerprint"] for line in some) for some in groups.values()}) > 1:
        each = [f"{','.join(line['fingerprint'] for line in some)} ({kind})" for kind, some in groups.items()]
        raise UserError(
            f"{asked} has several kinds of results. Give --from the fingerprints of one: {'; '.join(each)}."
        )
    kind, kept = next(iter(groups.items()))
    return Encoders({line["seed"]: weights(line["fingerprint"], store) for line in kept}, f"{asked} ({kind})", asked)


def _kind(line: Mapping[str, Any]) -> str:
    """What a kept line is of. A row may itself start from an encoder: that of another one is another kind."""
    its = line["recipe"], line["data"], line["overrides"], line.get("encoder_from")
    return ", ".join(filter(None, its))


def _result(fingerprint: str, store: Store) -> dict[str, Any]:
    result = store.trial(fingerprint)
    if result is None:
        raise UserError(
            f"{store.folder} has no finished trial {fingerprint}. Give the fingerprint of one: run.py --plan "
            "--fingerprints lists a table's."
        )
    return result


def weights(fingerprint: str, store: Store) -> Weights:
    """The backbone of a finished trial, from its kept checkpoint, or as it was where nothing was trained.

    Raises UserError.
    """
    from simsiam import encoder

    result = _result(fingerprint, store)
    if not result["epochs"] and result["encoder"] and (content := store.encoder(result["encoder"])):
        return encoder.unpacked(content, result["encoder"])
    if result["outcome"] == "diverged":
        raise UserError(f"Trial {fingerprint} has diverged: its weights are no numbers.")
    try:
        if (content := store.kept(fingerprint)) is None:
            raise UserError(
                f"The checkpoint of trial {fingerprint} was not kept. Train it again with --rerun unkept "
                "--keep-checkpoints, in the command that it was trained by."
            )
        return encoder.of_checkpoint(io.BytesIO(content))
    except (encoder.EncoderError, DamagedError) as error:
        raise UserError(
            f"The kept checkpoint of trial {fingerprint} cannot be used: {error}. Remove it, and train the trial again "
            "with --rerun unkept --keep-checkpoints, in the command that it was trained by."
        ) from None


def exported(fingerprint: str, store: Store) -> bytes:
    """A safetensors file of a finished trial's backbone under torchvision's names. Raises UserError.

    Its metadata have the trial's Config and what a picture must become, as JSON.
    """
    from simsiam import encoder, views

    result = _result(fingerprint, store)
    size, crop = _input(result)
    about = {
        "fingerprint": fingerprint,
        "config": json.dumps({name: result[name] for name in configs.FIELDS}),
        "input": json.dumps(
            {"size": size, "central_crop": crop, "mean": views.MEAN, "std": views.STD, "resample": "bilinear"}
        ),
    }
    return encoder.packed(weights(fingerprint, store), about)


def loaded(fingerprint: str, store: Store) -> tuple[Backbone, Transform]:
    """A finished trial's backbone in eval mode, and what makes its input of a picture. Raises UserError."""
    from simsiam import encoder

    size, crop = _input(_result(fingerprint, store))
    return encoder.built(weights(fingerprint, store)).float(), encoder.Transform(size, crop)


def _input(result: Mapping[str, Any]) -> tuple[int, float]:
    """The side of the input in pixels, and that of the central crop over the picture's short side."""
    return result["image_size"], PROTOCOLS[result["protocol"]].crop
