"""Crops of pictures as uint8 batches: from memory on the device, or decoded while reading, in loader processes.

Both kinds answer the same two calls, so nothing else minds how large the pictures are.
"""

from __future__ import annotations

import io
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

Ids = npt.NDArray[np.integer]
Request = tuple[Ids, Sequence[views.Crop]]  # which pictures (B,), and V crops to take of each


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

    def batch(self, ids: Ids, crops: Sequence[views.Crop]) -> Tensor:
        """V crops of each picture -> uint8 (V, B, 3, size, size) on the device."""
        chosen = self.pixels[torch.from_numpy(ids).to(self.pixels.device)]
        sizes = np.broadcast_to(np.array(self.pixels.shape[2:]), (len(ids), 2))
        return torch.stack([views.resized_crop(chosen, crop.boxes(ids, sizes), self.size) for crop in crops])

    def stream(self, requests: Iterable[Request]) -> Iterator[Tensor]:
        """`batch` of each request, in order."""
        return (self.batch(ids, crops) for ids, crops in requests)


class Streamed:
    """Pictures of any size, decoded and cropped while reading; each is decoded once for all its crops.

    Args:
        reader: which pictures, and the size of a crop.
        device: where the batches go.
        processes: loader processes; 0 decodes in this process.
    """

    def __init__(self, reader: _Reader, *, device: torch.device, processes: int) -> None:
        self._reader = reader
        self.labels = torch.from_numpy(reader.pictures.labels).to(device)
        self._device, self._processes = device, processes

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, ids: Ids, crops: Sequence[views.Crop]) -> Tensor:
        """V crops of each picture -> uint8 (V, B, 3, size, size) on the device."""
        return self._reader[ids, crops].to(self._device)

    def stream(self, requests: Iterable[Request]) -> Iterator[Tensor]:
        """`batch` of each request, in order, read ahead by the loader processes."""
        loader = DataLoader(
            self._reader,
            batch_size=None,
            sampler=requests,  # type: ignore[arg-type]
            num_workers=self._processes,
            # A fork of a process that runs threads can hang, and Ray's workers do.
            multiprocessing_context="forkserver" if self._processes else None,
            pin_memory=self._device.type == "cuda",
            worker_init_fn=_end_with_its_trainer,
        )
        return (batch.to(self._device, non_blocking=True) for batch in loader)


def _end_with_its_trainer(process: int) -> None:
    """What a loader process does first: where its trainer is killed, it ends. torch watches only who forked it."""

    def wait() -> None:
        trainer = multiprocessing.parent_process()
        assert trainer is not None
        trainer.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


Images = InMemory | Streamed


class _Reader(Dataset[Tensor]):
    """What a loader process runs. Only the place of the pictures travels to it; they are opened there."""

    def __init__(self, source: Source, split: str, images: int | None, size: int) -> None:
        self._place = source, split, images, size
        self._size = size
        self.pictures: Pictures = data.read(source, split, images)

    def __getstate__(self) -> tuple[Source, str, int | None, int]:
        return self._place

    def __setstate__(self, state: tuple[Source, str, int | None, int]) -> None:
        _Reader.__init__(self, *state)

    def __getitem__(self, request: Request) -> Tensor:
        from PIL import Image

        ids, crops = request
        out = np.empty((len(crops), len(ids), self._size, self._size, 3), np.uint8)
        for b, i in enumerate(ids):
            picture = self.pictures.decode(int(i))
            size = np.array([[picture.height, picture.width]])
            for v, crop in enumerate(crops):
                top, left, height, width = crop.boxes(np.array([i]), size)[0].tolist()
                piece = picture.crop((left, top, left + width, top + height))
                out[v, b] = np.asarray(piece.resize((self._size, self._size), Image.Resampling.BILINEAR))
        return torch.from_numpy(out).permute(0, 1, 4, 2, 3).contiguous()


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
    if _too_many(source, train_images or source.train_images):
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
    from PIL import Image

    if not (content := data.first(source)):
        return False
    try:
        width, height = Image.open(io.BytesIO(content)).size
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

    def split(name: str, images: int | None) -> Images:
        if isinstance(source, Decoded):
            pixels, labels = (_shared(array).to(device) for array in source.splits[name])
            return InMemory(pixels, labels, config.image_size)
        reader = _Reader(source, name, images, config.image_size)
        return Streamed(reader, device=device, processes=runtime.loader_processes)

    return split(TRAIN, config.train_images), split(TEST, None)


def _shared(array: npt.NDArray[Any]) -> Tensor:
    """An array as a tensor, without a copy. One that lies in Ray's object store is read-only, of which torch warns."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writ", UserWarning)
        return torch.from_numpy(array)


def _pixels(pictures: Pictures) -> npt.NDArray[np.uint8] | None:
    """All pictures decoded, (N, H, W, 3), if they have one size and fit in memory; else None."""
    if pictures.pixels is not None:
        return pictures.pixels
    width, height = pictures.open(0).size
    if len(pictures) * height * width * 3 > MEMORY:
        return None
    if any(pictures.open(i).size != (width, height) for i in range(len(pictures))):
        return None
    return np.stack([np.asarray(pictures.decode(i)) for i in range(len(pictures))])
