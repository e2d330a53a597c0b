"""The HTML page in a browser: no errors, sorted and searched, on a phone, light and dark.

Run by `make test-browser`; it needs Chromium and its driver (Debian: chromium, chromium-driver).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import orthwrap
from tests.support.samples import small_file

webdriver = pytest.importorskip("selenium.webdriver")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and its driver")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    report = orthwrap.apply(small_file(".h5"), dry_run=True, operator=True).report
    first, *rest = report.layers
    evil = replace(first, path="<script>alert(1)</script>")
    replace(report, layers=(evil, *rest)).save(path)
    return path


@pytest.fixture(params=["light", "dark"])
def browser(page: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    scheme = "1" if request.param == "light" else "0"
    for word in ("headless=new", "no-sandbox", f"blink-settings=preferredColorScheme={scheme}"):
        options.add_argument(f"--{word}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    driver.set_window_size(1200, 900)
    driver.get(page.as_uri())
    yield driver
    driver.quit()


def column(browser: Any, index: int) -> list[str]:
    rows = browser.find_elements("css selector", ".kernels tbody tr")
    cells = (row.find_elements("css selector", "td")[index] for row in rows if row.is_displayed())
    return [cell.text.partition("\n")[0] for cell in cells]  # below a name stands why


@pytest.mark.dear
@pytest.mark.slow
def test_it_sorts_and_finds_without_an_error(browser: Any) -> None:
    assert len(column(browser, 0)) == 3
    heads = {e.text: e for e in browser.find_elements("css selector", ".kernels th button")}
    heads["residual"].click()
    rising = [float(text) for text in column(browser, 3)]
    assert rising == sorted(rising)
    heads["residual"].click()
    assert [float(text) for text in column(browser, 3)] == sorted(rising, reverse=True)
    heads["layer"].click()
    names = column(browser, 0)
    assert names == sorted(names, key=str.lower)
    find = browser.find_element("css selector", ".find input")
    find.send_keys("ALERT(1)")
    assert column(browser, 0) == ["<script>alert(1)</script>"]
    assert browser.find_element("css selector", ".find output").text == "1 of 3"
    assert browser.get_log("browser") == []


@pytest.mark.dear
@pytest.mark.parametrize("width", [400, 1200])
def test_it_fits_the_screen(browser: Any, width: int) -> None:
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    whole, seen = browser.execute_script(
        "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    )
    assert whole <= seen
    tables = "return [...document.querySelectorAll('.wide')]"  # what is cut off, none may miss
    assert browser.execute_script(f"{tables}.filter(e => e.scrollWidth > e.clientWidth)") == []
    assert browser.get_log("browser") == []


@pytest.mark.dear
def test_words_stand_out_from_the_page(browser: Any) -> None:
    """By the contrast of WCAG, 4.5 to 1."""
    style = "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]"
    ink, paper = map(luminance, browser.execute_script(style))
    assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) > 4.5


def luminance(colour: str) -> float:
    parts = colour[colour.index("(") + 1 : -1].split(",")[:3]
    linear = [
        c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4
        for c in (int(part) / 255 for part in parts)
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
