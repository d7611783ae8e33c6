"""Lines of text, CSV rows and JSON objects of a file, each with its line number; errors name file and line."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from traces.errors import InputError
from traces.io import read_bytes


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Line number (from 1) and text of each line, without its end; InputError where it is not UTF-8."""
    content = read_bytes(path).removeprefix(b"\xef\xbb\xbf")  # byte order mark, as spreadsheets write
    for number, line in enumerate(content.split(b"\n"), start=1):
        try:
            yield number, line.decode("utf-8").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise InputError(
                f"{path}: line {number}: byte 0x{line[error.start]:02x} at position {error.start} is not UTF-8: "
                f"convert the file to UTF-8 (a compressed file: decompress it first)"
            ) from error


def json_objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of each non-blank line of a JSON Lines file."""
    for number, line in text_lines(path):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}: line {number}: is not JSON ({error}): one object per line is needed") from error
        if not isinstance(value, dict):
            raise InputError(f"{path}: line {number}: is {type(value).__name__}, not a JSON object: needs {{...}}")
        yield number, value


def csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and cells by header name of each row of a CSV file with a header line."""
    header: list[str] = []
    reader = csv.reader((line for _, line in text_lines(path)), strict=True)
    try:
        for cells in reader:
            if not cells:
                continue
            if not header:
                header = [cell.strip() for cell in cells]
                repeated = {name for name in header if header.count(name) > 1}
                if repeated:
                    raise InputError(f"{path}: line 1: column '{min(repeated)}' appears twice: rename one of them")
                continue
            if len(cells) != len(header):
                raise InputError(
                    f"{path}: line {reader.line_num}: {len(cells)} cells, but the header has {len(header)}: "
                    f"complete the row, or quote cells that contain commas"
                )
            yield reader.line_num, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise InputError(f"{path}: line {reader.line_num}: is not CSV ({error}): correct the row") from error


def cell(row: dict[str, Any], name: str, path: Path, line: int) -> Any:
    """The row's value under `name`; InputError that lists what the row has instead."""
    if name not in row:
        found = ", ".join(f"'{key}'" for key in row)[:200] or "nothing"
        raise InputError(f"{path}: line {line}: no '{name}'; found {found}: check the format that was given")
    return row[name]
