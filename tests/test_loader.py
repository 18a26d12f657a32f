"""The two ways to a batch, from memory and while reading, against PIL and against each other."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import io
import multiprocessing
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import batch, digits
from pictures import encoded, picture
from PIL import Image

from simsiam import data, loader, views
from simsiam.config import Config, Runtime
from simsiam.data import DataError, Source
from simsiam.loader import Chunk, Images, InMemory, Streamed

SIZE = 16
CROPS = [views.RandomCrop(0, 2, 0, 0.2), views.RandomCrop(0, 2, 1, 0.2), views.CenterCrop(0.8)]


def write(root: Path, sizes: Sequence[tuple[int, int]], *, broken: bool = False) -> Source:
    """A training split with these sizes (and one broken picture behind them), and a test split."""
    for split, each in (("train", sizes), ("test", sizes[:2])):
        images = [encoded(seed, *size) for seed, size in enumerate(each)]
        if broken and split == "train":
            images.append(b"no picture")
        table = pa.table({"image": images, "label": list(range(len(images)))})
        pq.write_table(table, root / f"{split}.parquet")
    return data.locate(root)


def load(source: Source, config: Config, runtime: Runtime) -> tuple[loader.Images, loader.Images]:
    """As a trial does it: decoded pictures where they fit, else the source."""
    return loader.load(loader.decode(source, config.train_images) or source, config, runtime)


def config(source: Source, **changes: int) -> Config:
    return dataclasses.replace(digits(image_size=SIZE, **changes), data=source.name)


def streamed(source: Source, processes: int = 0, split: str = "train") -> Streamed:
    reader = loader._Reader(source, None, SIZE)
    return Streamed(loader.Pool(reader, device=torch.device("cpu"), processes=processes), split)


BATCHES = [np.array(ids) for ids in ([3, 1, 4], [0], [5, 2, 3, 3])]


def crops_of(images: Images) -> list[torch.Tensor]:
    """Of BATCHES, the first two in one chunk."""
    fetched = images.stream([Chunk(BATCHES[:2], CROPS), Chunk(BATCHES[2:], CROPS)])
    return [images.crops(each) for each in fetched]


def test_pictures_of_one_size_are_held_in_memory(tmp_path: Path) -> None:
    source = write(tmp_path, [(20, 30)] * 6)
    train, test = load(source, config(source), Runtime())
    assert isinstance(train, InMemory)
    assert isinstance(test, InMemory)
    assert (len(train), len(test)) == (6, 2)
    assert train.labels.tolist() == list(range(6))
    for i in range(6):
        assert np.array_equal(train.pixels[i].permute(1, 2, 0).numpy(), picture(i, 20, 30))


def test_pictures_of_many_sizes_are_streamed(tmp_path: Path) -> None:
    source = write(tmp_path, [(20, 30)] * 5 + [(30, 20)])
    train, test = load(source, config(source), Runtime())
    assert isinstance(train, Streamed)
    assert isinstance(test, Streamed)  # though its own are of one size
    assert len(train) == 6
    assert train.labels.tolist() == list(range(6))


@pytest.mark.parametrize(("room", "kind"), [(6 * 20 * 30 * 3, InMemory), (6 * 20 * 30 * 3 - 1, Streamed)])
def test_pictures_beyond_the_memory_are_streamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: int, kind: type
) -> None:
    monkeypatch.setattr(loader, "MEMORY", room)
    source = write(tmp_path, [(20, 30)] * 6)
    assert isinstance(load(source, config(source), Runtime())[0], kind)


def test_both_give_the_same_crops(tmp_path: Path) -> None:
    source = write(tmp_path, [(40, 30)] * 6)
    held, _ = load(source, config(source), Runtime())
    assert isinstance(held, InMemory)
    for ids, one, two in zip(BATCHES, crops_of(held), crops_of(streamed(source)), strict=True):
        assert one.dtype == two.dtype == torch.uint8
        assert one.shape == two.shape == (3, len(ids), 3, SIZE, SIZE)
        # PIL rounds to bytes between its two passes.
        assert (one.int() - two.int()).abs().max() <= 2
        for images, crops in ((held, one), (streamed(source), two)):
            assert torch.equal(batch(images, ids, CROPS), crops)


def test_streamed_crops_are_pils(tmp_path: Path) -> None:
    sizes = [(20, 30), (64, 33), (16, 16), (100, 20), (9, 9), (50, 50)]
    source = write(tmp_path, sizes)
    for ids, crops in zip(BATCHES, crops_of(streamed(source)), strict=True):
        for b, i in enumerate(ids):
            image = Image.fromarray(picture(int(i), *sizes[i]))
            for v, crop in enumerate(CROPS):
                top, left, height, width = crop.boxes(np.array([i]), np.array([sizes[i]]))[0].tolist()
                box = (left, top, left + width, top + height)
                # The crop first: a box given to `resize` would look beyond its edge.
                expected = image.crop(box).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
                assert np.array_equal(crops[v, b].permute(1, 2, 0).numpy(), np.asarray(expected))


def test_loader_processes_give_the_same_bits(tmp_path: Path) -> None:
    source = write(tmp_path, [(20, 30), (64, 33), (16, 16), (100, 20), (9, 9), (50, 50)])
    here, there = (crops_of(streamed(source, processes)) for processes in (0, 2))
    assert len(there) == 3
    assert all(torch.equal(one, two) for one, two in zip(here, there, strict=True))


def test_an_evaluation_beside_the_training_keeps_its_loader_processes(tmp_path: Path) -> None:
    source = write(tmp_path, [(20, 30), (64, 33), (16, 16), (100, 20), (9, 9), (50, 50)])
    train, test = load(source, config(source), Runtime(loader_processes=1))
    assert isinstance(train, Streamed)
    assert isinstance(test, Streamed)
    training = train.stream([Chunk(BATCHES, CROPS)])
    crops = [train.crops(next(training))]
    processes = []
    for _ in range(2):  # an evaluation reads both
        read = []
        for images in (test, train):
            read += [images.crops(each) for each in images.stream([Chunk(BATCHES[1:2], CROPS)])]
        for crop, split in zip(read, ("test", "train"), strict=True):
            (alone,) = streamed(source, split=split).stream([Chunk(BATCHES[1:2], CROPS)])
            assert torch.equal(crop, alone[0])
        processes.append({each.pid for each in multiprocessing.active_children()})
    crops += [train.crops(each) for each in training]
    assert all(torch.equal(one, two) for one, two in zip(crops, crops_of(streamed(source)), strict=True))
    assert len(processes[0]) == 2
    assert processes[0] == processes[1]
    del train, test, training, images
    assert not multiprocessing.active_children()


def test_a_broken_picture_is_named_when_it_is_reached(tmp_path: Path) -> None:
    source = write(tmp_path, [(20, 30), (64, 33)], broken=True)
    batches = streamed(source).stream([Chunk([np.array(ids) for ids in ([1, 0], [1, 2])], CROPS)])
    next(batches)
    with pytest.raises(DataError, match=r"Corrupt image in .*train\.parquet, row 2"):
        next(batches)


def test_chunks_are_read_lazily(tmp_path: Path) -> None:
    source = write(tmp_path, [(20, 30)] * 6)
    images, _ = load(source, config(source), Runtime())
    for each in (images, streamed(source)):
        endless = (Chunk([np.array([i % 6])], CROPS[:1]) for i in iter(int, 1))
        assert each.crops(next(each.stream(endless))).shape == (1, 1, 3, SIZE, SIZE)


def test_other_data_than_planned_are_refused(tmp_path: Path) -> None:
    source = write(tmp_path, [(20, 30)] * 3)
    with pytest.raises(DataError, match="Plan it again"):
        load(source, digits(image_size=SIZE), Runtime())


@pytest.mark.parametrize("images", [3, 4])
def test_as_many_training_pictures_as_there_are_is_refused(tmp_path: Path, images: int) -> None:
    source = write(tmp_path, [(20, 30)] * 3)
    with pytest.raises(DataError, match=f"below the 3 pictures there are .* Got {images}"):
        load(source, config(source, train_images=images), Runtime())


def test_fewer_training_pictures_are_streamed_with_their_labels(tmp_path: Path) -> None:
    source = write(tmp_path, [(20, 30), (64, 33), (16, 16), (100, 20), (9, 9)])
    part = data.read(source, "train", 3)
    train, test = load(source, config(source, train_images=3), Runtime())
    assert isinstance(train, Streamed)
    assert (len(train), len(test)) == (3, 2)
    assert train.labels.tolist() == part.labels.tolist()
    whole, number = streamed(source), int(part.labels[1])  # a picture's label is its row
    assert torch.equal(batch(train, np.array([1]), CROPS[2:]), batch(whole, np.array([number]), CROPS[2:]))


def test_decoded_pictures_are_shared_without_a_copy() -> None:
    source = data.locate(None)
    decoded = loader.decode(source, None)
    assert decoded is not None
    for pixels, labels in decoded.splits.values():
        pixels.flags.writeable = labels.flags.writeable = False  # as they come out of Ray's object store
    images = loader.load(decoded, config(source), Runtime())
    for split, (pixels, labels) in zip(images, (decoded.splits["train"], decoded.splits["test"]), strict=True):
        assert isinstance(split, InMemory)
        assert split.pixels.data_ptr() == pixels.ctypes.data
        assert split.labels.data_ptr() == labels.ctypes.data


def test_no_file_is_left_open(tmp_path: Path) -> None:
    for name in ("train/a/1.png", "train/b/1.png", "val/a/1.png", "val/b/1.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.fromarray(picture(0, 9, 9)).save(tmp_path / name)
    source = data.locate(tmp_path)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        load(source, config(source), Runtime())
        gc.collect()
    assert not [each for each in seen if issubclass(each.category, ResourceWarning)]


TRAINER = """
import sys, time
import numpy as np
from simsiam import config, data, loader, recipes, views
source = data.locate(sys.argv[1])
of_flowers = config.Config(data=source.name, **recipes.FLOWERS)
train, _ = loader.load(source, of_flowers, config.Runtime(loader_processes=2))
stream = train.stream([loader.Chunk([np.array([0])] * 50, [views.CenterCrop(1.0)])])
next(stream)
print("reads", flush=True)
time.sleep(300)
"""


def test_loader_processes_end_with_a_trainer_that_is_killed(tmp_path: Path) -> None:
    write(tmp_path, [(9, 9), (7, 7)])
    marked = {**os.environ, "MARK": str(tmp_path)}  # which the processes inherit

    def processes() -> int:
        found = 0
        for path in Path("/proc").glob("[0-9]*/environ"):
            with contextlib.suppress(OSError):  # it has just ended
                found += f"MARK={tmp_path}".encode() in path.read_bytes()
        return found

    command = [sys.executable, "-c", TRAINER, str(tmp_path)]
    with subprocess.Popen(command, env=marked, stdout=subprocess.PIPE, text=True) as trainer:
        assert trainer.stdout is not None
        assert trainer.stdout.readline() == "reads\n"
        assert processes() >= 4  # the trainer, who forks, two that read
        trainer.kill()
    limit = time.monotonic() + 30
    while processes() and time.monotonic() < limit:
        time.sleep(0.2)
    assert processes() == 0


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    write(tmp_path, [(9, 9)] * 3)
    table = pq.read_table(tmp_path / "test.parquet").slice(0, 0)
    pq.write_table(table, tmp_path / "test.parquet")
    source = Source("parquet", "x", 3, 0, tmp_path)
    with pytest.raises(DataError, match="test"):
        load(source, config(source), Runtime())


def bomb() -> bytes:
    """A picture whose header claims 30,000 x 30,000 pixels, more than PIL will open."""
    buffer = io.BytesIO()
    Image.fromarray(picture(0, 4, 4)).save(buffer, "BMP")
    content = bytearray(buffer.getvalue())
    content[18:26] = (30_000).to_bytes(4, "little") * 2
    return bytes(content)


@pytest.mark.parametrize(
    "images",
    [
        ["a", "b"],
        [1, 2],
        [bomb()] * 2,
        [b"", b""],
        [{"bytes": None, "path": "a.png"}, {"bytes": None, "path": "b.png"}],
        [{"path": "a.png"}, {"path": "b.png"}],
    ],
    ids=["text", "numbers", "bomb", "empty", "paths beside null", "paths"],
)
def test_a_column_that_holds_no_picture_is_refused(tmp_path: Path, images: list[object]) -> None:
    for split in ("train", "test"):
        pq.write_table(pa.table({"image": images, "label": [0, 1]}), tmp_path / f"{split}.parquet")
    source = data.locate(tmp_path)
    with pytest.raises(DataError, match=r"train\.parquet"):
        load(source, config(source), Runtime())


def relabel(source: Source, labels: list[object]) -> None:
    assert source.path is not None
    file = source.path / "train.parquet"
    table = pq.read_table(file).drop_columns("label")
    pq.write_table(table.append_column("label", pa.array(labels)), file)


def test_a_null_label_is_minus_one(tmp_path: Path) -> None:
    source = write(tmp_path, [(9, 9)] * 3)
    relabel(source, [2, None, 0])
    assert data.read(source, "train").labels.tolist() == [2, -1, 0]


@pytest.mark.parametrize("labels", [[2.0, 1.5, 0.0], ["2", "1", "0"]])
def test_labels_that_are_no_whole_numbers_are_refused(tmp_path: Path, labels: list[object]) -> None:
    source = write(tmp_path, [(9, 9)] * 3)
    relabel(source, labels)
    with pytest.raises(DataError, match=r"train\.parquet.* whole numbers"):
        data.read(source, "train")
