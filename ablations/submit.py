"""Submit run.py to a running Ray from this checkout: python ablations/submit.py --table batch_size --recipe imagenet

It is `ray job submit --working-dir`, after a look at what that would upload: Ray refuses too much only when it has
packed and sent it. The address is Ray's own to find: RAY_API_SERVER_ADDRESS, RAY_ADDRESS, or this machine.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if not __package__:  # started as a script, the path begins with ablations/ itself and not with the repository
    sys.path[0] = str(ROOT)

from ablations import asked as named  # noqa: E402
from ablations import catalogue, options  # noqa: E402
from ablations.table import UserError  # noqa: E402
from ablations.terminal import say  # noqa: E402

_LARGEST = 5  # entries named to someone who would upload too much


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: what run.py takes. Returns 2 where nothing was submitted, else the job's exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(arguments):
        parser = options.parser()
        parser.prog, parser.description = "ablations/submit.py", "Submit ablations/run.py, with what it takes, to Ray."
        parser.print_help()
        return 0
    asked = options.parser().parse_args(arguments)  # what is no command is said before anything is packed
    try:
        table = {asked.table: named.text(asked.table)} if asked.table and named.is_file(asked.table) else {}
        for name, text in table.items():
            catalogue.of_file(name, text)
    except UserError as error:
        say(f"error: {error}", error=True)
        return 2
    if complaint := too_much(ROOT):
        say(f"error: {complaint}", error=True)
        return 2
    ray = shutil.which("ray", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if ray is None:
        say("error: the command `ray` is not installed. Run: pip install -e .", error=True)
        return 2
    if complaint := refused():
        say(f"error: {complaint}", error=True)
        return 2
    its = ["--runtime-env-json", json.dumps({"env_vars": {named.FILES: json.dumps(table)}})] if table else []
    command = ["job", "submit", "--working-dir", str(ROOT), *its, "--", "python", "ablations/run.py", *arguments]
    return os.spawnv(os.P_WAIT, ray, [ray, *command])


def refused() -> str | None:
    """Why no job can be submitted to the Ray that its command would find, with what to do; None if it takes jobs."""
    from ray.dashboard.utils import get_address_for_submission_client
    from ray.exceptions import AuthenticationError, RayError
    from ray.job_submission import JobSubmissionClient

    address = os.environ.get("RAY_API_SERVER_ADDRESS") or os.environ.get("RAY_ADDRESS") or "this machine"
    try:
        address = get_address_for_submission_client(None)
        JobSubmissionClient(address)
    except AuthenticationError as error:
        said = str(error).partition("\n")[0]
        return (
            f"The Ray at {address} refuses the token: {said}. Set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to the token "
            "of that cluster."
        )
    except (RayError, ConnectionError, RuntimeError, ValueError, OSError) as error:
        said = str(error).partition("\n")[0].rstrip(".")
        return f"No Ray takes jobs at {address}: {said}. Start one, or set RAY_API_SERVER_ADDRESS."
    return None


def too_much(root: Path, limit: int | None = None) -> str | None:
    """Why a folder cannot be uploaded, with what to exclude; None if it can.

    Args:
        limit: bytes; None for Ray's own.
    """
    from ray._private.runtime_env import packaging

    sizes: Counter[Path] = Counter()

    def add(path: Path) -> None:
        if path.is_file():
            top = path.relative_to(root).parts
            sizes[Path(*top[:2]) if len(top) > 2 else Path(*top)] += path.stat().st_size

    packaging._dir_travel(root, [], add, include_gitignore=True)
    limit = packaging.GCS_STORAGE_MAX_SIZE if limit is None else limit
    if sizes.total() < limit:
        return None
    largest = ", ".join(f"{path} ({size / 1e6:.0f} MB)" for path, size in sizes.most_common(_LARGEST))
    return (
        f"{root} would upload {sizes.total() / 1e6:.0f} MB, and Ray takes less than {limit / 1e6:.0f} MB. Name what is "
        f"not needed in .rayignore. The largest: {largest}."
    )


if __name__ == "__main__":
    sys.exit(main())
