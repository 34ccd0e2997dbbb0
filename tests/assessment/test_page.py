"""The report page, opened in headless Chromium: the slider moves, the table sorts, the pictures
hold something."""

from __future__ import annotations

import io
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import equipoise as eq
from equipoise.assessment.figures import grid, save_png
from equipoise.assessment.page import page, pictures
from equipoise.assessment.table import Column, Missing, Row, Table, Value
from equipoise.data.item import Units

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="headless Chromium is not installed (apt-get install chromium)"
)


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    truth = eq.phantoms(2, 32)
    rng = torch.Generator().manual_seed(0)
    images = {
        "FBP": truth + 0.1 * torch.randn(truth.shape, generator=rng),
        "Equipoise": 0.9 * truth,
    }
    columns = [Column("psnr", "PSNR (dB)", ".2f", ".2f")]
    scores = {"FBP": Value(9.5, 0.1), "Equipoise": Value(33.1, 0.2), "TV": Value(21.0, 0.3)}
    rows = [Row(title, title, {"psnr": score}) for title, score in scores.items()]
    rows.append(Row("lost", "Lost", missing=[Missing("it fell over " * 20, failed=True)]))
    table = Table("method", columns, rows)
    png = save_png(grid(truth, images, truth, ["a", "b"]), path.with_suffix(".png"))
    page(
        path,
        "A <test>",
        ["In words."],
        [(png, "every method")],
        table=table,
        conventions="range 1",
        config="seed: 0",
        viewer=pictures(images, truth, ["a", "b"], units=[Units(2000.0, -1000.0, name="HU")] * 2),
    )
    return path


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, page_file):
    errors: list[str] = []
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: errors.append(str(e)))
    page.on(
        "request",
        lambda r: errors.append(r.url) if not r.url.startswith(("file:", "data:")) else None,
    )
    page.goto(page_file.as_uri())
    page.wait_for_function("document.getElementById('says').textContent !== ''")
    yield page
    page.close()
    assert errors == []


def pixels(element) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(element.screenshot())).convert("RGB")).astype(float)


def column(page, k: int) -> list[str]:
    return page.locator(f"#scores tbody tr td:nth-child({k})").all_inner_texts()


def test_the_table_sorts_by_number(opened):
    button = opened.locator("#scores th:nth-child(2) button")
    button.click()
    assert column(opened, 1) == ["Equipoise", "TV", "FBP", "Lost"]
    button.click()
    assert column(opened, 1) == ["FBP", "TV", "Equipoise", "Lost"]
    assert opened.locator("#scores th:nth-child(2)").get_attribute("aria-sort") == "ascending"


def test_two_panels_use_the_whole_width(opened):
    left, right = opened.locator("#canvas"), opened.locator("#second")
    assert np.abs(pixels(left) - pixels(right)).mean() > 1
    assert not opened.locator("#split").is_visible()
    opened.set_viewport_size({"width": 1000, "height": 2000})
    opened.wait_for_function("document.getElementById('canvas').clientWidth < 500")
    widths = [each.bounding_box()["width"] for each in (left, right)]
    assert widths[0] == widths[1]
    assert 0.85 * 1000 < sum(widths) < 1000


@pytest.mark.parametrize("place", ["#canvas", "#second"])
def test_values_of_both_and_of_the_truth_in_units_of_the_file(opened, place):
    truth = eq.phantoms(2, 32)
    opened.locator(place).scroll_into_view_if_needed()
    box = opened.locator(place).bounding_box()
    row, column = 14, 20
    opened.mouse.move(
        box["x"] + box["width"] * (column + 0.5) / 32, box["y"] + box["height"] * (row + 0.5) / 32
    )
    said = opened.locator("#reads").inner_text().replace("−", "-")
    exact = float(truth[0, 0, row, column])
    assert said.startswith(f"row {row}, column {column}: FBP ")
    assert f"Equipoise {2000 * 0.9 * exact - 1000:.0f} HU" in said
    assert f"truth {2000 * exact - 1000:.0f} HU" in said


def test_the_divider_follows_the_pointer(opened):
    opened.locator("#layout").select_option("divider")
    opened.locator("#canvas").scroll_into_view_if_needed()
    box = opened.locator("#canvas").bounding_box()
    opened.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    opened.mouse.down()
    opened.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2)
    opened.mouse.up()
    assert float(opened.locator("#split").input_value()) == pytest.approx(25, abs=4)


def test_the_slider_divides_two_images(opened):
    opened.locator("#layout").select_option("divider")
    opened.locator("#zoom").fill("12")
    canvas = opened.locator("#canvas")
    opened.locator("#split").fill("100")
    left = pixels(canvas)
    opened.locator("#split").fill("0")
    right = pixels(canvas)
    opened.locator("#split").fill("50")
    half = pixels(canvas)
    middle = left.shape[1] // 2
    assert left.std() > 10
    assert right.std() > 10
    assert np.abs(left - right).mean() > 1
    assert np.abs(half - left)[:, : middle - 16].max() == 0
    assert np.abs(half - right)[:, middle + 16 :].max() == 0


def test_window_zoom_error_map_and_words(opened):
    canvas = opened.locator("#canvas")
    opened.locator("#zoom").fill("5")
    before, width = pixels(canvas), canvas.bounding_box()["width"]
    opened.locator("#high").fill("0.5")
    assert pixels(canvas).mean() > before.mean() + 5
    opened.locator("#zoom").fill("8")
    assert canvas.bounding_box()["width"] == pytest.approx(width * 8 / 5)
    opened.locator("#show").select_option("error")
    assert np.abs(pixels(canvas)[..., 0] - pixels(canvas)[..., 2]).max() > 20  # in colour
    opened.locator("#image").select_option("1")
    opened.wait_for_function("document.getElementById('says').textContent.startsWith('b:')")
    assert "FBP" in opened.locator("#says").inner_text()
    assert "dB" in canvas.get_attribute("aria-label")


def test_panels_of_other_sizes_show_the_same_places(browser, tmp_path):
    """An image beside bounds of its own frame; and values beyond what the page holds say so."""
    truth = eq.phantoms(1, 32)
    truth[0, 0, 0, 0], truth[0, 0, 31, 31] = 1.7, -0.8
    viewer = pictures({"Equipoise": truth}, truth, ["a"])
    (smaller,) = pictures({"Half": truth[..., ::2, ::2]}, None, ["a"])[0]["panels"]
    viewer[0]["panels"].append({**smaller, "extra": True})
    path = tmp_path / "page.html"
    page(path, "t", [], [], viewer=viewer)
    tab = browser.new_page(viewport={"width": 1200, "height": 900})
    tab.goto(path.as_uri())
    tab.wait_for_function("document.getElementById('says').textContent !== ''")
    tab.locator("#right").select_option("2")
    tab.wait_for_function("document.getElementById('says').textContent.includes('Half')")
    left, right = (pixels(tab.locator(place)) for place in ("#canvas", "#second"))
    assert left.shape == right.shape
    assert np.corrcoef(left.ravel(), right.ravel())[0, 1] > 0.8
    box = tab.locator("#canvas").bounding_box()
    tab.mouse.move(box["x"] + 3, box["y"] + 3)
    assert "≥ 1.5" in tab.locator("#reads").inner_text()
    tab.mouse.move(box["x"] + box["width"] - 3, box["y"] + box["height"] - 3)
    assert "≤ −0.5" in tab.locator("#reads").inner_text()
    tab.close()


def test_figures_are_not_empty_and_described(opened):
    for image in opened.locator("figure img").all():
        assert image.get_attribute("alt")
        assert pixels(image).std() > 5  # a picture of one colour would be 0


def test_on_a_phone_in_the_dark_and_on_paper(browser, page_file):
    page = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme="dark")
    page.goto(page_file.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert pixels(page.locator("body")).mean() < 128
    page.emulate_media(media="print")
    assert not page.locator("#viewer").is_visible()
    page.close()
