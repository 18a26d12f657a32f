"""What several test modules start from."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

from ablations import trial as trials
from simsiam.config import Config
from simsiam.loader import Chunk, Ids, Images, InMemory
from simsiam.recipes import RECIPES
from simsiam.views import Crop

# Ray keeps the first mode of a process, whatever Ray it joins after that: all tests have one.
os.environ["RAY_AUTH_MODE"] = "disabled"

# A run writes no page, which takes seconds: that has tests of its own.
os.environ["SIMSIAM_REPORT"] = "0"
os.environ["SIMSIAM_TRACK"] = "none"  # that has, too

# Ray's workers have the tests' own priority. By its default they have a lower one, and starve beside other tests.
os.environ.update(RAY_worker_niceness="0")

# A busy machine is no failure: hypothesis measures no time.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

# Of its own, so that a better recipe for the digits changes no test.
SHAPE: dict[str, Any] = dict(
    image_size=16,
    crop_min_area=0.4,
    base_lr=0.5,
    eval_every=None,
    backbone="resnet10",
    stem="cifar",
    width=8,
    dim=128,
    projector_layers=3,
    projector_hidden=128,
    predictor_hidden=32,
    batch_size=128,
)


def digits(**changes: Any) -> Config:
    """The digits' recipe in a known shape, with some fields changed."""
    return Config(data="digits@x", **{**RECIPES["digits"], **SHAPE, **changes})


def random_images(n: int, *, seed: int, size: int = 16, pixels: int = 8, classes: int = 4) -> InMemory:
    """Noise with labels 0, 1, .. in turn."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randint(0, 256, (n, 3, pixels, pixels), dtype=torch.uint8, generator=generator)
    return InMemory(noise, torch.arange(n) % classes, size)


def batch(images: Images, ids: Ids, crops: Sequence[Crop]) -> torch.Tensor:
    """V crops of each picture -> uint8 (V, b, 3, size, size)."""
    (fetched,) = images.stream([Chunk([ids], crops)])
    return images.crops(fetched)


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Copies of pictures lie in a folder of the tests."""
    before = os.environ.get("SIMSIAM_CACHE")
    os.environ["SIMSIAM_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("SIMSIAM_CACHE") if before is None else os.environ.update(SIMSIAM_CACHE=before)


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    """An S3 server on this machine (moto's) with one bucket, `bucket`, that the environment leads to."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL": "http://{}:{}".format(*server.get_host_and_port()),
        }.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="bucket")
        yield server
    server.stop()


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The fingerprints of the trials that were started in this process."""
    names: list[str] = []
    real = trials.run

    def counted(config: Any, *args: Any, **kwargs: Any) -> Any:
        names.append(trials.configs.fingerprint(config))
        return real(config, *args, **kwargs)

    monkeypatch.setattr(trials, "run", counted)
    return names
