"""Data sets of Hugging Face's Hub: hf://datasets/OWNER/NAME[@REVISION][/CONFIG], by its own client."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import Any

from simsiam.data.pictures import DataError
from simsiam.text import printable

PREFIX = "hf://datasets/"
_CONVERTED = "refs/convert/parquet"  # where the Hub keeps Parquet of data sets that have none


def pinned(place: str) -> str:
    """A place with the revision that it has now, a commit. Raises DataError."""
    repo, revision, config = _parts(place)
    if re.fullmatch(r"[0-9a-f]{40}", revision or ""):
        return place
    api, errors = _client()
    try:
        found = api.HfApi().dataset_info(repo, revision=revision)
        if revision is None and not any(file.rfilename.endswith(".parquet") for file in found.siblings or ()):
            found = api.HfApi().dataset_info(repo, revision=_CONVERTED)
        commit = str(found.sha)
    except Exception as error:  # its client's, and those of the libraries below
        raise DataError(f"{printable(place)} cannot be found: {_reason(repo, error, errors)}") from None
    return f"{PREFIX}{repo}@{commit}" + (f"/{config}" if config else "")


def fetched(place: str, cache: Path) -> Path:
    """The folder of a pinned place, with its Parquet files. Nothing is asked of the network once all are there.

    Raises DataError.
    """
    repo, commit, config = _parts(place)
    complete = cache / f"{hashlib.sha256(place.encode()).hexdigest()[:20]}.complete"
    if complete.exists() and (folder := Path(complete.read_text())).is_dir():
        return folder
    api, errors = _client()
    try:
        root = api.snapshot_download(
            repo,
            repo_type="dataset",
            revision=commit,
            cache_dir=cache,
            allow_patterns=[f"{config}/*.parquet" if config else "*.parquet"],
        )
    except Exception as error:
        raise DataError(f"{printable(place)} cannot be fetched: {_reason(repo, error, errors)}") from None
    folder = Path(root, config)
    for file in sorted(folder.rglob("*.parquet")):
        _check(file)
    complete.write_text(str(folder))
    return folder


def _check(file: Path) -> None:
    """Raises DataError unless a file has the checksum by which the Hub knows it: a SHA-256, or Git's of small files."""
    blob = file.resolve()
    content = blob.read_bytes()
    expected = {
        64: lambda: hashlib.sha256(content).hexdigest(),
        40: lambda: hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest(),
    }
    if (made := expected.get(len(blob.name))) and made() != blob.name:
        blob.unlink()
        raise DataError(f"{printable(str(file))} has not the checksum that the Hub says. Give the command again.")


def _parts(place: str) -> tuple[str, str | None, str]:
    """Owner and name, revision if there is one, and the folder of a config, empty for none."""
    match = re.fullmatch(rf"{PREFIX}([\w.-]+/[\w.-]+)(?:@([\w.-]+))?(?:/([\w.-]+))?/?", place)
    if match is None:
        known = f"{PREFIX}OWNER/NAME or {PREFIX}OWNER/NAME/CONFIG"
        raise DataError(f"A data set of the Hub is {known}. Got {printable(place)} instead.")
    return match[1], match[2], match[3] or ""


def _client() -> tuple[Any, Any]:
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ModuleNotFoundError:
        raise DataError(
            f"{PREFIX} needs the package huggingface_hub. Run: pip install 'simsiam-ablations[hub]', on every node."
        ) from None
    return huggingface_hub, errors


def _reason(repo: str, error: Exception, errors: Any) -> str:
    """What went wrong and what to do, without a token."""
    if isinstance(error, errors.GatedRepoError):
        return f"its licence must be accepted on the page of {repo}, by the account of the token in $HF_TOKEN"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"there is no data set {repo}, or it is private: set $HF_TOKEN"
    text = printable(str(error).splitlines()[0] if str(error) else type(error).__name__)
    token = os.environ.get("HF_TOKEN")
    return (text.replace(token, "***") if token else text) + ". Is there a network?"
