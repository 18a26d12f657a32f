"""Crops of pictures as uint8 batches: from memory on the device, or decoded while reading, in loader processes.

Both kinds answer the same two calls, so nothing else minds how large the pictures are.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from simsiam import data, views
from simsiam.config import Config, Runtime
from simsiam.data import TEST, TRAIN, DataError, Pictures, Source

MEMORY = 4 << 30  # bytes of decoded pictures of one split that are held in memory
CHUNK = 1 << 16  # pictures whose crops and views are drawn at once

Ids = npt.NDArray[np.integer]
Fetched = tuple[Tensor, ...]  # what `crops` makes the crops of one batch from, on the device


@dataclass(frozen=True)
class Chunk:
    """Consecutive batches that are drawn at once: the ids (b,) of each, and V crops to take of every picture."""

    batches: Sequence[Ids]
    crops: Sequence[views.Crop]

    @property
    def ids(self) -> Ids:
        """Of all batches, one after the other."""
        return np.concatenate(self.batches)

    def split(self, rows: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
        """Rows of all ids -> those of each batch."""
        return rows.split([len(batch) for batch in self.batches], dim)


def chunks(batches: Sequence[Ids], crops: Sequence[views.Crop]) -> Iterator[Chunk]:
    """Batches of one length of one epoch, cut where there are many."""
    if batches:
        step = max(1, CHUNK // len(batches[0]))
        yield from (Chunk(batches[i : i + step], crops) for i in range(0, len(batches), step))


def upload(array: npt.NDArray[Any], device: torch.device) -> Tensor:
    """An array on the device. A GPU's queue of work does not wait for it."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


@dataclass(frozen=True)
class InMemory:
    """Pictures of one size, held decoded on the device.

    Args:
        pixels: uint8 (N, 3, H, W).
        labels: int64 (N,), -1 where there is none.
        size: of a crop, pixels.
    """

    pixels: Tensor
    labels: Tensor
    size: int

    def __len__(self) -> int:
        return len(self.labels)

    def stream(self, chunks: Iterable[Chunk]) -> Iterator[Fetched]:
        """For each batch its ids (b,) and crop boxes (V, b, 4), in order; a chunk's go to the device at once."""
        height_width = np.array(self.pixels.shape[2:])
        for chunk in chunks:
            ids = chunk.ids
            sizes = np.broadcast_to(height_width, (len(ids), 2))
            boxes = np.stack([crop.boxes(ids, sizes) for crop in chunk.crops])
            device = self.pixels.device
            yield from zip(
                chunk.split(upload(ids, device)), chunk.split(upload(boxes.astype(np.float32), device), 1), strict=True
            )

    def crops(self, fetched: Fetched) -> Tensor:
        """V crops of each picture of a batch -> uint8 (V, b, 3, size, size)."""
        ids, boxes = fetched
        chosen = self.pixels[ids]
        return torch.stack([views.resized_crop(chosen, each, self.size) for each in boxes])


class Streamed:
    """Pictures of any size, decoded and cropped while reading; each is decoded once for all its crops."""

    def __init__(self, pool: Pool, split: str) -> None:
        self._pool, self._split = pool, split
        self.labels = torch.from_numpy(pool.reader.pictures(split).labels).to(pool.device)

    def __len__(self) -> int:
        return len(self.labels)

    def stream(self, chunks: Iterable[Chunk]) -> Iterator[Fetched]:
        """The crops of each batch, in order, read ahead by the loader processes."""
        return self._pool.stream((self._split, batch, chunk.crops) for chunk in chunks for batch in chunk.batches)

    def crops(self, fetched: Fetched) -> Tensor:
        """V crops of each picture of a batch -> uint8 (V, b, 3, size, size)."""
        return fetched[0]


class Pool:
    """The loader processes of a trial. Those of a stream that has ended wait for the next: each imports torch, which
    takes longer than to read a small test set.

    Args:
        reader: of which pictures, and the size of a crop.
        device: where the batches go.
        processes: for each of the streams that are open at once, training's and an evaluation's; 0 decodes in this
            process.
    """

    def __init__(self, reader: _Reader, *, device: torch.device, processes: int) -> None:
        self.reader, self.device, self._processes = reader, device, processes
        self._idle: list[tuple[_Requests, DataLoader[Tensor]]] = []

    def stream(self, requests: Iterable[_Request]) -> Iterator[Fetched]:
        """What the reader makes of each request, in order."""
        asked, loader = self._idle.pop() if self._idle else self._started()
        asked.requests = requests
        for batch in loader:
            yield (batch.to(self.device, non_blocking=True),)
        self._idle.append((asked, loader))

    def _started(self) -> tuple[_Requests, DataLoader[Tensor]]:
        asked = _Requests()
        loader = DataLoader(
            self.reader,
            batch_size=None,
            sampler=asked,  # type: ignore[arg-type]
            num_workers=self._processes,
            persistent_workers=self._processes > 0,
            # A fork of a process that runs threads can hang, and Ray's workers do.
            multiprocessing_context="forkserver" if self._processes else None,
            pin_memory=self.device.type == "cuda",
            worker_init_fn=_end_with_its_trainer,
        )
        return asked, loader


class _Requests:
    """What a stream asks for. DataLoader begins it again for each stream."""

    requests: Iterable[_Request] = ()

    def __iter__(self) -> Iterator[_Request]:
        return iter(self.requests)


def _end_with_its_trainer(process: int) -> None:
    """What a loader process does first: where its trainer is killed, it ends. torch watches only who forked it."""

    def wait() -> None:
        trainer = multiprocessing.parent_process()
        assert trainer is not None
        trainer.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


Images = InMemory | Streamed


_Request = tuple[str, Ids, Sequence[views.Crop]]  # a split, ids (b,) of it, and V crops to take of each


class _Reader(Dataset[Tensor]):
    """What a loader process runs. Only the place of the pictures travels to it; they are opened there.

    Args:
        images: how many of the training pictures; None for all.
        size: of a crop, pixels.
    """

    def __init__(self, source: Source, images: int | None, size: int) -> None:
        self._place = source, images, size
        self._opened: dict[str, Pictures] = {}

    def __getstate__(self) -> tuple[Source, int | None, int]:
        return self._place

    def __setstate__(self, state: tuple[Source, int | None, int]) -> None:
        _Reader.__init__(self, *state)

    def pictures(self, split: str) -> Pictures:
        if split not in self._opened:
            source, images, _ = self._place
            self._opened[split] = data.read(source, split, images if split == TRAIN else None)
        return self._opened[split]

    def __getitem__(self, request: _Request) -> Tensor:
        """-> uint8 (V, b, 3, size, size). The boxes of all are drawn at once, from the headers."""
        from PIL import Image

        split, ids, crops = request
        pictures, size = self.pictures(split), self._place[-1]
        opened = [pictures.open(int(i)) for i in ids]
        sizes = np.array([pictures.size(int(i), picture)[::-1] for i, picture in zip(ids, opened, strict=True)])
        boxes = np.stack([crop.boxes(ids, sizes) for crop in crops])  # (V, b, 4)
        out = np.empty((len(crops), len(ids), size, size, 3), np.uint8)
        for b, i in enumerate(ids):
            # Taken out: what has been decoded is let go of before the next.
            picture = pictures.convert(int(i), opened.pop(0))
            for v, (top, left, height, width) in enumerate(boxes[:, b].tolist()):
                piece = picture.crop((left, top, left + width, top + height))
                out[v, b] = np.asarray(piece.resize((size, size), Image.Resampling.BILINEAR))
        return torch.from_numpy(out).permute(0, 1, 4, 2, 3)


@dataclass(frozen=True)
class Decoded:
    """A data set of small pictures, decoded: what the trials of a node can share.

    Args:
        name: the identity of the data.
        splits: split -> uint8 pixels (N, 3, H, W) and int64 labels (N,).
    """

    name: str
    splits: dict[str, tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]]


def decode(source: Source, train_images: int | None) -> Decoded | None:
    """All pictures of a source, or None if those of a split differ in size or are too many for memory.

    Raises DataError for what cannot be read, or if there are not more pictures than `train_images`.
    """
    if source.layout == "voc" or _too_many(source, train_images or source.train_images):
        return None
    splits = {}
    for name, images in ((TRAIN, train_images), (TEST, None)):
        pictures = data.read(source, name, images)
        pixels = _pixels(pictures)
        if pixels is None:
            return None
        splits[name] = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)), pictures.labels
    return Decoded(source.name, splits)


def _too_many(source: Source, images: int) -> bool:
    """Whether the first picture tells already that they are too many: to read all of a large data set takes long."""
    if not (content := data.first(source)):
        return False
    try:
        width, height = data.size(data.opened(content, source.max_pixels))
    except Exception:  # it is named, with its place, when all are read
        return False
    return images * height * width * 3 > MEMORY


def load(source: Source | Decoded, config: Config, runtime: Runtime) -> tuple[Images, Images]:
    """The training and the test pictures of a trial: decoded ones as they are, those of a source by reading ahead.

    Raises DataError if the data are not the Config's.
    """
    if source.name != config.data:
        raise DataError(f"The data are {source.name}, but the Config was planned for {config.data}. Plan it again.")
    device = torch.device(runtime.device)
    train: Images
    test: Images
    if isinstance(source, Decoded):
        place = source.name
        train, test = (_held(*source.splits[split], config.image_size, device) for split in (TRAIN, TEST))
    else:
        place = source.place
        reader = _Reader(source, config.train_images, config.image_size)
        pool = Pool(reader, device=device, processes=runtime.loader_processes)
        train, test = Streamed(pool, TRAIN), Streamed(pool, TEST)
    data.check_classes(place, train.labels.cpu().numpy(), test.labels.cpu().numpy())
    return train, test


def _held(pixels: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], size: int, device: torch.device) -> InMemory:
    return InMemory(_shared(pixels).to(device), _shared(labels).to(device), size)


def _shared(array: npt.NDArray[Any]) -> Tensor:
    """An array as a tensor, without a copy. One that lies in Ray's object store is read-only, of which torch warns."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writ", UserWarning)
        return torch.from_numpy(array)


def _pixels(pictures: Pictures) -> npt.NDArray[np.uint8] | None:
    """All pictures decoded, (N, H, W, 3), if they have one size and fit in memory; else None."""
    if pictures.pixels is not None:
        return pictures.pixels
    first = np.asarray(pictures.decode(0))
    if len(pictures) * first.nbytes > MEMORY:
        return None
    pixels = np.empty((len(pictures), *first.shape), np.uint8)
    for i in range(len(pictures)):
        decoded = np.asarray(pictures.decode(i))
        if decoded.shape != first.shape:
            return None
        pixels[i] = decoded
    return pixels
