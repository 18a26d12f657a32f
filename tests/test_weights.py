"""Other people's files: an encoder in each layout that they have, and what is none."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn

from ablations import run
from simsiam import encoder

LOCAL = ["--launcher", "local"]


def resnet(name: str, seed: int = 0) -> nn.Module:
    """torchvision's, with BN that does something."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: nn.Module = getattr(torchvision.models, name)(weights=None)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for each in (module.weight, module.running_var, module.bias, module.running_mean):
                    nn.init.uniform_(each, 0.5, 1.5)  # type: ignore[arg-type]
    return model.eval()


def of_facebookresearch(path: Path, model: nn.Module) -> Path:
    """A checkpoint as facebookresearch/simsiam lays it out."""
    state = {f"module.encoder.{name}": value for name, value in model.state_dict().items() if "fc." not in name}
    for i, shape in enumerate([(2048, 2048), (2048,), (2048, 2048)]):
        state[f"module.encoder.fc.{3 * i}.weight"] = torch.randn(shape)
    state |= {"module.predictor.0.weight": torch.randn(512, 2048), "module.predictor.3.bias": torch.randn(2048)}
    optimizer = {"state": {0: {"momentum_buffer": torch.randn(4)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}
    torch.save({"epoch": 100, "arch": "resnet50", "state_dict": state, "optimizer": optimizer}, path)
    return path


def features(model: nn.Module, seed: int = 0) -> torch.Tensor:
    model.fc = nn.Identity()  # type: ignore[assignment]
    with torch.no_grad():
        found: torch.Tensor = model(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed)))
    return found


# Other people's files.


def test_a_checkpoint_of_facebookresearch_gives_the_features_of_torchvisions_resnet(tmp_path: Path) -> None:
    theirs = resnet("resnet50")
    weights = encoder.read(of_facebookresearch(tmp_path / "checkpoint_0099.pth.tar", theirs))
    assert encoder.network({name: tuple(each.shape) for name, each in weights.items()}) == {
        "backbone": "resnet50", "stem": "imagenet", "width": 64
    }  # fmt: skip
    assert torch.equal(features(encoder.built(weights)), features(theirs))


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("how", ["torchvision", "moco", "safetensors", "half", "before torch 1.6"])
def test_other_layouts_are_the_same_encoder(name: str, how: str, tmp_path: Path) -> None:
    model = resnet(name)
    if how == "half":
        model = model.half().float()
    state, path = model.state_dict(), tmp_path / ("x.safetensors" if how == "safetensors" else "x.pth")
    if how == "moco":
        torch.save({"state_dict": {f"module.encoder_q.{key}": value for key, value in state.items()}}, path)
    elif how == "safetensors":
        safetensors.torch.save_file(state, path)
    elif how == "half":
        torch.save({key: value.half() if value.is_floating_point() else value for key, value in state.items()}, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=how == "torchvision")
    wanted = encoder.digest({key: value for key, value in state.items() if not key.startswith("fc.")})
    assert encoder.digest(encoder.read(path)) == wanted
    assert wanted != encoder.digest({key: value + 1 for key, value in encoder.read(path).items()})


class Code:
    """What a pickle of it does when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def spoiled(how: str, folder: Path) -> Path:
    path, state = folder / "weights.pth", resnet("resnet18").state_dict()
    if how == "text":
        path.write_text("no checkpoint")
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "not there":
        pass
    elif how == "a folder":
        path.mkdir()
    elif how == "cut":
        torch.save(state, path)
        path.write_bytes(path.read_bytes()[:-1000])
    elif how == "cut safetensors":
        path = path.with_suffix(".safetensors")
        safetensors.torch.save_file(state, path)
        path.write_bytes(path.read_bytes()[:-1000])
    elif how == "huge header":
        path = path.with_suffix(".safetensors")
        path.write_bytes((1 << 60).to_bytes(8, "little") + b"{}")
    elif how == "code":
        torch.save({"state_dict": state, "more": Code(folder / "executed")}, path)
    elif how == "code of old":
        path.write_bytes(pickle.dumps(Code(folder / "executed")))
    elif how == "a list":
        torch.save([1, 2], path)
    elif how == "lacks":
        del state["layer3.0.bn1.running_var"]
        torch.save(state, path)
    elif how == "more":
        torch.save({**state, "layer5.0.weight": torch.zeros(2)}, path)
    elif how == "shape":
        torch.save({**state, "layer3.0.bn1.running_var": torch.zeros(1, 1 << 20).expand(1 << 20, 1 << 20)}, path)
    elif how == "whole numbers":
        torch.save({**state, "bn1.weight": torch.ones(64, dtype=torch.int64)}, path)
    elif how == "another network":
        torch.save(resnet("resnet34").state_dict(), path)
    elif how == "no backbone":
        torch.save({"classifier.weight": torch.zeros(2, 2)}, path)
    elif how == "compressed":
        torch.save(state, folder / "plain.pth")
        with zipfile.ZipFile(folder / "plain.pth") as plain, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
            for each in plain.infolist():
                packed.writestr(each.filename, plain.read(each))
    return path


@pytest.mark.parametrize(
    ("how", "complaint"),
    [
        ("text", "no checkpoint of torch's"),
        ("empty", "it is empty"),
        ("not there", "cannot be read: No such file"),
        ("a folder", "cannot be read: Is a directory"),
        ("cut", "it is"),
        ("cut safetensors", "no whole safetensors file"),
        ("huge header", "no whole safetensors file"),
        ("code", "whose code is not run"),
        ("code of old", "whose code is not run"),
        ("a list", "no dict of named tensors"),
        ("lacks", "it lacks layer3.0.bn1.running_var"),
        ("more", "it has the unknown layer5.0.weight"),
        ("shape", r"its layer3.0.bn1.running_var must have the shape \(256,\). Got \(1048576, 1048576\)"),
        ("whole numbers", "bn1.weight is of torch.int64, and must be of real numbers"),
        ("another network", r"a ResNet of \[3, 4, 6, 3\] blocks, and known are resnet10, resnet18, resnet50"),
        ("no backbone", "it has no tensor of the name"),
        ("compressed", "compressed archive"),
    ],
)
def test_a_file_that_is_no_encoder_is_one_line_and_executes_nothing(
    how: str, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = spoiled(how, tmp_path)
    with pytest.raises(encoder.EncoderError, match=complaint):
        encoder.read(path)
    command = ["--table", "imported", "--weights", str(path), *LOCAL, "--results", str(tmp_path / "results")]
    assert run.main(command) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: --weights: ")
    assert told.err.count("\n") == 1
    assert not (tmp_path / "executed").exists()
