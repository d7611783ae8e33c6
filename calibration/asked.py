"""A folder that goes on with what was asked for when it was made, and with nothing else."""

import json
from pathlib import Path
from typing import Any

from traces.atomic import replacing
from traces.errors import InputError


def open_folder(path: Path, asked: dict[str, Any], what: str, **besides: Any) -> None:
    """Write into `path`, in a folder made for it, what was asked for; or check that it says so already.

    what: the folder holds; besides: is written too and may differ. Raises InputError that says what differs.
    """
    folder, mine = path.parent, json.loads(json.dumps(asked))
    if path.exists():
        found = {key: value for key, value in read_json(path).items() if key not in besides}
        if differing := [key for key in {**mine, **found} if mine.get(key) != found.get(key)]:
            told = "; ".join(f"{key} {found.get(key)!s:.60} there, {mine.get(key)!s:.60} here" for key in differing)
            raise InputError(
                f"{folder}: holds another {what} ({told}): give the same settings, choose another --out, or delete the folder"
            )
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}): choose another --out") from error
    with replacing(path) as file:
        file.write(json.dumps(mine | besides, indent=1).encode())


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; InputError where there is none."""
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}): give the folder that it stands in") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not JSON ({error}): delete the folder and start again") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: is not an object: delete the folder and start again")
    return found
