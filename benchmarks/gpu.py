"""The time budget of a trial on a GPU, line by line: python -m benchmarks.gpu OUT SECONDS

App. D's ResNet-18 on 32 px, batch 512, two views, on random pictures, unless a line says otherwise. Writes OUT/gpu.json
and prints the figures after each section, and begins no section that the SECONDS are over for.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision

import simsiam
from ablations import provenance
from simsiam import monitor, optim, precision, pretrain, views
from simsiam.config import COMPILED, EAGER, GRAPH, Config, Runtime
from simsiam.loader import InMemory
from simsiam.method import Method
from simsiam.model import SimSiam
from simsiam.protocols import PROTOCOLS
from simsiam.recipes import RECIPES

CUDA = torch.device("cuda")
IMAGES, TESTS = 50_000, 10_000


class _Never:
    """A checkpoint's place that nobody asks for."""

    def resume(self) -> dict[str, Any]:
        return {}


def milliseconds(work: Callable[[], Any], repeats: int = 20, warm_up: int = 3) -> float:
    """Median time of one call on the GPU's own clock."""
    for _ in range(warm_up):
        work()
    times = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def on_host(work: Callable[[], Any]) -> float:
    """Milliseconds on the host's clock, the GPU's work included."""
    torch.cuda.synchronize()
    begun = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return 1e3 * (time.perf_counter() - begun)


def config(recipe: str = "cifar10", **changes: Any) -> Config:
    return Config(data="random@0", **{**RECIPES[recipe], "precision": "bfloat16", **changes})


def pictures(n: int, size: int, of: Config) -> InMemory:
    generator = torch.Generator(CUDA).manual_seed(0)
    pixels = torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, device=CUDA, generator=generator)
    return InMemory(pixels, torch.arange(n, device=CUDA) % 10, of.image_size)


class Run:
    """A run of a Config on random pictures, taken step by step."""

    def __init__(self, of: Config, step: str, train: InMemory, test: InMemory) -> None:
        runtime = Runtime(device="cuda", step=step)
        never: Any = _Never()
        self.run = pretrain._Run(of, runtime, train, test, never)
        self.run.method.train()
        self.of, self.batches = of, self.run.batches()

    def step(self) -> None:
        optim.set_lr(self.run.optimizer, self.of, self.run.progress.step / self.run.steps_per_epoch)
        self.run.train_on(*next(self.batches))
        self.run.progress.step += 1

    def images_per_second(self, steps: int, warm_up: int = 8) -> float:
        """Source images, the drawing on the host and the copies included."""
        for _ in range(warm_up):
            self.step()
        took = on_host(lambda: [self.step() for _ in range(steps)])
        return 1e3 * steps * self.of.batch_size / took


def ceilings() -> dict[str, float]:
    a, b = (torch.randn(8192, 8192, device=CUDA, dtype=torch.bfloat16) for _ in range(2))
    x = torch.randn(1 << 30, device=CUDA)
    y = torch.empty_like(x)
    return {
        "copy TB/s": 2 * 4 * x.numel() / milliseconds(lambda: y.copy_(x)) / 1e9,
        "bf16 product TFLOP/s": 2 * 8192**3 / milliseconds(lambda: a @ b) / 1e9,
    }


def draws() -> dict[str, float]:
    of, ids = config(), np.arange(IMAGES)
    sizes = np.full((IMAGES, 2), 32)
    return {
        "boxes of a view, 50,000 pictures, host ms": on_host(lambda: views.RandomCrop(0, 0, 0, 0.2).boxes(ids, sizes)),
        "draws of a view, 50,000 pictures, host ms": on_host(lambda: views.draw(of, 0, ids, 0)),
        "order of an epoch, host ms": on_host(lambda: pretrain.randomness.permutation(IMAGES, "order", 0, 0)),
    }


def data_path() -> dict[str, float]:
    of = config()
    train = pictures(4096, 32, of)
    run = pretrain._Run(of, Runtime(device="cuda"), train, train, None)  # type: ignore[arg-type]
    drawn, *fetched = next(run.batches())
    crops = train.crops(tuple(fetched))
    return {
        "crops of two views, ms": milliseconds(lambda: train.crops(tuple(fetched))),
        "augmentation of two views, ms": milliseconds(
            lambda: [views.augment(crop, each, of) for crop, each in zip(crops, drawn, strict=True)]
        ),
    }


def forward_backward() -> dict[str, float]:
    found = {}
    for kind in ("bfloat16", "tf32", "float32"):
        for memory in (torch.contiguous_format, torch.channels_last):
            of = config(precision=kind)
            method = Method(of, IMAGES).cuda().to(memory_format=memory)  # type: ignore[call-overload]
            optimizer = optim.optimizer(method.model, of)
            x = torch.randn(2, 512, 3, 32, 32, device=CUDA)
            layout = "NHWC" if memory == torch.channels_last else "NCHW"
            found[f"step {kind} {layout} eager, ms"] = milliseconds(
                lambda method=method, optimizer=optimizer, x=x, of=of: pretrain.train_step(method, optimizer, x, of), 8
            )
    return found


def steps(step: str) -> dict[str, float]:
    of = config()
    run = Run(of, step, pictures(IMAGES, 32, of), pictures(1000, 32, of))
    begun = time.perf_counter()
    run.step()
    for _ in range(7):
        run.step()
    torch.cuda.synchronize()
    first = time.perf_counter() - begun
    return {
        f"first 8 steps bfloat16 {step}, s": first,
        f"whole steps bfloat16 {step}, images/s": run.images_per_second(97, 0),
        f"whole steps bfloat16 {step}, images/s, again": run.images_per_second(97, 0),
    }


def float32() -> dict[str, float]:
    found = {}
    for kind in ("float32", "tf32"):
        of = config(precision=kind)
        run = Run(of, GRAPH, pictures(IMAGES, 32, of), pictures(1000, 32, of))
        found[f"whole steps {kind} graph, images/s"] = run.images_per_second(40)
    return found


def evaluation() -> dict[str, float]:
    found = {}
    for kind in ("bfloat16", "float32"):
        of = config(precision=kind)
        model = SimSiam(of).cuda().to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        train, test = pictures(IMAGES, 32, of), pictures(TESTS, 32, of)
        monitor.embed(model.features, test, 1.0)
        found[f"embed 50,000 {kind}, ms"] = on_host(
            lambda model=model, train=train: monitor.embed(model.features, train, 1.0)
        )
        protocol = PROTOCOLS["cifar"]
        monitor.measure(model, train, test, protocol)
        found[f"whole evaluation {kind}, ms"] = on_host(
            lambda each=(model, train, test, protocol): monitor.measure(*each)
        )
    bank, features = torch.randn(IMAGES, 512, device=CUDA), torch.randn(TESTS, 512, device=CUDA)
    labels = torch.arange(IMAGES, device=CUDA) % 10
    knn = lambda: monitor.knn_top1(bank, labels, features, labels[:TESTS], k=200, temperature=0.1)  # noqa: E731
    knn()
    found["kNN 10,000 x 50,000, ms"] = on_host(knn)
    for d in (512, 2048):
        z = torch.randn(TESTS, d, device=CUDA)
        monitor.spectrum(z)
        found[f"effective rank d {d}, ms"] = on_host(lambda z=z: monitor.spectrum(z))
        gram = (z.T @ z).double()
        found[f"eigvalsh {d} on the GPU, ms"] = on_host(lambda gram=gram: torch.linalg.eigvalsh(gram))
        host = gram.cpu()
        found[f"eigvalsh {d} on the host, ms"] = on_host(lambda host=host: torch.linalg.eigvalsh(host))
    return found


def resnet50(step: str) -> dict[str, float]:
    of = config("imagenet", batch_size=256)
    run = Run(of, step, pictures(4096, 224, of), pictures(256, 224, of))
    return {f"ResNet-50 224 px batch 256 bfloat16 {step}, images/s": run.images_per_second(12)}


def narrow() -> dict[str, float]:
    of = config("cifar10_short")
    found = {}
    for step in (EAGER, GRAPH):
        run = Run(of, step, pictures(IMAGES, 32, of), pictures(TESTS, 32, of))
        found[f"cifar10_short {step}, images/s"] = run.images_per_second(97)
    run.run.model.eval()
    look = lambda: monitor.measure(run.run.model, run.run.train, run.run.test, run.run.protocol)  # noqa: E731
    look()
    found["cifar10_short evaluation, ms"] = on_host(look)
    return found


def profile(out: Path) -> dict[str, float]:
    """Where the time of a recorded step goes, by kernel, into OUT/profile.txt."""
    of = config()
    run = Run(of, GRAPH, pictures(IMAGES, 32, of), pictures(1000, 32, of))
    run.images_per_second(4)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as found:
        for _ in range(5):
            run.step()
        torch.cuda.synchronize()
    (out / "profile.txt").write_text(
        found.key_averages().table(sort_by="cuda_time_total", row_limit=40, max_name_column_width=90)
    )
    return {}


def main() -> int:
    """Returns 1 if a section failed, or its time was over."""
    out, seconds = Path(sys.argv[1]), float(sys.argv[2])
    only = sys.argv[3:]
    begun = time.monotonic()
    precision.strict()
    torch.backends.cudnn.benchmark = True
    figures: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "date": time.strftime("%Y-%m-%d"),
        "version": simsiam.__version__,
        "sources": provenance.sources(),
    }
    _print(figures)
    sections: dict[str, Callable[[], dict[str, float]]] = {
        "ceilings": ceilings,
        "draws": draws,
        "data path": data_path,
        "eager": lambda: steps(EAGER),
        "graph": lambda: steps(GRAPH),
        "forward and backward": forward_backward,
        "float32": float32,
        "evaluation": evaluation,
        "narrow": narrow,
        "profile": lambda: profile(out),
        "resnet50": lambda: resnet50(GRAPH),
        "compiled": lambda: steps(COMPILED),
    }
    code = 0
    for name, section in sections.items():
        if only and name not in only:
            continue
        if time.monotonic() - begun > seconds:
            print(f"{name}: the time is over", flush=True)
            code = 1
            continue
        started = time.monotonic()
        try:
            found: dict[str, Any] = section()
        except Exception as error:  # the other sections are worth as much without it
            found = {f"{name} failed": f"{type(error).__name__}: {error}"[:2000]}
            code = 1
        torch.cuda.empty_cache()
        print(f"{name}: {time.monotonic() - started:.1f} s", flush=True)
        _print(found)
        figures |= found
        (out / "gpu.json").write_text(json.dumps(figures, indent=1))
    return code


def _print(figures: dict[str, Any]) -> None:
    for name, value in figures.items():
        print(f"  {name:58} {value:12.2f}" if isinstance(value, float) else f"  {name:58} {value}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
