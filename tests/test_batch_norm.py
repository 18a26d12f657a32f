"""BN against torch's own, group by group, for one worker and for several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from simsiam.batch_norm import BatchNorm
from simsiam.distributed import share

# (batch, group, pixels of a side or 0 for vectors, affine). With 2 and 3 workers: shares that differ in
# length, groups inside a share, across shares, and over all of them.
CASES: list[tuple[int, int | None, int, bool]] = [
    (8, None, 0, True),
    (8, None, 3, True),
    (9, 3, 2, True),
    (8, 2, 0, True),
    (8, 4, 2, False),
    (12, 6, 0, True),
    (5, None, 2, False),
    (6, 2, 3, True),
]
STEPS, CHANNELS = 2, 3
WORLDS = (2, 3)


def inputs(case: int) -> dict[str, Tensor]:
    batch, _, side, _ = CASES[case]
    shape = (STEPS, batch, CHANNELS, *([side, side] if side else []))
    generator = torch.Generator().manual_seed(case)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    # Samples far apart, so that statistics over the wrong samples are far off.
    x = draw(*shape) + torch.arange(batch).view(1, -1, *[1] * (len(shape) - 2))
    return {"x": x, "grad": draw(*shape), "weight": 1 + draw(CHANNELS), "bias": draw(CHANNELS)}


def by_torch(case: int) -> dict[str, Tensor]:
    """Each group on its own through torch's BatchNorm, in one process."""
    batch, group, side, affine = CASES[case]
    group = group or batch
    given = inputs(case)
    kind = nn.BatchNorm2d if side else nn.BatchNorm1d
    out: dict[str, list[Tensor]] = {"y": [], "dx": []}
    weight, bias = given["weight"].requires_grad_(), given["bias"].requires_grad_()
    mean, var = torch.zeros(CHANNELS).double(), torch.ones(CHANNELS).double()
    for x, grad in zip(given["x"], given["grad"], strict=True):
        x.requires_grad_()
        parts, stats = [], []
        for part in x.split(group):
            norm = kind(CHANNELS, affine=False).double()
            norm.load_state_dict({**norm.state_dict(), "running_mean": mean, "running_var": var})
            parts.append(norm(part))
            stats.append(torch.stack([norm.running_mean, norm.running_var]))
        mean, var = torch.stack(stats).mean(0)
        y = torch.cat(parts)
        if affine:
            shape = (1, -1) + (1,) * (y.dim() - 2)
            y = y * weight.view(shape) + bias.view(shape)
        out["dx"].append(torch.autograd.grad(y, x, grad, retain_graph=True)[0])
        if affine:
            y.backward(grad)
        out["y"].append(y.detach())
    result = {name: torch.stack(steps) for name, steps in out.items()} | {"mean": mean, "var": var}
    return result | ({"dweight": weight.grad, "dbias": bias.grad} if affine else {})


def by_ours(case: int) -> dict[str, Tensor]:
    """This worker's share, or all of it in one process."""
    batch, group, _, affine = CASES[case]
    given, part = inputs(case), share(batch)
    norm = BatchNorm(CHANNELS, batch_size=batch, group=group, affine=affine).double()
    if affine:
        norm.load_state_dict({**norm.state_dict(), "weight": given["weight"], "bias": given["bias"]})
    out: dict[str, list[Tensor]] = {"y": [], "dx": []}
    for x, grad in zip(given["x"][:, part], given["grad"][:, part], strict=True):
        x.requires_grad_()
        y = norm(x)
        y.backward(grad)
        out["y"].append(y.detach())
        out["dx"].append(x.grad)
    result = {name: torch.stack(steps) for name, steps in out.items()}
    result |= {"mean": norm.running_mean, "var": norm.running_var, "steps": norm.num_batches_tracked}
    return result | ({"dweight": norm.weight.grad, "dbias": norm.bias.grad} if affine else {})


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.pop("steps") == STEPS
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, atol=1e-10, rtol=1e-10, msg=name)


@pytest.mark.parametrize("case", range(len(CASES)))
def test_one_worker_is_torch_group_by_group(case: int) -> None:
    assert_same(by_ours(case), by_torch(case))


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    for world in WORLDS:
        if rank < world:
            store = f"file://{folder}/store{world}"
            dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world)
            found: dict[str, Any] = {"cases": [by_ours(case) for case in range(len(CASES))]}
            try:
                BatchNorm(3, batch_size=8)(torch.zeros(8, 3))
            except ValueError as error:
                found["whole batch on each"] = str(error)
            torch.save(found, Path(folder) / f"{world}-{rank}.pt")
            dist.destroy_process_group()


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """What each worker of each world found; one spawn does for all."""
    folder = tmp_path_factory.mktemp("workers")
    mp.spawn(work, (str(folder),), nprocs=max(WORLDS))
    return {world: [torch.load(folder / f"{world}-{rank}.pt") for rank in range(world)] for world in WORLDS}


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("case", range(len(CASES)))
def test_several_workers_are_torch_group_by_group(
    workers: dict[int, list[dict[str, Any]]], world: int, case: int
) -> None:
    parts = [dict(found["cases"][case]) for found in workers[world]]
    lengths = [part["y"].shape[1] for part in parts]
    assert sum(lengths) == CASES[case][0]
    assert max(lengths) - min(lengths) <= 1
    for part in parts[1:]:
        for name in ("mean", "var", "steps"):
            assert torch.equal(part[name], parts[0][name])
    together = {name: parts[0][name] for name in ("mean", "var", "steps")}
    together |= {name: torch.cat([part[name] for part in parts], dim=1) for name in ("y", "dx")}
    for name in ("dweight", "dbias"):
        if name in parts[0]:
            together[name] = torch.stack([part[name] for part in parts]).sum(0)
    assert_same(together, by_torch(case))


@pytest.mark.parametrize("world", WORLDS)
def test_a_worker_with_the_wrong_share_is_told(workers: dict[int, list[dict[str, Any]]], world: int) -> None:
    lengths = {2: (4, 4), 3: (2, 3, 3)}[world]
    for found, length in zip(workers[world], lengths, strict=True):
        assert f"share of the batch of 8 is {length} images. Got 8" in found["whole batch on each"]


@pytest.mark.parametrize(("group", "length"), [(4, 7), (2, 4), (4, 9)])
def test_a_batch_of_the_wrong_length_is_told(group: int, length: int) -> None:
    with pytest.raises(ValueError, match=f"share of the batch of 8 is 8 images. Got {length}"):
        BatchNorm(3, batch_size=8, group=group)(torch.zeros(length, 3))


@pytest.mark.parametrize("group", [None, 2])
def test_other_shapes_are_refused(group: int | None) -> None:
    with pytest.raises(ValueError, match=r"BatchNorm takes \(b, C\) or \(b, C, H, W\)"):
        BatchNorm(3, batch_size=4, group=group)(torch.zeros(4, 3, 5))


@pytest.mark.parametrize("side", [0, 5])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_worker_without_groups_is_torch_to_the_bit(side: int, affine: bool, dtype: torch.dtype) -> None:
    theirs = (nn.BatchNorm2d if side else nn.BatchNorm1d)(4, affine=affine)
    ours = BatchNorm(4, batch_size=6, affine=affine)
    if affine:
        nn.init.normal_(theirs.weight, generator=torch.Generator().manual_seed(0))
        nn.init.normal_(theirs.bias, generator=torch.Generator().manual_seed(1))
    ours.load_state_dict(theirs.state_dict())
    shape = (6, 4, side, side) if side else (6, 4)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        x, grad = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
        results = []
        for norm in (ours, theirs):
            leaf = x.clone().requires_grad_()
            y = norm(leaf)
            y.backward(grad)
            results.append([y, leaf.grad, *(p.grad for p in norm.parameters()), *norm.buffers()])
        assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))
        assert results[0][0].dtype == dtype


def both(shape: tuple[int, ...], affine: bool, dtype: torch.dtype, to: torch.memory_format) -> list[list[Tensor]]:
    """What ours comes to in a type and a format, and torch's in float64: y, dx, dweight, dbias, running statistics."""
    generator = torch.Generator().manual_seed(0)
    x, grad = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    found = []
    for norm, kind in (
        (BatchNorm(shape[1], batch_size=shape[0], affine=affine), dtype),
        (nn.BatchNorm2d(shape[1], affine=affine), torch.float64),
    ):
        norm.to(kind)
        if affine:
            nn.init.uniform_(norm.weight, 0.5, 2, generator=torch.Generator().manual_seed(1))
            nn.init.uniform_(norm.bias, generator=torch.Generator().manual_seed(2))
        leaf = (3 * x + 2).to(kind).contiguous(memory_format=to).requires_grad_()
        y = norm(leaf)
        y.backward(grad.to(kind))
        found.append([y.detach(), leaf.grad, *(p.grad for p in norm.parameters()), *norm.buffers()])
    return found


@pytest.mark.parametrize("shape", [(6, 3, 5, 5), (7, 4, 23, 11), (64, 2, 8, 8), (5, 1, 30, 20), (1031, 3, 1, 1)])
@pytest.mark.parametrize("affine", [True, False])
def test_channels_last_is_torchs(shape: tuple[int, ...], affine: bool) -> None:
    ours, theirs = both(shape, affine, torch.float64, torch.channels_last)
    assert ours[0].is_contiguous(memory_format=torch.channels_last)
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two, atol=1e-11, rtol=1e-11)


def test_channels_last_adds_up_as_exactly_as_the_other_format() -> None:
    shape = (64, 8, 32, 32)  # 65,536 numbers a channel: torch's kernels for it are off by ten times as much
    errors = {}
    for to in (torch.channels_last, torch.contiguous_format):
        pairs = zip(*both(shape, True, torch.float32, to), strict=True)
        errors[to] = [float((one - two).abs().max()) for one, two in pairs]
    for one, two in zip(errors[torch.channels_last], errors[torch.contiguous_format], strict=True):
        assert one <= 3 * two + 1e-7, errors


def test_one_number_a_channel_is_refused_in_either_format() -> None:
    for to in (torch.channels_last, torch.contiguous_format):
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            BatchNorm(3, batch_size=1)(torch.zeros(1, 3, 1, 1).contiguous(memory_format=to))


@pytest.mark.parametrize("group", [None, 2])
def test_eval_is_torch_for_any_number_of_samples(group: int | None) -> None:
    ours, theirs = BatchNorm(3, batch_size=4, group=group), nn.BatchNorm2d(3)
    generator = torch.Generator().manual_seed(0)
    ours(torch.randn(4, 3, 2, 2, generator=generator) * 3 + 1)
    theirs.load_state_dict(ours.state_dict())
    before = [buffer.clone() for buffer in ours.buffers()]
    x = torch.randn(7, 3, 2, 2, generator=generator)
    assert torch.equal(ours.eval()(x), theirs.eval()(x))
    assert all(torch.equal(one, two) for one, two in zip(ours.buffers(), before, strict=True))


@pytest.mark.parametrize("shape", [(6, 2), (6, 2, 2, 2)])
@pytest.mark.parametrize("group", [2, 3])
def test_gradient_is_the_slope(shape: tuple[int, ...], group: int) -> None:
    norm = BatchNorm(shape[1], batch_size=6, group=group).double()
    generator = torch.Generator().manual_seed(0)
    nn.init.normal_(norm.weight, generator=generator)
    x = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(norm, {"weight": weight, "bias": bias}, (x,))

    weight, bias = (p.detach().clone().requires_grad_() for p in norm.parameters())
    assert torch.autograd.gradcheck(forward, (x, weight, bias))


@pytest.mark.parametrize("side", [0, 8])
def test_a_large_offset_does_not_drown_the_variance(side: int) -> None:
    shape = (64, 3, side, side) if side else (64, 3)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(shape, generator=generator) + 1e4
    x[32:] -= 2e4
    norm = BatchNorm(3, batch_size=64, group=32)
    y = norm(x)
    wide = x.double().view(2, 32, 3, -1)
    var, mean = torch.var_mean(wide, dim=(1, 3), correction=0, keepdim=True)
    expected = ((wide - mean) / (var + 1e-5).sqrt()).view(shape)
    # Half a spacing of float32 at 1e4 is 5e-4.
    torch.testing.assert_close(y.double(), expected, atol=2e-3, rtol=0)
    unbiased = wide.var(dim=(1, 3)).mean(0)
    torch.testing.assert_close(norm.running_var.double(), 0.9 + 0.1 * unbiased, rtol=1e-3, atol=0)


def test_a_layer_starts_as_torchs() -> None:
    ours, theirs = BatchNorm(5, batch_size=8, group=2), nn.BatchNorm1d(5)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value)
    assert (ours.eps, ours.momentum) == (theirs.eps, theirs.momentum)
    assert not list(BatchNorm(5, batch_size=8, affine=False).parameters())


def test_groups_keep_the_type_of_what_they_are_given() -> None:
    x = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert BatchNorm(3, batch_size=8, group=4)(x).dtype == torch.bfloat16


@pytest.mark.parametrize("side", [0, 8])
def test_groups_in_bfloat16_are_rounded_once(side: int) -> None:
    shape = (256, 6, side, side) if side else (256, 6)
    generator = torch.Generator().manual_seed(0)
    ours = BatchNorm(6, batch_size=256, group=128)
    nn.init.uniform_(ours.weight, 0.5, 2, generator=generator)
    x = (3 * torch.randn(shape, generator=generator)).bfloat16()
    wide = BatchNorm(6, batch_size=256, group=128).double()
    wide.load_state_dict(ours.state_dict())
    rounded = wide(x.double()).bfloat16()
    # torch's own BN is off in one number of ten thousand.
    assert (ours(x) != rounded).float().mean() < 0.01
