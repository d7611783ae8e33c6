"""A percent file, executed: its cells, what each printed and drew, and the notebook that shows both."""

import base64
import contextlib
import io
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import matplotlib as mpl
import nbformat
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

FOLDER = Path(__file__).parents[2] / "notebooks"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py"))
COLOURS = 64
MARKER = re.compile(r"^# %%( \[markdown\])?\n", re.MULTILINE)


@dataclass
class Cell:
    """markdown: whether it is text, not code; printed, pictures: what code put out, pictures as PNG."""

    markdown: bool
    source: str
    printed: str = ""
    pictures: list[bytes] = field(default_factory=list)


def cells_of(path: Path) -> list[Cell]:
    """The cells of a percent file: text is a string, or comments."""
    _, *parts = MARKER.split(path.read_text("utf-8"))
    return [
        Cell(bool(marker), _text(body) if marker else body.strip("\n"))
        for marker, body in zip(parts[::2], parts[1::2], strict=True)
    ]


def _text(body: str) -> str:
    body = body.strip("\n")
    if body.startswith('"""'):
        return body.strip('"').strip("\n")
    return "\n".join(line.removeprefix("#").removeprefix(" ") for line in body.split("\n"))


def execute(path: Path) -> tuple[list[Cell], dict[str, Any]]:
    """Run the code cells from top to bottom in one namespace, returned, too; each cell's figures are closed behind it."""
    cells, names = cells_of(path), {"__name__": "__main__", "__file__": str(path)}
    backend = mpl.get_backend()
    with patch.object(sys, "argv", [str(path)]), mpl.rc_context():
        plt.switch_backend("Agg")
        for number, cell in enumerate(cells):
            if not cell.markdown:
                with contextlib.redirect_stdout(io.StringIO()) as printed:
                    exec(compile(cell.source, f"{path.name}, cell {number}", "exec"), names)
                cell.printed = printed.getvalue()
                cell.pictures = [_png(plt.figure(figure)) for figure in plt.get_fignums()]
                plt.close("all")
        plt.switch_backend(backend)
    return cells, names


def _png(figure: Figure) -> bytes:
    """A picture of few colours, as small as it can be: it is kept in the repository."""
    drawn, file = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png")
    Image.open(drawn).convert("RGB").quantize(COLOURS).save(file, format="png", optimize=True)
    return file.getvalue()


def notebook(cells: list[Cell]) -> str:
    """The JSON of a notebook: no ids, times or versions that change from one machine to the next."""
    v4 = nbformat.v4
    shown = []
    for number, cell in enumerate(cells):
        if cell.markdown:
            shown.append(v4.new_markdown_cell(cell.source, id=f"cell-{number}"))
            continue
        outputs = [v4.new_output("stream", name="stdout", text=cell.printed)] if cell.printed else []
        outputs += [
            v4.new_output("display_data", data={"image/png": base64.b64encode(png).decode(), "text/plain": "<Figure>"})
            for png in cell.pictures
        ]
        shown.append(v4.new_code_cell(cell.source, id=f"cell-{number}", outputs=outputs))
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    made = v4.new_notebook(cells=shown, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})
    nbformat.validate(made)
    return str(nbformat.writes(made)) + "\n"
