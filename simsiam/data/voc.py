"""Pascal VOC's folders, of one year or of several: pictures with boxes of objects, for detection (Table 5).

Training is on trainval of every year, testing on test, as in MoCo's code, which the paper says it uses; the caption of
Table 5 says 2007 trainval and 2012 train. Where no year has a test list, on train and val. The data sets of several
years, as VOCdevkit/VOC2007 and VOC2012, are one.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from simsiam.data.pictures import TEST, TRAIN, DataError, Objects, Pictures
from simsiam.data.source import Asked, Source, asked_of, digest, on_disk
from simsiam.text import printable

_FOLDERS = "JPEGImages", "Annotations", "ImageSets/Main"
_MOST_BYTES = 1 << 20  # of an annotation
# Lists of names for training and testing, in the order in which they are looked for.
_LISTS = {TRAIN: ("trainval", "train"), TEST: ("test",)}, {TRAIN: ("train",), TEST: ("val",)}


def find(asked: Asked) -> Source | None:
    if not isinstance(asked.path, Path) or not (years := _years(asked.path)):
        return None
    splits = {split: list(_names(years, split)) for split in (TRAIN, TEST)}
    for split, names in splits.items():
        if not names:
            raise DataError(f"{printable(str(asked.path))} has no ImageSets/Main/{'|'.join(_LISTS[0][split])}.txt.")
    pictures = [_picture(*each) for names in splits.values() for each in names]
    notes = [_annotation(*each) for names in splits.values() for each in names]
    lists = [file for year in years for file in (year / "ImageSets" / "Main").glob("*.txt")]
    files = on_disk(asked.path, {*pictures, *notes, *lists})
    return Source(
        "voc",
        digest(files, ours=True),
        len(splits[TRAIN]),
        len(splits[TEST]),
        asked.path,
        encoded_bytes=sum(asked_of(file, Path.stat).st_size for file in pictures),
    )


def read(source: Source, split: str) -> Pictures:
    """Labels are of each picture's first object; -1 where there is none."""
    assert isinstance(source.path, Path)
    years = _years(source.path)
    names = list(_names(years, split))
    every = [each for any_split in (TRAIN, TEST) for each in _names(years, any_split)]
    found = {each: _parsed(_annotation(*each)) for each in every}
    classes = sorted({name for objects in found.values() for name, _, _ in objects})

    def objects(i: int) -> Objects:
        its = found[names[i]]
        return Objects(
            boxes=np.array([box for _, box, _ in its], np.float32).reshape(-1, 4),
            labels=np.array([classes.index(name) for name, _, _ in its], np.int64),
            difficult=np.array([hard for _, _, hard in its], bool),
        )

    first = [objects(i).labels[:1].tolist() or [-1] for i in range(len(names))]
    return Pictures(
        labels=np.array(first, np.int64)[:, 0],
        where=lambda i: printable(str(_picture(*names[i]))),
        encoded=lambda i: asked_of(_picture(*names[i]), Path.read_bytes),
        classes=classes,
        objects=objects,
    )


def first(source: Source) -> bytes:
    assert isinstance(source.path, Path)
    return asked_of(_picture(*next(_names(_years(source.path), TRAIN))), Path.read_bytes)


def _years(path: Path) -> list[Path]:
    """The folders of the years: the path itself, or those in it or in its VOCdevkit."""
    for years in ([path], sorted(path.glob("VOC[0-9]*")), sorted(path.glob("VOCdevkit/VOC[0-9]*"))):
        if found := [year for year in years if all((year / folder).is_dir() for folder in _FOLDERS)]:
            return found
    return []


def _names(years: list[Path], split: str) -> Iterator[tuple[Path, str]]:
    """Year and name of each picture of a split. Raises DataError for a name that leads elsewhere."""
    tested = any((year / "ImageSets" / "Main" / "test.txt").is_file() for year in years)
    for year in years:
        lists = [year / "ImageSets" / "Main" / f"{name}.txt" for name in _LISTS[0 if tested else 1][split]]
        if file := next((each for each in lists if each.is_file()), None):
            for name in asked_of(file, functools.partial(Path.read_text, encoding="utf-8")).split():
                if "/" in name or "\\" in name or name.startswith("."):
                    raise DataError(f"{printable(str(file))} names {printable(name)}, which is no name of a picture.")
                yield year, name


def _picture(year: Path, name: str) -> Path:
    return year / "JPEGImages" / f"{name}.jpg"


def _annotation(year: Path, name: str) -> Path:
    return year / "Annotations" / f"{name}.xml"


def _parsed(file: Path) -> list[tuple[str, tuple[float, float, float, float], bool]]:
    """Class, box (left, top, right, bottom, from 0) and whether it is difficult, of each object. Raises DataError."""
    content, shown = asked_of(file, Path.read_bytes), printable(str(file))
    if len(content) > _MOST_BYTES or b"<!" in content.replace(b"<!--", b""):
        raise DataError(f"{shown} is larger than {_MOST_BYTES:,} bytes, or declares entities. Replace or remove it.")
    try:
        found = []
        for each in ElementTree.fromstring(content).iter("object"):
            left, top, right, bottom = (float(each.findtext(f"bndbox/{side}", "")) for side in _SIDES)
            if not (1 <= left < right and 1 <= top < bottom):
                raise ValueError(f"the box {left:g} {top:g} {right:g} {bottom:g} is none")
            name = each.findtext("name", "").strip()
            if not name:
                raise ValueError("an object has no name")
            found.append((name, (left - 1, top - 1, right, bottom), each.findtext("difficult", "0").strip() == "1"))
        return found
    except (ElementTree.ParseError, ValueError) as error:
        raise DataError(
            f"{shown} is no annotation of Pascal VOC: {printable(str(error))}. Replace or remove it."
        ) from None


_SIDES = "xmin", "ymin", "xmax", "ymax"  # whole pixels from 1, the last one included
