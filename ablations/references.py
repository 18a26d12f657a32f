"""Other people's published numbers, for trials of the same data, network, method and length. No claim uses them."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from ablations import planning
from ablations.table import Trial, UserError
from simsiam import config as configs


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A published number.

    Args:
        accuracy: per cent.
        of: what it is: which evaluation, at which epoch, measured how.
        source: who published it, and when that was read.
    """

    accuracy: float
    of: str
    source: str


_LIGHTLY = "kNN, k 200, temperature 0.1, best epoch on the test set, one run", "lightly, benchmarks page of 2026-08-21"
_SOLO_LEARN = "linear, trained beside the network, last epoch, one run", "solo-learn, README of 2026-04-22"

# Layout of the data -> (epochs, batch) -> whose, and method -> accuracy. These layouts are torchvision's own files,
# which it compares with their published checksums when it reads them. All are a ResNet-18 with App. D's stem.
_PUBLISHED: dict[str, dict[tuple[int, int], tuple[tuple[str, str], dict[str, float]]]] = {
    "cifar10": {
        (200, 128): (_LIGHTLY, {"simclr": 84.7, "moco": 83.8, "byol": 86.9, "swav": 81.2, "simsiam": 81.9}),
        (200, 512): (_LIGHTLY, {"simclr": 84.8, "moco": 84.7, "byol": 86.8, "swav": 84.2, "simsiam": 76.4}),
        (800, 512): (_LIGHTLY, {"simclr": 87.9, "moco": 89.9, "byol": 91.0, "swav": 88.4, "simsiam": 90.4}),
        (1000, 256): (_SOLO_LEARN, {"simclr": 90.74, "moco": 92.94, "byol": 92.58, "swav": 89.17, "simsiam": 90.51}),
    },
    "cifar100": {
        (1000, 256): (_SOLO_LEARN, {"simclr": 65.78, "moco": 69.89, "byol": 70.46, "swav": 64.88, "simsiam": 66.04}),
    },
}
_NETWORK = {"backbone": "resnet18", "stem": "cifar", "width": 64, "image_size": 32, "train_images": None}


def find(trial: Trial) -> Reference | None:
    """The number for a trial that is a method as it is by itself, with no part of it changed."""
    config = trial.config
    at = config.epochs, config.batch_size
    (of, source), published = _PUBLISHED.get(config.data.partition("@")[0], {}).get(at, (("", ""), {}))
    if config.method not in published or any(getattr(config, name) != value for name, value in _NETWORK.items()):
        return None
    chosen = {"method": config.method, "epochs": config.epochs, "batch_size": config.batch_size}
    try:
        itself = dataclasses.replace(planning.recipe(trial.recipe, config.data, chosen), seed=config.seed)
    except UserError:
        return None
    # The predictor's lr decays in some of the paper's baselines, and in the sources.
    if configs.difference(dataclasses.asdict(config), dataclasses.asdict(itself)).keys() - {"predictor_lr"}:
        return None
    return Reference(accuracy=published[config.method], of=of, source=source)
