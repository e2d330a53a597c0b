"""Makes docs/images: what `make demo` left, on a screen, in a notebook, and as a page.

Needs Chromium (Debian: chromium). Run with `make pictures`.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.terminal_theme import MONOKAI

from orthwrap.report.as_html import text_of
from orthwrap.report.notebook import html_of
from orthwrap.report.record import Report
from orthwrap.report.terminal import renderable

IMAGES = Path(__file__).parent / "images"
COLUMNS = 100
CELL = """<!doctype html><meta charset="utf-8">
<style>
body {{margin: 0; padding: 18px 24px; background: #fff; color: #1f2328;
  font: 14px system-ui, "Segoe UI", Roboto, sans-serif;}}
.in {{display: flex; gap: 12px; margin-bottom: 12px;}}
.in span {{color: #2f5fd0; font: 13px ui-monospace, "DejaVu Sans Mono", monospace;}}
.in pre {{margin: 0; flex: 1; padding: 8px 12px; background: #f5f6f8; border: 1px solid #e3e6ea;
  font: 13px ui-monospace, "DejaVu Sans Mono", monospace;}}
</style>
<div class="in"><span>[1]:</span><pre>result = orthwrap.apply(model, data=(x, y), epochs=20)
result.report</pre></div>{output}"""


def screenshot(chromium: str, html: str, target: Path, width: int, height: int) -> None:
    """What a browser shows of a page."""
    with TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        page.write_text(html, encoding="utf-8")
        words = ["--headless=new", "--no-sandbox", "--hide-scrollbars", "--disable-gpu"]
        words += [f"--window-size={width},{height}", f"--screenshot={target}", page.as_uri()]
        subprocess.run([chromium, *words], check=True, capture_output=True)


def main() -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("error: no chromium here: apt install chromium")
    report = Report.from_json(json.loads(Path("demo/report.json").read_text(encoding="utf-8")))
    IMAGES.mkdir(exist_ok=True)
    console = Console(width=COLUMNS, record=True, file=io.StringIO(), force_terminal=True)
    console.print(renderable(report, COLUMNS, choices=False))
    title = "orthwrap apply demo/model.h5 --target all-conv --data demo/digits.npz --goal 10x"
    svg = console.export_svg(title=title, theme=MONOKAI, unique_id="orthwrap")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)  # which would be fetched
    svg = re.sub(r"\s*<!--.*?-->", "", svg, flags=re.DOTALL)
    (IMAGES / "terminal.svg").write_text(svg, encoding="utf-8")
    screenshot(chromium, CELL.format(output=html_of(report)), IMAGES / "notebook.png", 1000, 420)
    screenshot(chromium, text_of(report), IMAGES / "page.png", 1200, 1250)


if __name__ == "__main__":
    main()
