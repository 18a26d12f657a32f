"""Which Ray a run is on: one that its user has started, or one of its own, that nobody else on the machine gets at."""

from __future__ import annotations

import atexit
import contextlib
import functools
import grp
import json
import logging
import os
import pwd
import secrets
import shutil
import signal
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray._common.utils import get_ray_address_file

import ablations
import simsiam
from ablations import provenance
from ablations.launch import ENVIRONMENT
from ablations.table import UserError
from ablations.terminal import say

LOCAL, AUTO = "local", "auto"  # what RAY_ADDRESS may say besides an address


@contextlib.contextmanager
def connected() -> Iterator[None]:
    """Be on the cluster that RAY_ADDRESS names or that this user has started here, else on one of the run's own.

    All nodes get the code as it was when the command began: what is edited while a table runs changes no trial.
    Raises UserError, and OSError if Ray does not start.
    """
    address = _address(os.environ.get("RAY_ADDRESS", ""))
    options: dict[str, Any] = {"runtime_env": _environment(), "logging_level": logging.ERROR, "log_to_driver": False}
    with contextlib.ExitStack() as stack:
        if address == LOCAL:
            # Ray lets all users write in its folder, so it is within one that nobody else gets into.
            say("Starting Ray on this machine.")
            options["include_dashboard"] = False  # it costs a second, and few have the token that opens it
            options["_temp_dir"] = f"{stack.enter_context(_folder())}/r"
            _have_a_token()
        else:
            _keep_the_token()
        stack.callback(ray.shutdown)
        try:
            ray.init(address, **options)
        except ValueError as error:  # an address that is none, as the dashboard's, http://...
            raise UserError(f"Ray does not start with RAY_ADDRESS={address}: {error}") from None
        except ConnectionError as error:
            raise UserError(f"No Ray was found with RAY_ADDRESS={address}: {error}. Start one, or unset it.") from None
        except OSError as error:
            if "AF_UNIX" not in str(error):
                raise
            place = Path(options["_temp_dir"]).parent.parent
            raise UserError(
                f"Ray's sockets lie in its temporary folder, whose path must be short. Got {place} instead: "
                "set RAY_TMPDIR to a shorter one, as /tmp."
            ) from None
        except Exception as error:  # Ray has no kind for processes of its own that do not start in time
            hint = " On a busy machine try again; --launcher local needs no Ray" if address == LOCAL else ""
            raise OSError(f"Ray did not start: {str(error).rstrip('.')}.{hint}") from error
        # `ray job stop` sends SIGTERM. It is to end a run as Ctrl-C does; ray.init has just set a handler that dies.
        signal.signal(signal.SIGTERM, _interrupt)
        say(_which(address))
        yield


def _address(asked: str) -> str:
    """Where Ray is, or `local` for one of the run's own. Raises UserError where nothing listens.

    Without an address Ray would join whatever a file says that anyone on the machine may have written, send it the
    token and unpickle what it answers. Here the file must be the user's own.
    """
    if asked not in ("", AUTO):
        if complaint := _unreachable(asked):
            raise UserError(f"No Ray listens at RAY_ADDRESS={asked}: {complaint}. Start one, or unset it.")
        return asked
    file = Path(get_ray_address_file(None))
    found, strange = _own_text(file)
    if found and not _unreachable(found):
        return found
    why = (
        f"{file} is not a file of yours alone, and is not followed: set RAY_ADDRESS to go there"
        if strange
        else f"{file} names none that answers"
    )
    if asked == AUTO:
        raise UserError(f"No Ray was found with RAY_ADDRESS={AUTO}: {why}. Start one, or unset it.")
    if strange:
        say(f"Ray: {why}.")
    return LOCAL


def _own_text(file: Path) -> tuple[str, bool]:
    """What a file says, if this user alone can have written it; and whether it is there and somebody else can."""
    try:
        opened = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return "", False
    except OSError:  # a link, or closed to us
        return "", True
    with os.fdopen(opened, errors="replace") as content:
        about = os.fstat(opened)
        others = stat.S_IWOTH if _is_private(about.st_gid) else stat.S_IWGRP | stat.S_IWOTH
        shared = about.st_mode & others or about.st_nlink > 1
        if not stat.S_ISREG(about.st_mode) or about.st_uid != os.getuid() or shared:
            return "", True
        return content.read(1000).strip(), False


def _is_private(group: int) -> bool:
    """Whether a group is this user's own, of the same name, as many systems make it; files are then open to it."""
    try:
        return grp.getgrgid(group).gr_name == pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container need not know its user
        return False


def _unreachable(address: str) -> str:
    """Why nothing answers at HOST:PORT; empty if something does. ray.init would wait for minutes without a word."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and "/" not in host:
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            return str(error)
    return ""


@contextlib.contextmanager
def _folder() -> Iterator[str]:
    """A folder for a Ray of this run's own. Ray's usual one is everybody's to write, and our code is unpacked there."""
    folder = tempfile.mkdtemp(prefix="ray-", dir=os.environ.get("RAY_TMPDIR"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _have_a_token() -> None:
    """A Ray of this run's own has a token of its own, in no file: Ray would write one that all can read."""
    if not any(f"RAY_AUTH_{name}" in os.environ for name in ("TOKEN", "TOKEN_PATH")):
        os.environ["RAY_AUTH_TOKEN"] = _token()


@functools.cache
def _token() -> str:
    """One a process: Ray keeps the first that it has seen."""
    return secrets.token_hex(32)


def _keep_the_token() -> None:
    """Close the file of a token to others. Ray makes it so that all users of the machine can read it."""
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    if "RAY_AUTH_TOKEN" in os.environ or not file.exists() or not file.stat().st_mode & 0o077:
        return
    try:
        file.chmod(0o600)
    except OSError as error:
        raise UserError(
            f"Others can read the token of Ray in {file}, and so run code as you, and it cannot be closed to them: "
            f"{error.strerror}. Put it into a file of yours with mode 600, and name that in RAY_AUTH_TOKEN_PATH."
        ) from None
    say(
        f"Others could read the token of Ray in {file}; now they cannot. Who has read it can run code as you: remove "
        "it, and start Ray again with another."
    )


def _environment() -> dict[str, Any]:
    """What the nodes get: the code, and the variables that Ray and its trials are told by."""
    variables = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    if cache := os.environ.get("SIMSIAM_CACHE"):
        variables["SIMSIAM_CACHE"] = os.path.abspath(cache)  # workers stand in another folder
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    given = job.get("runtime_env", {})
    # What the job names goes to all nodes; to name it again is an error, whatever its value.
    environment: dict[str, Any] = {
        "env_vars": {name: value for name, value in variables.items() if name not in given.get("env_vars", {})}
    }
    if not given.get("working_dir"):
        environment["working_dir"] = _code()
    elif Path.cwd() not in Path(ablations.__file__).parents:  # a folder of the user's own: the code is not in it
        environment["py_modules"] = [f"{_code()}/{package.__name__}" for package in (simsiam, ablations)]
    return environment


@functools.cache
def _code() -> str:
    """A copy of the code as it was when the command began, until it ends. Raises UserError if it is another by now."""
    copy = Path(tempfile.mkdtemp(prefix="simsiam-"))
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    packages = [copy / package.__name__ for package in (simsiam, ablations)]
    for package, to in zip((simsiam, ablations), packages, strict=True):
        shutil.copytree(package.__path__[0], to, ignore=shutil.ignore_patterns("__pycache__"))
    if provenance.digest(packages[0], packages[1]) != provenance.sources():
        raise UserError("The code was edited while the command began. Give the command again.")
    return str(copy)


def _interrupt(*_: Any) -> None:
    # Not by way of SIGINT: a shell starts what it puts into the background with SIGINT ignored.
    raise KeyboardInterrupt


def _which(address: str) -> str:
    """Which Ray this is, and what of it is free."""
    whose = "started here" if address == LOCAL else f"joined at {ray.get_runtime_context().gcs_address}"
    return f"Ray: {whose}; free: {free()}."


def free() -> str:
    """What of the Ray that this run is on is free, of how much."""
    all_of_it, now = ray.cluster_resources(), ray.available_resources()
    kinds = [kind for kind in ("CPU", "GPU") if all_of_it.get(kind)]
    return ", ".join(f"{now.get(kind, 0):g} of {all_of_it[kind]:g} {kind}s" for kind in kinds) or "no CPU"
