"""A half-done run as bytes."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pytest
import tiny
import torch

from ablations.files import Checkpoint, Folder
from simsiam import checkpoint, distributed


def test_a_state_comes_back_bit_for_bit() -> None:
    state = {"model": {"w": torch.randn(3)}, "progress": {"step": 7, "curve": [{"loss": 0.1 + 0.2}], "init": None}}
    again = checkpoint.unpack(tiny.config(), checkpoint.pack(tiny.config(), state))
    assert again is not None
    assert torch.equal(again["model"]["w"], state["model"]["w"])
    assert again["progress"] == state["progress"]


def test_another_config_is_refused_by_its_fields() -> None:
    content = checkpoint.pack(tiny.config(seed=1), {})
    with pytest.raises(checkpoint.WrongCheckpointError, match=r"differ in seed \(checkpoint 1, here 2\)"):
        checkpoint.unpack(tiny.config(seed=2), content)


def test_code_in_a_checkpoint_is_not_run(capsys: pytest.CaptureFixture[str]) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (print, ("boom",))

    assert checkpoint.unpack(tiny.config(), checkpoint.pack(tiny.config(), {"bomb": Bomb()})) is None
    assert capsys.readouterr().out == ""


def test_a_torn_checkpoint_is_none() -> None:
    whole = checkpoint.pack(tiny.config(), {"step": 3})
    for content in (b"", whole[:100], whole[:-50], b"not a checkpoint"):
        assert checkpoint.unpack(tiny.config(), content) is None


def test_a_bit_that_a_disk_turns_is_noticed(tmp_path: Path) -> None:
    content = checkpoint.pack(tiny.config(), {"model": {"w": torch.randn(3, 3)}})
    place = Checkpoint(Folder.at(tmp_path), "checkpoints/one.pt")
    place.write(content)
    file, chosen = tmp_path / place.name, random.Random(0)
    whole = file.read_bytes()
    assert place.read() == content
    assert torch.load(io.BytesIO(whole), weights_only=True)["state"]["model"]["w"].shape == (3, 3)
    damaged = [b"", whole[:-1], whole[:20], content]
    for bit in [0, 8 * len(whole) - 1, *chosen.sample(range(8 * len(whole)), 300)]:
        turned = bytearray(whole)
        turned[bit // 8] ^= 1 << bit % 8
        damaged.append(bytes(turned))
    for each in damaged:
        file.write_bytes(each)
        with pytest.warns(UserWarning, match=r"checkpoints/one\.pt is damaged: the trial starts again"):
            assert place.read() is None


def test_time_of_all_workers_counts_as_many_as_there_were(monkeypatch: pytest.MonkeyPatch) -> None:
    now, place = [0.0], tiny.Memory()
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(distributed, "agree", lambda decision, device: decision)
    monkeypatch.setattr(distributed, "everyone", lambda item: [item])
    for workers, lost in ((4, 3), (1, 0)):
        monkeypatch.setattr(distributed, "world_size", lambda workers=workers: workers)
        checkpointer = tiny.checkpointer(place=place)
        checkpointer.resume()
        now[0] += 10
        checkpointer.save(dict, at_once=True)
        now[0] += lost  # it dies, and this is done again
    assert checkpointer.seconds == {"wall": 20, "workers": 50}
