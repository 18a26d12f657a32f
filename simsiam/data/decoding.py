"""All pictures of a split decoded once, to see that they can be."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from simsiam.data.pictures import DataError, Pictures

_LARGE = 1 << 22  # pixels above which pictures are decoded one after another: side by side they would take gigabytes


def faults(pictures: Pictures) -> Iterator[DataError | str]:
    """Why pictures are broken, in order; and the places of those that have several frames."""
    with ThreadPoolExecutor() as pool:  # PIL lets go of the interpreter lock while it decodes
        looks = pool.map(lambda i: _fault(pictures, i, large=False), range(len(pictures)), chunksize=64)
        for i, found in enumerate(looks):
            fault = _fault(pictures, i, large=True) if found is _LATER else found
            if isinstance(fault, DataError | str):
                yield fault


_LATER = object()  # of a large picture


def _fault(pictures: Pictures, i: int, *, large: bool) -> Any:
    """What `faults` says of picture i, None for nothing; if it is large, only where that is asked for."""
    try:
        picture = pictures.open(i)
        if math.prod(picture.size) > _LARGE and not large:
            return _LATER
        frames = getattr(picture, "n_frames", 1)
        pictures.convert(i, picture)
    except DataError as error:
        return error
    except Exception as error:  # of a count of frames in broken bytes
        return pictures.corrupt(i, error)
    return pictures.where(i) if frames > 1 else None
