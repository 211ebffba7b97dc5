"""The book as a reader sees it: opened from disk in chromium, without a network."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from _book import ROOT, built_book, run_notebooks
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect, sync_playwright

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
QUIET += ["--disable-component-update", "--disable-sync"]
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 400, "height": 800}

pytestmark = [
    pytest.mark.browser,
    pytest.mark.notebook,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="chromium is not installed (apt-get install chromium)"),
]

NOTEBOOK_PAGES = [f"notebooks/{name}" for name in run_notebooks.read_profiles(ROOT)["notebooks"]]
PAGES = ["index", "conventions", "data", *NOTEBOOK_PAGES, "pala_differences", "assumptions", "runs", "api", "api/track"]
PAGES += ["bibliography"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    built_book()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


def open_context(browser: Browser, **options: object) -> tuple[BrowserContext, list[str]]:
    """A context that lets nothing out, and the list of what went wrong in it."""
    context = browser.new_context(**options)  # type: ignore[arg-type]
    wrong: list[str] = []

    def check(route: Route) -> None:
        if route.request.url.startswith(("file:", "data:", "blob:")):
            route.continue_()
        else:
            wrong.append(f"request to {route.request.url}")
            route.abort()

    context.route("**/*", check)
    context.on("console", lambda said: wrong.append(f"console: {said.text}") if said.type == "error" else None)
    context.on("weberror", lambda error: wrong.append(f"script: {error.error}"))
    return context, wrong


def visit(page: Page, name: str) -> None:
    page.goto(f"file://{built_book()}/{name}.html")
    page.wait_for_function("!document.querySelector('.math') || window.MathJax?.startup?.promise")
    page.evaluate("() => window.MathJax?.startup?.promise?.then(() => null)")


@pytest.mark.parametrize(
    ("scheme", "size"),
    [("light", DESK), ("dark", DESK), ("light", PHONE)],
    ids=["light", "dark", "phone"],
)
def test_pages_are_whole(browser: Browser, scheme: str, size: dict[str, int]) -> None:
    context, wrong = open_context(browser, color_scheme=scheme, viewport=size)
    page = context.new_page()
    for name in PAGES:
        visit(page, name)
        found = page.evaluate(
            """async () => {
                const images = [...document.querySelectorAll('article img')];
                await Promise.all(images.map(image => image.decode().catch(() => null)));
                return {
                    theme: document.documentElement.dataset.theme,
                    math: document.querySelectorAll('.math').length,
                    typeset: document.querySelectorAll('.math mjx-container').length,
                    badMath: document.querySelectorAll('mjx-merror, [data-mjx-error]').length,
                    broken: images.filter(image => !image.naturalWidth).map(image => image.src),
                    altered: images.filter(image => getComputedStyle(image).filter !== 'none').map(image => image.src),
                    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
                };
            }"""
        )
        assert found["theme"] == scheme, name
        assert found["math"] == found["typeset"], f"{name}: mathematics left as it was written"
        assert (found["badMath"], found["broken"], found["altered"]) == (0, [], []), name
        assert found["overflow"] <= 0, f"{name} is {found['overflow']} px too wide"
    assert wrong == []
    context.close()


def test_search_finds_a_word(browser: Browser) -> None:
    context, wrong = open_context(browser, viewport=DESK)
    page = context.new_page()
    page.goto(f"file://{built_book()}/search.html?q=gridding")
    expect(page.locator("#search-results li a").first).to_be_visible()
    # From disk a page may not read the others: results come without their summaries, and the console says so.
    assert [what for what in wrong if what.startswith("request")] == []
    context.close()


def test_menu_opens_on_a_phone(browser: Browser) -> None:
    context, wrong = open_context(browser, viewport=PHONE)
    page = context.new_page()
    visit(page, "index")
    link = page.locator(".bd-sidebar-primary a", has_text="Conventions")
    expect(link).not_to_be_in_viewport()
    page.locator("button.primary-toggle:visible").click()
    expect(link).to_be_in_viewport()
    link.click()
    expect(page.locator("article h1")).to_contain_text("Conventions")
    assert wrong == []
    context.close()


def test_solution_opens_on_click(browser: Browser) -> None:
    context, wrong = open_context(browser, viewport=DESK)
    page = context.new_page()
    visit(page, NOTEBOOK_PAGES[0])
    solution = page.locator("article details").first
    assert solution.get_attribute("open") is None
    solution.locator("summary").click()
    assert solution.get_attribute("open") is not None
    assert wrong == []
    context.close()
