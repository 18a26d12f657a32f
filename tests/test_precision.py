"""Which precision a device has, and what torch is told of it. What it computes is in test_cuda.py."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

import pytest
import torch

from ablations.run import main
from simsiam import precision

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def undone() -> Iterator[None]:
    yield
    precision.strict()


def allowed() -> list[str]:
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    return [cuda.matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.rnn.fp32_precision]


def test_float32_is_strict_whatever_was_set_before() -> None:
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        precision.strict()
    assert allowed() == ["ieee"] * 3
    # torch raises here where its two interfaces disagree.
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == (False, False)


def test_tf32_is_of_its_region_alone_also_where_that_raises() -> None:
    precision.strict()
    inside: list[str] = []
    with contextlib.suppress(KeyError), precision.arithmetic("tf32", CPU):
        inside = allowed()
        raise KeyError
    assert inside == ["tf32"] * 3
    assert allowed() == ["ieee"] * 3


@pytest.mark.parametrize(("name", "kind"), [("bfloat16", torch.bfloat16), ("float32", torch.float32)])
def test_only_bfloat16_casts(name: str, kind: torch.dtype) -> None:
    x = torch.ones(2, 2)
    with precision.arithmetic(name, CPU):
        assert (x @ x).dtype == kind


def test_tf32_is_refused_without_a_gpu() -> None:
    with pytest.raises(ValueError, match="precision=tf32 needs an NVIDIA GPU"):
        precision.check("tf32", CPU)


@pytest.mark.parametrize("launcher", ["local", pytest.param("ray", marks=pytest.mark.slow)])
def test_bfloat16_is_refused_where_it_would_be_emulated(
    launcher: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: object
) -> None:
    monkeypatch.setattr(precision, "_cpu_has_bfloat16", lambda: True)
    precision.check("bfloat16", CPU)
    monkeypatch.setattr(precision, "_cpu_has_bfloat16", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "local")
    command = ["--table", "stop_gradient", "--launcher", launcher, "--results", str(tmp_path)]
    assert main([*command, "--set", "precision=bfloat16"]) == 2
    assert "precision=bfloat16 needs a GPU, or a CPU with instructions for it" in capsys.readouterr().err
