"""The page in headless Chromium, where there is one: docs/report.md says how to install it."""

import shutil

import pytest

from ltss_jax import report

sync_api = pytest.importorskip("playwright.sync_api")
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(name="browser", scope="module")
def _browser():
  path = next(filter(None, map(shutil.which, NAMES)), None)
  with sync_api.sync_playwright() as playwright:
    try:
      # In a container there is no sandbox to be had; the page is our own.
      browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
    except sync_api.Error as error:
      pytest.skip(f"no Chromium: {str(error).splitlines()[0]}")
    yield browser
    browser.close()


@pytest.fixture(name="open_page")
def _open_page(browser, workdir, request):
  """Opens the report at a width; fails on errors and on anything fetched."""
  path = report.report(workdir)
  problems, pages = [], []

  def open_page(width):
    page = browser.new_page(viewport={"width": width, "height": 800})
    pages.append(page)
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda r: r.url.startswith("http") and problems.append(r.url))
    page.goto(path.as_uri())
    return page

  yield open_page
  for page in pages:
    page.close()
  assert problems == []


def column(page, index):
  """Texts of a column's visible cells."""
  cells = page.locator(f"#class-table tbody tr:visible > :nth-child({index + 1})")
  return cells.all_inner_texts()


def test_headings_sort_both_ways(open_page):
  page = open_page(1280)
  iou = [float(text) for text in column(page, 1)]
  button = page.get_by_role("button", name="IoU")
  button.click()
  assert [float(text) for text in column(page, 1)] == sorted(iou, reverse=True)
  button.press("Enter")
  assert [float(text) for text in column(page, 1)] == sorted(iou)
  heading = page.get_by_role("columnheader", name="IoU")
  assert heading.get_attribute("aria-sort") == "ascending"
  page.get_by_role("button", name="class", exact=False).first.click()
  names = column(page, 0)
  assert names == sorted(names, key=lambda name: int(name.split()[1]))


def test_filters_show_the_classes_asked_for(open_page):
  page = open_page(1280)
  form = page.locator("form.filters")
  assert form.locator("output").inner_text() == "12 of 12 classes"
  form.get_by_label("Image level").select_option("rare")
  groups = column(page, 6)
  assert groups and set(groups) == {"rare"}
  assert form.locator("output").inner_text() == f"{len(groups)} of 12 classes"
  form.get_by_label("Image level").select_option("")
  form.get_by_label("Name").fill("CLASS 11")
  assert [name.split()[1] for name in column(page, 0)] == ["11"]


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_fits_and_its_text_is_readable(open_page, width):
  page = open_page(width)
  assert page.evaluate("document.documentElement.scrollWidth") <= width
  smallest = page.evaluate(
    """Math.min(...Array.from(document.querySelectorAll("main *"))
      .filter((e) => Array.from(e.childNodes).some((n) => n.nodeType == 3 && n.data.trim()))
      .map((e) => parseFloat(getComputedStyle(e).fontSize)))"""
  )
  assert smallest >= 14  # px
  assert page.evaluate("Array.from(document.images).every((i) => i.naturalWidth > 0)")
  # Whole figures, wide enough for their 13 px text to stay above 11 px.
  widths = page.evaluate("Array.from(document.querySelectorAll('.gallery img'), (i) => i.width)")
  assert min(widths) >= 340
  picture = page.screenshot(full_page=True)
  assert picture.startswith(b"\x89PNG") and len(picture) > 50_000
