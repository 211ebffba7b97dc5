"""The book as a reader sees it: opened from disk in chromium, without a network."""

from __future__ import annotations

import html
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from _book import ROOT, built_book, pages, run_notebooks
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), "/usr/bin/chromium")
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
]
QUIET += ["--disable-component-update", "--disable-sync"]
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 400, "height": 800}

pytestmark = [
    pytest.mark.browser,
    pytest.mark.notebook,
    pytest.mark.skipif(
        not Path(CHROMIUM).exists() and "GITHUB_ACTIONS" not in os.environ,  # there it must be
        reason="chromium is not installed (apt-get install chromium)",
    ),
]

NOTEBOOK_PAGES = [f"notebooks/{name}" for name in run_notebooks.read_profiles(ROOT)["notebooks"]]


def chapters() -> list[str]:
    """The pages of the table of contents, those of the rooms left out."""
    toc = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text(encoding="utf-8"))
    return [
        toc["root"],
        *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"]),
    ]


def other_pages() -> list[str]:
    """The reference of each room, the listings of code and the index."""
    names = [page.relative_to(built_book()).with_suffix("").as_posix() for page in pages()]
    return [name for name in names if name not in ("search", *chapters())]


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
    context.on(
        "console",
        lambda said: wrong.append(f"console: {said.text}") if said.type == "error" else None,
    )
    context.on("weberror", lambda error: wrong.append(f"script: {error.error}"))
    return context, wrong


def visit(page: Page, name: str) -> None:
    page.goto(f"file://{built_book()}/{name}.html")
    page.wait_for_function("!document.querySelector('.math') || window.MathJax?.startup?.promise")
    page.evaluate("() => window.MathJax?.startup?.promise?.then(() => null)")


LOOK = """async () => {
    const images = [...document.querySelectorAll('article img')];
    await Promise.all(images.map(image => image.decode().catch(() => null)));
    return {
        rawMath: document.querySelectorAll('.math').length
            - document.querySelectorAll('.math mjx-container').length,
        badMath: document.querySelectorAll('mjx-merror, [data-mjx-error]').length,
        broken: images.filter(image => !image.naturalWidth).map(image => image.src),
        altered: images.filter(image => getComputedStyle(image).filter !== 'none')
            .map(image => image.src),
        tooWide: Math.max(
            0, document.documentElement.scrollWidth - document.documentElement.clientWidth),
    };
}"""


def look(page: Page, scheme: str, size: dict[str, int]) -> dict[str, Any]:
    """What is wrong with the open page in one scheme, which it takes from the system, and width."""
    page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
    page.set_viewport_size(size)  # type: ignore[arg-type]
    page.wait_for_function(
        "scheme => document.documentElement.dataset.theme === scheme", arg=scheme
    )
    return {what: value for what, value in page.evaluate(LOOK).items() if value}


def walk(browser: Browser, names: list[str]) -> None:
    context, wrong = open_context(browser, color_scheme="light", viewport=DESK)
    page = context.new_page()
    found = []
    for name in names:
        visit(page, name)
        for scheme, size in (("light", DESK), ("dark", DESK), ("dark", PHONE), ("light", PHONE)):
            if ills := look(page, scheme, size):
                found.append((name, scheme, size["width"], ills))
    assert found == []
    assert wrong == []
    context.close()


def test_some_chapters_are_whole_in_light_dark_and_phone_width(browser: Browser) -> None:
    walk(browser, ["index", "notebooks/07_figure3_table1_insilico", "claims"])


@pytest.mark.slow
def test_all_pages_are_whole_in_light_dark_and_phone_width(browser: Browser) -> None:
    walk(browser, [*chapters(), *other_pages()])


@pytest.mark.parametrize(
    ("scheme", "size"), [("dark", DESK), ("light", PHONE)], ids=["dark", "phone"]
)
def test_book_opens_in_the_readers_scheme_and_width(
    browser: Browser, scheme: str, size: dict[str, int]
) -> None:
    context, wrong = open_context(browser, color_scheme=scheme, viewport=size)
    page = context.new_page()
    visit(page, "index")
    assert look(page, scheme, size) == {}
    assert wrong == []
    context.close()


def test_readers_choice_of_colours_stays(browser: Browser) -> None:
    """The button cycles system, light, dark; a choice holds on the next page."""
    context, wrong = open_context(browser, color_scheme="light", viewport=DESK)
    page = context.new_page()
    visit(page, "index")
    while page.evaluate("document.documentElement.dataset.mode") != "dark":
        page.locator("button.theme-switch-button:visible").click()
    visit(page, "conventions")
    assert look(page, "dark", DESK) == {}
    page.emulate_media(color_scheme="light")
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    assert wrong == []
    context.close()


def read_aloud(browser: Browser, names: list[str]) -> None:
    """No finding of axe-core, in light or dark, that it calls serious or critical."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    context, _ = open_context(browser, viewport=DESK)
    page = context.new_page()
    found = []
    for name in names:
        visit(page, name)
        page.add_style_tag(
            content="* { transition: none !important }"
        )  # colours half-way are no colours
        for scheme in ("light", "dark"):
            look(page, scheme, DESK)
            grave = [
                v
                for v in axe.run(page).response["violations"]
                if v["impact"] in ("serious", "critical")
            ]
            found += [(name, scheme, v["id"], [n["target"] for n in v["nodes"]][:3]) for v in grave]
    assert found == []
    context.close()


@pytest.mark.slow
def test_book_can_be_read_by_everyone(browser: Browser) -> None:
    read_aloud(browser, [*chapters(), "api/core"])


@pytest.mark.slow
def test_search_finds_every_chapter(browser: Browser) -> None:
    context, wrong = open_context(browser, viewport=DESK)
    page = context.new_page()
    for name in chapters():
        title = html.unescape(
            re.search(r"<h1>(.*?)<a", (built_book() / f"{name}.html").read_text("utf-8"))[1]
        )
        words = set(re.findall(r"[\w-]+", re.sub("<.*?>", "", title))) - {
            "this"
        }  # which the index leaves out
        page.goto(f"file://{built_book()}/search.html?q={max(sorted(words), key=len)}")
        expect(page.locator(f"#search-results a[href*='{name}.html']").first).to_be_attached()
    # From disk a page may not read the others: results lack summaries, and the console says so.
    assert [what for what in wrong if what.startswith("request")] == []
    context.close()


def test_menu_opens_on_a_phone(browser: Browser) -> None:
    context, wrong = open_context(browser, viewport=PHONE)
    page = context.new_page()
    visit(page, "index")
    link = page.locator(".bd-sidebar-primary a", has_text="Run it yourself")
    expect(link).not_to_be_in_viewport()
    page.locator("button.primary-toggle:visible").click()
    expect(link).to_be_in_viewport()
    link.click()
    expect(page.locator("article h1")).to_contain_text("Run it yourself")
    assert wrong == []
    context.close()


def test_solutions_open_on_click(browser: Browser) -> None:
    context, wrong = open_context(browser, viewport=DESK)
    page = context.new_page()
    for name in NOTEBOOK_PAGES[::5]:
        visit(page, name)
        solution = page.locator("article details", has_text="Solutions").last
        assert solution.get_attribute("open") is None, name
        solution.locator("summary").click()
        expect(solution.locator("li").first).to_be_visible()
        code = page.locator("article details.hide").first
        expect(code.locator("summary")).to_contain_text("Solution 1, as code")
        expect(code.locator("pre").first).not_to_be_visible()
        code.locator("summary").click()
        expect(code.locator("pre").first).to_be_visible()
    assert wrong == []
    context.close()
