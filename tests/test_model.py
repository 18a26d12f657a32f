"""The networks against torchvision's, the paper's Table 3, and parameter counts worked out by hand."""

from __future__ import annotations

import copy
import functools
import math
from typing import Any

import pytest
import torch
import torchvision
from conftest import digits
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from simsiam.batch_norm import BatchNorm
from simsiam.config import Config
from simsiam.model import SimSiam, backbone
from simsiam.recipes import RECIPES

# Table 3 of the paper. "-" is no BN.
#          projector        predictor
#          hidden, output,  hidden, output
TABLE_3 = {
    "none": "-  -  -  -",
    "hidden": "BN -  BN -",
    "default": "BN BN BN -",
    "all": "BN BN BN BN",
}


def recipe(name: str, **changes: Any) -> Config:
    return Config(data="digits@x", **{**RECIPES[name], **changes})


def plain_backbone(**changes: Any) -> nn.Module:
    config = digits(**changes)
    norm = functools.partial(BatchNorm, batch_size=config.batch_size)
    return backbone(config.backbone, width=config.width, stem=config.stem, norm=norm)


@pytest.mark.parametrize("width", [4, 8, 12])
@pytest.mark.parametrize("size", [8, 16])
def test_gradients_of_narrow_networks_are_those_of_double_precision(width: int, size: int) -> None:
    """oneDNN's backward pass of a narrow 1 x 1 convolution at stride 2 corrupts the heap; float64 does not use it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        narrow = plain_backbone(width=width, batch_size=64).train().to(memory_format=torch.channels_last)
    exact = copy.deepcopy(narrow).double()
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        x = torch.randn(64, 3, size, size, generator=generator).to(memory_format=torch.channels_last)
        for network, views in ((narrow, x), (exact, x.double())):
            network.zero_grad()
            network(views).square().sum().backward()
        for one, other in zip(narrow.parameters(), exact.parameters(), strict=True):
            assert one.grad is not None
            assert other.grad is not None
            # A ReLU that rounding flips moves a gradient by some per mille; the fault by its whole size.
            assert (one.grad.double() - other.grad).norm() <= 0.05 * other.grad.norm()


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_backbone_is_torchvisions(name: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = getattr(torchvision.models, name)(weights=None).eval()
        for module in theirs.modules():
            if isinstance(module, nn.BatchNorm2d):
                for each in (module.weight, module.running_var):
                    nn.init.uniform_(each, 0.5, 1.5)
                for each in (module.bias, module.running_mean):
                    nn.init.normal_(each, 0, 0.2)
        x = torch.randn(2, 3, 64, 64)
    ours = plain_backbone(backbone=name, width=64, stem="imagenet").eval()
    weights = {key: value for key, value in theirs.state_dict().items() if not key.startswith("fc.")}
    ours.load_state_dict(weights, strict=True)
    theirs.fc = nn.Identity()
    with torch.no_grad():
        expected = theirs(x)
        assert expected.std() > 1e-3
        torch.testing.assert_close(ours(x), expected, rtol=1e-5, atol=1e-5)


def test_narrow_backbone_is_torchvisions_with_other_widths() -> None:
    narrow, wide = plain_backbone(width=16, stem="imagenet"), ResNet(BasicBlock, [1, 1, 1, 1])
    expected = {name: value.shape for name, value in wide.state_dict().items() if not name.startswith("fc.")}
    got = {name: value.shape for name, value in narrow.state_dict().items()}
    assert got.keys() == expected.keys()
    for name, shape in expected.items():
        assert got[name] == torch.Size(
            n // 4 if i < (1 if name == "conv1.weight" else 2) else n for i, n in enumerate(shape)
        )


@pytest.mark.parametrize(("width", "size"), [(64, 32), (8, 16)])
def test_cifar_stem_keeps_the_size(width: int, size: int) -> None:
    network = plain_backbone(width=width, stem="cifar", backbone="resnet18")
    assert network.conv1.weight.shape == (width, 3, 3, 3)
    assert network.conv1.bias is None
    seen: list[torch.Size] = []
    network.layer1.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape))
    network.layer4.register_forward_hook(lambda _, __, out: seen.append(out.shape))
    out = network(torch.zeros(2, 3, size, size))
    assert seen == [(2, width, size, size), (2, 8 * width, size // 8, size // 8)]
    assert out.shape == (2, 8 * width)


def backbone_count(blocks: list[int], bottleneck: bool, width: int, stem: str) -> int:
    """Weights of convolutions and two numbers a channel of BN, block by block."""
    kernel = 3 if stem == "cifar" else 7
    total = 3 * width * kernel**2 + 2 * width
    channels = width
    for stage, n in enumerate(blocks):
        inner = width * 2**stage
        out = 4 * inner if bottleneck else inner
        for block in range(n):
            if bottleneck:
                total += channels * inner + 2 * inner + 9 * inner**2 + 2 * inner + inner * out + 2 * out
            else:
                total += 9 * channels * inner + 2 * inner + 9 * inner**2 + 2 * inner
            if block == 0 and (stage > 0 or bottleneck):
                total += channels * out + 2 * out  # the shortcut's 1 x 1 convolution
            channels = out
    return total


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_the_count_by_hand_is_the_published_one() -> None:
    # torchvision's documented sizes less the classifier's.
    assert backbone_count([2, 2, 2, 2], False, 64, "imagenet") == 11_689_512 - (512 * 1000 + 1000)
    assert backbone_count([3, 4, 6, 3], True, 64, "imagenet") == 25_557_032 - (2048 * 1000 + 1000)


BLOCKS = {"resnet10": [1, 1, 1, 1], "resnet18": [2, 2, 2, 2], "resnet50": [3, 4, 6, 3]}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_have_the_parameters_they_should(name: str) -> None:
    config = recipe(name)
    bottleneck = config.backbone == "resnet50"
    model = SimSiam(config)
    expected = backbone_count(BLOCKS[config.backbone], bottleneck, config.width, config.stem)
    assert count(model.backbone) == expected
    # f: fc without bias and BN with two numbers a channel, in each layer.
    features = config.width * 8 * (4 if bottleneck else 1)
    wide, d = config.projector_hidden, config.dim
    assert wide is not None
    assert d is not None
    expected = features * wide + 2 * wide + wide * d + (d if config.batch_norm == "hidden" else 2 * d)  # a bias, or BN
    expected += wide * wide + 2 * wide if config.projector_layers == 3 else 0
    assert count(model.projector) == expected
    # h: the same once, then an fc with bias.
    narrow = config.predictor_hidden
    assert narrow is not None
    assert count(model.predictor) == d * narrow + 2 * narrow + narrow * d + d
    assert count(model) == count(model.backbone) + count(model.projector) + count(model.predictor)


def test_the_papers_network_has_the_papers_size() -> None:
    model = SimSiam(recipe("imagenet"))
    # Sec. 3: fc of 2048 three times in f; 512, a quarter of d, in the bottleneck of h.
    assert count(model.projector) == 3 * 2048**2 + 3 * 2 * 2048
    assert count(model.predictor) == 2 * 2048 * 512 + 2 * 512 + 2048


def layers(head: nn.Module) -> list[list[nn.Module]]:
    """The modules of a head, a list for each fc that starts with it."""
    found: list[list[nn.Module]] = []
    for module in head.children():
        if isinstance(module, nn.Linear):
            found.append([])
        found[-1].append(module)
    return found


@pytest.mark.parametrize("case", TABLE_3)
@pytest.mark.parametrize("projector_layers", [2, 3])
def test_bn_is_where_table_3_has_it(case: str, projector_layers: int) -> None:
    model = SimSiam(digits(batch_norm=case, projector_layers=projector_layers))
    f_hidden, f_output, h_hidden, h_output = (each == "BN" for each in TABLE_3[case].split())
    expected = [
        (model.projector, [f_hidden] * (projector_layers - 1) + [f_output], [64, 128, 128, 128]),
        (model.predictor, [h_hidden, h_output], [128, 32, 128]),
    ]
    for head, norms, widths in expected:
        found = layers(head)
        assert len(found) == len(norms)
        for i, (modules, has_norm) in enumerate(zip(found, norms, strict=True)):
            output = i == len(found) - 1
            kinds = [nn.Linear, *([BatchNorm] if has_norm else []), *([] if output else [nn.ReLU])]
            assert [type(module) for module in modules] == kinds
            assert (modules[0].bias is None) == has_norm
            assert modules[0].in_features == widths[i]
            assert modules[0].out_features == (widths[-1] if output else widths[i + 1])
            if has_norm:
                assert modules[1].affine
                assert modules[1].num_features == modules[0].out_features


def test_no_bn_leaves_the_backbones() -> None:
    model = SimSiam(digits(batch_norm="none"))
    assert sum(isinstance(module, BatchNorm) for module in model.backbone.modules()) == 12


def test_projector_affine_is_of_its_output_alone() -> None:
    model = SimSiam(digits(projector_affine=False))
    norms = [module for module in model.projector.modules() if isinstance(module, BatchNorm)]
    assert [norm.affine for norm in norms] == [True, True, False]
    assert norms[-1].weight is None
    assert [m.affine for m in model.predictor.modules() if isinstance(m, BatchNorm)] == [True]


@pytest.mark.parametrize("name", ["digits", "imagenette", "imagenet"])
def test_initial_weights(name: str) -> None:
    model = SimSiam(recipe(name, predictor_hidden=96, batch_norm="hidden"))
    zero_at_start = set()
    for module in model.modules():
        if isinstance(module, BasicBlock):
            zero_at_start.add(module.bn2)
        elif isinstance(module, Bottleneck):
            zero_at_start.add(module.bn3)
    assert len(zero_at_start) == {"digits": 4, "imagenette": 8, "imagenet": 16}[name]
    for module in model.modules():
        if isinstance(module, BatchNorm):
            assert (module.weight == (0 if module in zero_at_start else 1)).all()
            assert (module.bias == 0).all()
        elif isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.in_features)
            for each in (p for p in (module.weight, module.bias) if p is not None):
                assert each.abs().max() <= bound
                assert each.abs().max() > 0.9 * bound
                # A uniform distribution's standard deviation, within the spread of a sample of it.
                assert abs(each.std() - bound / math.sqrt(3)) < 3 * bound / math.sqrt(each.numel())
        elif isinstance(module, nn.Conv2d):
            std = math.sqrt(2 / (module.out_channels * math.prod(module.kernel_size)))
            n = module.weight.numel()
            assert abs(module.weight.std() - std) < 4 * std / math.sqrt(2 * n)
            assert abs(module.weight.mean()) < 4.5 * std / math.sqrt(n)


def test_no_two_layers_start_alike() -> None:
    # Without BN in the heads every fc has a bias. BN's own weights all start at 0 or 1.
    drawn = [p for p in SimSiam(digits(batch_norm="none")).parameters() if p.unique().numel() > 1]
    starts = [p.flatten()[:8].tolist() for p in drawn]
    assert len(starts) == 15 + 2 + 5
    assert len({tuple(start) for start in starts}) == len(starts)


def start(*parts: str, **changes: Any) -> list[Tensor]:
    """The convolutions' and fc layers' first weights, in order."""
    named = SimSiam(digits(**changes)).named_parameters()
    return [p.detach() for name, p in named if name.startswith(parts) and p.dim() > 1]


@pytest.mark.parametrize(
    "changes",
    [
        {"predictor": "none"},
        {"predictor": "frozen"},
        {"predictor_hidden": 64},
        {"stop_gradient": False},
        {"similarity": "cross_entropy"},
        {"batch_norm": "none"},
        {"batch_norm": "all"},
        {"bn_group": 32},
        {"batch_size": 64},
        {"pairs_per_image": 2},
        {"precision": "float64"},
    ],
    ids=str,
)
def test_switches_leave_the_start_of_f_as_it_is(changes: dict[str, Any]) -> None:
    before, after = (start("backbone", "projector", **each) for each in ({}, changes))
    assert len(before) == 15
    assert all(torch.equal(one, two) for one, two in zip(before, after, strict=True))


def test_the_start_does_not_mind_the_global_generator() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        one = start("backbone", "projector", "predictor")
        torch.manual_seed(2)
        two = start("backbone", "projector", "predictor")
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_another_seed_is_another_start() -> None:
    one, two = start("", seed=0), start("", seed=1)
    assert len(one) == 17
    assert not any(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize(("predictor", "trained"), [("mlp", True), ("frozen", False)])
def test_frozen_predictor_asks_for_no_gradient(predictor: str, trained: bool) -> None:
    model = SimSiam(digits(predictor=predictor))
    assert {p.requires_grad for p in model.predictor.parameters()} == {trained}
    assert {p.requires_grad for p in [*model.backbone.parameters(), *model.projector.parameters()]} == {True}


def test_without_predictor_p_is_z() -> None:
    model = SimSiam(digits(predictor="none", batch_size=4)).eval()
    assert not list(model.predictor.parameters())
    p, z = model(torch.randn(2, 4, 3, 16, 16))
    assert all(torch.equal(one, two) for one, two in zip(p, z, strict=True))


@pytest.mark.parametrize("pairs", [1, 2])
def test_each_view_has_bn_statistics_of_its_own(pairs: int) -> None:
    config = digits(batch_size=4, pairs_per_image=pairs)
    x = torch.randn(config.views, 4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert len(x) == 2 * pairs
    model, alone = SimSiam(config), SimSiam(config)
    p, z = model(x)
    assert len(p) == len(z) == 2 * pairs
    for view in range(2 * pairs):
        features = alone.backbone(x[view])
        assert torch.equal(z[view], alone.projector(features))
        assert torch.equal(p[view], alone.predictor(z[view]))
        assert p[view].shape == (4, 128)
    for norm in (module for module in model.modules() if isinstance(module, BatchNorm)):
        assert norm.num_batches_tracked == 2 * pairs


def test_bn_reaches_over_the_group_that_was_asked_for() -> None:
    for config in (digits(batch_size=8, bn_group=4), digits(batch_size=8)):
        norms = [module for module in SimSiam(config).modules() if isinstance(module, BatchNorm)]
        assert {(norm.batch_size, norm.group) for norm in norms} == {(8, config.bn_group or 8)}
        assert not [m for m in SimSiam(config).modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
