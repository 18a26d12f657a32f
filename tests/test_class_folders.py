"""Folders of pictures as people have them: what counts as a picture of which class, and what is said of the rest."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encoded, write_images
from torchvision.datasets import cifar

from simsiam import data
from simsiam.data import DataError, pictures, source

BOTH = {f"{split}/{name}/{i}.png": i for split in ("train", "val") for name in ("cat", "dog") for i in (1, 2)}


def names(root: Path, split: str) -> list[str]:
    """The pictures of a split, as they stand in its folder."""
    read = data.read(data.locate(root), split)
    return [read.where(i).removeprefix(f"{root}/") for i in range(len(read))]


def test_hidden_files_and_folders_are_none(tmp_path: Path) -> None:
    hidden = ["train/.ipynb_checkpoints/a.png", "train/cat/.cache/a.png", "val/dog/._1.png", ".val/cat/a.png"]
    write_images(tmp_path, {**BOTH, **dict.fromkeys(hidden, 9)})
    assert names(tmp_path, "train") + names(tmp_path, "test") == sorted(BOTH)
    assert data.locate(tmp_path).notes == ()


def test_links_are_followed_and_a_loop_of_them_ends(tmp_path: Path) -> None:
    root, store = tmp_path / "data", tmp_path / "store"
    write_images(root, BOTH)
    write_images(store, {"cow/1.png": 7, "more/2.png": 8})
    (root / "train/cow").symlink_to(store / "cow")
    (root / "val/dog/more").symlink_to(store / "more")
    (root / "val/cat/up").symlink_to(root / "val")
    assert names(root, "train")[2:3] == ["train/cow/1.png"]
    assert "val/dog/more/2.png" in names(root, "test")
    assert not [name for name in names(root, "test") if "/up/" in name and "/up/cat" in name]


def test_what_is_left_out_is_counted_with_an_example(tmp_path: Path) -> None:
    write_images(tmp_path, {**BOTH, "train/stray.png": 5, "val/stray.png": 5, "test.png": 5})
    for name in ("train/cat/notes.txt", "train/dog/scan.psd", "train/dog/icon.eps"):
        (tmp_path / name).write_bytes(b"x")
    assert data.locate(tmp_path).notes == (
        "left out 2 files without a class, as train/stray.png",
        "left out 3 files that are no pictures that we read, as train/cat/notes.txt",
    )
    assert data.locate(tmp_path).train_images == 4


@pytest.mark.parametrize("suffix", sorted(pictures.SUFFIXES))
def test_every_suffix_of_a_format_is_a_picture(tmp_path: Path, suffix: str) -> None:
    write_images(tmp_path, BOTH)
    (tmp_path / f"train/cat/more{suffix.upper()}").write_bytes(encoded(9))
    assert data.locate(tmp_path).train_images == 5


def test_a_class_of_one_side_alone_is_named(tmp_path: Path) -> None:
    write_images(tmp_path, {**BOTH, "val/Cat/1.png": 1, "train/eel/1.png": 1, "train/emu/1.png": 1})
    assert data.locate(tmp_path).notes == (
        "1 class of test alone (Cat): none of their pictures can be right",
        "2 classes of train alone (eel, emu): nothing is tested on them",
    )


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train/cat/1.png": 1, "val/images/1.png": 1, "train/dog/1.png": 2}, "no class in common.*cat, dog.*images"),
        ({"train/cat/1.png": 1, "val/cat/1.png": 1}, r"has 1 class in its train split \(cat\)"),
    ],
)
def test_classes_that_cannot_be_judged_are_refused(tmp_path: Path, files: dict[str, int], message: str) -> None:
    write_images(tmp_path, files)
    with pytest.raises(DataError, match=message):
        data.locate(tmp_path)


def test_names_need_be_neither_utf8_nor_printable(tmp_path: Path) -> None:
    write_images(tmp_path, {**BOTH, "train/cat/\x1b]0;x\x07\n.png": 3})
    os.rename(os.fsencode(tmp_path / "train/cat/1.png"), os.fsencode(tmp_path) + b"/train/cat/ni\xf1o.png")
    assert names(tmp_path, "train")[:3] == [
        "train/cat/\\x1b]0;x\\x07\\n.png",
        "train/cat/2.png",
        "train/cat/ni\\udcf1o.png",
    ]
    data.check(data.locate(tmp_path))


def test_a_broken_data_set_is_refused_in_one_line_with_the_first_three(tmp_path: Path) -> None:
    write_images(
        tmp_path, {f"{split}/{name}/{i}.png": i for split in ("train", "val") for name in "ab" for i in range(3)}
    )
    for i in (0, 2):
        for split in ("train", "val"):
            (tmp_path / split / "a" / f"{i}.png").write_bytes(b"<html>404</html>")
    with pytest.raises(DataError) as caught:
        data.check(data.locate(tmp_path))
    text = str(caught.value)
    assert re.search(
        r"has 4 broken pictures\. Corrupt image in .*train/a/0\.png.* And 1 more\. Replace or remove", text
    )
    assert "\n" not in text
    assert text.count("Corrupt image in") == 3


def test_pictures_that_are_now_read_otherwise_are_other_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results of before, named by the old digest, are trained again; those of digits and CIFAR are not."""
    write_images(tmp_path, BOTH)
    before = hashlib.sha256()
    for name in sorted(BOTH):
        content = (tmp_path / name).read_bytes()
        before.update(f"{name} {len(content)}\n".encode() + content)
    assert data.locate(tmp_path).digest != before.hexdigest()[:16]
    monkeypatch.setattr(source, "READING", "")
    assert data.locate(tmp_path).digest == before.hexdigest()[:16]
    monkeypatch.undo()

    assert data.locate(None).name == "digits@15bec4e102d14cf1"
    monkeypatch.setattr(cifar, "check_integrity", lambda *_, **__: True)
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(b"1234")
    assert data.locate(tmp_path).digest == hashlib.sha256(b"test_batch 4\n1234").hexdigest()[:16]


def test_data_that_have_changed_are_noticed(tmp_path: Path) -> None:
    write_images(tmp_path, BOTH)
    planned = data.locate(tmp_path)
    data.unchanged(planned)
    (tmp_path / "train/dog/2.png").unlink()
    with pytest.raises(DataError, match=r"have changed since the trial was planned: .* 4 \+ 4 .* 3 \+ 4"):
        data.unchanged(planned)


def test_a_folder_without_a_split_is_split_by_what_is_in_its_pictures(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    write_images(here, {f"{label}/{i}.png": i for label in ("cat", "dog") for i in range(100)})
    with pytest.raises(DataError, match=r"no train and test split\. .*give --test-fraction 0\.2"):
        data.locate(here)
    source = data.locate(here, 0.2)
    train, test = data.read(source, "train"), data.read(source, "test")
    assert (len(train), len(test)) == (source.train_images, source.test_images)
    assert len(train) + len(test) == 200
    # Half of the pictures are the other half again: each is with its like, so 100 of them are drawn, by their hashes.
    expected = [i for i in range(100) if int(hashlib.sha256(encoded(i)).hexdigest(), 16) < 0.2 * 2**256]
    assert 10 < len(expected) < 30
    assert [Path(test.where(i)).stem for i in range(len(test))] == sorted(map(str, expected)) * 2
    assert test.labels.tolist() == [0] * len(expected) + [1] * len(expected)
    write_images(there, {f"{label}/{i}.png": i for label in ("cat", "dog") for i in reversed(range(100))})
    assert data.locate(there, 0.2).name == source.name
    assert len({data.locate(here, fraction).name for fraction in (0.2, 0.3)}) == 2
    data.unchanged(source)


def test_a_fraction_is_for_pictures_without_a_split(tmp_path: Path) -> None:
    write_images(tmp_path, BOTH)
    for path in (tmp_path, None):
        with pytest.raises(DataError, match="--test-fraction is for pictures without a split"):
            data.locate(path, 0.2)


SOUND = ["a.png", "b.JPG", "deep/er/c.png", "🐈.png", "\n.png", "\x1b[2J.png"]
NONE = [".hidden.png", "._a.png", "notes.txt", "Thumbs.db", "x.eps"]
BROKEN = ["cut.png", "empty.png", "html.jpg", "dangling.png"]


@settings(max_examples=300)
@given(
    members=st.lists(
        st.tuples(st.sampled_from(["train", "val"]), st.sampled_from("ab"), st.sampled_from(SOUND + NONE + BROKEN)),
        max_size=12,
    )
)
def test_any_folder_is_read_or_refused_and_every_picture_counted(members: list[tuple[str, str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root, good = Path(folder), encoded(1)
        for split, label, name in members:
            file = root / split / label / name
            file.parent.mkdir(parents=True, exist_ok=True)
            if name == "dangling.png":
                file.is_symlink() or file.symlink_to("nowhere.png")
            else:
                content = {"cut.png": good[:40], "empty.png": b"", "html.jpg": b"<html>"}
                file.write_bytes(content.get(name, good))
        counts = {split: {m for m in members if m[0] == split and m[2] in SOUND + BROKEN} for split in ("train", "val")}
        found, refusal = None, ""
        try:
            found = data.locate(root)
            data.check(found)
        except DataError as error:
            refusal = str(error)
        broken = any(name in BROKEN for *_, name in members)
        labels = [{label for _, label, _ in counts[split]} for split in ("train", "val")]
        assert bool(refusal) == (broken or len(labels[0]) < 2 or not labels[0] & labels[1])
        assert not {"\n", "\x1b"} & set(refusal)
        if found:
            assert (found.train_images, found.test_images) == (len(counts["train"]), len(counts["val"]))
