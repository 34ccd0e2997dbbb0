"""The page of an uncertainty, opened in headless Chromium: what is read out under the pointer."""

from __future__ import annotations

import io
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from equipoise.assessment.page import page, pictures, reading_pictures
from equipoise.assessment.reading import Reading

SIZE = 8


def reading():
    rng = np.random.default_rng(0)
    value = np.linspace(-1000, 900, SIZE * SIZE).reshape(SIZE, SIZE)
    std = 5 + 90 * rng.random((SIZE, SIZE))
    return Reading(
        value, std, value - 2 * std, value + 2 * std, 0.9, "HU", 0.9 * value, 0.1 * value
    )


def test_numbers_survive_packing():
    made = reading()
    for name in ("value", "std", "lower", "upper"):
        packed = made.as_json()[name]
        import base64

        numbers = np.frombuffer(base64.b64decode(packed["data"]), "<u2").reshape(SIZE, SIZE)
        exact = getattr(made, name)
        step = np.ptp(exact) / 65535
        assert np.abs(packed["low"] + packed["step"] * numbers - exact).max() <= 0.51 * step


def test_a_constant_image_and_no_deviation():
    flat = np.full((4, 4), 3.0)
    made = Reading(flat, 0 * flat, flat, flat, 0.9)
    assert made.as_json()["value"]["low"] == 3.0
    assert len(made.panels()) == 3


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
in_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="headless Chromium is not installed (apt-get install chromium)"
)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def opened(browser, path):
    errors: list[str] = []
    tab = browser.new_page(viewport={"width": 1200, "height": 1000})
    tab.on("pageerror", lambda e: errors.append(str(e)))
    tab.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    tab.goto(path.as_uri())
    tab.wait_for_function("document.getElementById('says').textContent !== ''")
    assert errors == []
    return tab


def point_at(tab, row, column):
    box = tab.locator("#canvas").bounding_box()
    x = box["x"] + box["width"] * (column + 0.5) / SIZE
    tab.mouse.move(x, box["y"] + box["height"] * (row + 0.5) / SIZE)
    return tab.locator("#reads").text_content()


def numbers_in(text):
    return [float(n) for n in re.findall(r"-?\d+(?:\.\d+)?", text.replace("−", "-"))]


@in_browser
def test_reads_value_and_deviation_in_native_units(browser, tmp_path):
    made = reading()
    viewer = reading_pictures([made, made], ["a", "b"])
    page(tmp_path / "page.html", "How sure?", ["In words."], [], viewer=viewer)
    tab = opened(browser, tmp_path / "page.html")
    for row, column in ((0, 0), (3, 5), (7, 7)):
        text = point_at(tab, row, column)
        assert "HU" in text
        place, found = numbers_in(text)[:2], numbers_in(text)[2:]
        assert place == [row, column]
        value, std, level, lower, upper = found
        assert value == pytest.approx(made.value[row, column], abs=0.6)
        assert std == pytest.approx(made.std[row, column], abs=0.6)
        assert level == 90
        assert lower == pytest.approx(made.lower[row, column], abs=0.6)
        assert upper == pytest.approx(made.upper[row, column], abs=0.6)
    names = tab.locator("#right option").all_text_contents()
    assert names[0] == "Reconstruction"
    assert any(name.startswith("± deviation, white is") and "HU" in name for name in names)
    before = np.array(Image.open(io.BytesIO(tab.locator("#second").screenshot())))
    tab.select_option("#right", str(names.index("Upper 90% bound")))
    tab.wait_for_function("document.getElementById('says').textContent.includes('Upper')")
    after = np.array(Image.open(io.BytesIO(tab.locator("#second").screenshot())))
    assert (before != after).any()
    assert not tab.locator("#show").is_visible()  # no truth, no error map
    tab.close()


@in_browser
def test_beside_methods_and_truth(browser, tmp_path):
    """The page opens on the method that it is about; its deviation is a panel that stays one while
    errors are shown."""
    import torch

    truth = torch.rand(1, 1, SIZE, SIZE)
    viewer = pictures({"FBP": truth, "Equipoise": truth}, truth, ["a"], readings=[reading()])
    page(tmp_path / "page.html", "t", [], [], viewer=viewer)
    tab = opened(browser, tmp_path / "page.html")
    assert tab.locator("#right option:checked").text_content() == "Equipoise"
    assert "±" in point_at(tab, 2, 2)
    tab.select_option("#show", "error")
    tab.close()
