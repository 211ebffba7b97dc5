"""The lab: its scripts agree with the package, and its page works from a disk without a network."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import build_lab
import numpy as np
import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parents[2]
LAB = ROOT / "book" / "lab"
GOLDEN = ROOT / "tests" / "lab" / "golden.json"
NODE = shutil.which("node")
TSC = ROOT / "node_modules" / "typescript" / "lib" / "tsc.js"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
QUIET += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


def node_version() -> int:
    said = subprocess.run([str(NODE), "--version"], capture_output=True, text=True, check=True)
    return int(said.stdout.lstrip("v").partition(".")[0])


@pytest.mark.skipif(NODE is None, reason="node is not installed (apt-get install nodejs)")
def test_scripts_agree_with_the_package() -> None:
    if node_version() < 20:
        pytest.skip("the tests of the scripts need node 20 or newer")
    tests = sorted(map(str, (ROOT / "tests" / "lab").glob("*.test.js")))
    assert tests
    made = subprocess.run(
        [str(NODE), "--test", *tests], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stdout + made.stderr


@pytest.mark.skipif(
    NODE is None or not TSC.is_file(), reason="node or typescript is not installed (npm install)"
)
def test_types_of_the_scripts_are_right() -> None:
    made = subprocess.run(
        [str(NODE), str(TSC)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stdout


def differences(one: Any, other: Any, place: str = "") -> list[str]:
    """Places where two trees of lists, mappings and values differ, numbers by more than 1e-8."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [d for key in one for d in differences(one[key], other[key], f"{place}.{key}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [d for k, (a, b) in pairs for d in differences(a, b, f"{place}[{k}]")]
    numbers = isinstance(one, int | float) and isinstance(other, int | float)
    same = np.isclose(one, other, rtol=0, atol=1e-8, equal_nan=True) if numbers else one == other
    return [] if same else [place]


def test_golden_data_are_what_the_package_makes_now() -> None:
    """If this fails, run tests/lab/make_golden.py; then the scripts must follow."""
    kept = json.loads(GOLDEN.read_text(encoding="utf-8"))
    files = kept.pop("files")
    made = runpy.run_path(str(GOLDEN.with_name("make_golden.py")))["answered"](kept)
    assert differences(kept, json.loads(json.dumps(made))) == []
    assert {file["name"].split()[0] for file in files} == {"npy", "tiff"}


# --- one file -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lab_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_lab.build_lab(tmp_path_factory.mktemp("lab") / "lab.html", LAB)


def test_page_holds_all_it_needs(lab_page: Path) -> None:
    text = lab_page.read_text(encoding="utf-8")
    assert re.findall(r"https?://|//\w+\.\w+/", text) == []
    assert re.findall(r"<(?:link|script|img|iframe)[^>]*(?:src|href)=\"(?!data:)", text) == []
    assert re.findall(r"\b(?:fetch|XMLHttpRequest|WebSocket|EventSource|sendBeacon)\b", text) == []
    assert "default-src 'none'" in text
    assert not re.search(r"^(?:import|export)\b", text, re.M)
    for script in LAB.glob("*.js"):
        assert f"// --- {script.name}\n" in text


def write_lab(folder: Path, **scripts: str) -> Path:
    """A lab of a few lines."""
    shutil.copyfile(LAB / "index.html", folder / "index.html")
    (folder / "lab.css").write_text("")
    for name, text in scripts.items():
        (folder / f"{name}.js").write_text(text)
    return folder


def test_scripts_stand_after_those_that_they_import(tmp_path: Path) -> None:
    lab = write_lab(
        tmp_path,
        app='import { b } from "./b.js";\nimport { a } from "./a.js";\na(b);\n',
        b='import {\n  a,\n} from "./a.js";\nexport const b = a(1);\n',
        a="export function a(x) { return x; }\n",
    )
    script = build_lab.join_scripts(lab)
    places = [script.index(part) for part in ("\nfunction a(x)", "\nconst b = a(1)", "\na(b);")]
    assert places == sorted(places)
    assert "import" not in script


@pytest.mark.parametrize(
    ("app", "other", "words"),
    [
        ("const one = 1;", "export const one = 2;", "more than one script declares one"),
        ("const [two, one] = [1, 2];", "function one() {}", "more than one script declares one"),
        ("", 'import { x } from "./app.js";\n', r"in a circle: app\.js -> other\.js -> app\.js"),
        ("", "export default 1;", r"other\.js: this line is not handled: export default 1;"),
        ("const tag = '</script>';", "", "must not hold the tag"),
    ],
)
def test_scripts_that_cannot_be_joined_are_refused(
    tmp_path: Path, app: str, other: str, words: str
) -> None:
    lab = write_lab(tmp_path, app=f'import {{ x }} from "./other.js";\n{app}\n', other=other)
    with pytest.raises(ValueError, match=words):
        build_lab.join_scripts(lab)


def test_page_without_a_place_for_the_style_is_refused(tmp_path: Path) -> None:
    lab = write_lab(tmp_path, app="")
    page = lab / "index.html"
    page.write_text(page.read_text().replace('<link rel="stylesheet" href="lab.css">', ""))
    with pytest.raises(ValueError, match="must hold this line once: <link rel"):
        build_lab.build_lab(tmp_path / "out.html", lab)


# --- in a browser ---------------------------------------------------------------------------------

needs_browser = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None and "GITHUB_ACTIONS" not in os.environ,  # there it must be
        reason="chromium is not installed (apt-get install chromium)",
    ),
]


def in_browser(test: Any) -> Any:
    for mark in needs_browser:
        test = mark(test)
    return test


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield browser
        browser.close()


@pytest.fixture
def open_lab(browser: Browser, lab_page: Path) -> Iterator[Any]:
    """Open the page in a context that lets nothing out; in the end nothing may have gone wrong."""
    wrong: list[str] = []
    contexts = []

    def check(route: Any) -> None:
        if route.request.url.startswith(("file:", "data:", "blob:")):
            route.continue_()
        else:
            wrong.append(f"request to {route.request.url}")
            route.abort()

    def open_page(**options: Any) -> Page:
        context = browser.new_context(**{"viewport": DESK, **options})
        contexts.append(context)
        context.route("**/*", check)
        context.on("console", lambda said: wrong.append(f"{said.type}: {said.text}"))
        context.on("weberror", lambda error: wrong.append(f"script: {error.error}"))
        page = context.new_page()
        page.goto(lab_page.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def n_frames(page: Page) -> int:
    return int(page.locator("#frame-count").inner_text())


def move(page: Page, slider: str, value: float) -> None:
    page.evaluate(
        """([id, value]) => {
            const slider = document.getElementById(id);
            slider.value = value;
            slider.dispatchEvent(new Event('input', { bubbles: true }));
        }""",
        [slider, value],
    )


def wait_for_frames(page: Page, n: int) -> None:
    page.wait_for_function(
        "n => Number(document.getElementById('frame-count').textContent) >= n", arg=n
    )


@in_browser
def test_film_runs_and_follows_a_slider(open_lab: Any) -> None:
    page = open_lab()
    page.locator("#pace").select_option("fast")
    wait_for_frames(page, 150)
    bound = float(page.locator("#bound").inner_text().split()[0])
    assert float(page.locator("#recall-far").inner_text().split()[0]) > 60
    assert float(page.locator("#filled").inner_text().split()[0]) > 2
    move(page, "noise", 0.12)
    page.wait_for_function("n => document.getElementById('frame-count').textContent < n", arg=150)
    wait_for_frames(page, 30)
    assert page.locator("#noise-value").inner_text() == "0.12"
    noisier = float(page.locator("#bound").inner_text().split()[0])
    assert noisier == pytest.approx(3 * bound, rel=0.1)
    assert float(page.locator("#error").inner_text().split()[0]) > noisier


@in_browser
def test_lab_shows_thirty_frames_a_second(open_lab: Any) -> None:
    page = open_lab()
    page.locator("#pace").select_option("fast")
    move(page, "nBubbles", 40)
    wait_for_frames(page, 60)
    # Other tests may run beside this one: a moment in which it holds is enough.
    page.wait_for_function("Number(document.getElementById('rate').textContent) >= 30")


@in_browser
def test_thousand_frames_and_no_more(open_lab: Any) -> None:
    page = open_lab(reduced_motion="reduce")
    move(page, "nBubbles", 5)
    page.locator("#thousand").click()
    page.get_by_role("button", name="Play", exact=True).wait_for(timeout=200_000)
    assert n_frames(page) == 1000


@in_browser
def test_page_can_be_used_by_keyboard(open_lab: Any) -> None:
    page = open_lab(reduced_motion="reduce")
    page.wait_for_timeout(300)
    assert n_frames(page) == 1  # it waits
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert n_frames(page) == 3
    page.keyboard.press("Space")
    wait_for_frames(page, 5)
    page.keyboard.press("Space")
    stopped = n_frames(page)
    page.wait_for_timeout(300)
    assert n_frames(page) == stopped
    page.keyboard.press("ArrowLeft")
    assert n_frames(page) == 1
    page.locator("#noise").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#noise-value").inner_text() == "0.05"


@in_browser
def test_same_seed_gives_the_same_numbers(open_lab: Any) -> None:
    page = open_lab(reduced_motion="reduce")

    def error_after(seed: int) -> str:
        page.locator("#seed").fill(str(seed))
        page.locator("#seed").blur()
        page.locator("#restart").click()
        for _ in range(5):
            page.locator("#step").click()
        assert n_frames(page) == 6
        return page.locator("#error").inner_text()

    assert error_after(5) == error_after(5) != error_after(6)


@in_browser
def test_own_recording_has_no_truth(open_lab: Any, tmp_path: Path) -> None:
    z, x = np.mgrid[:30, :40]
    frames = [np.exp(-((z - 12.3) ** 2 + (x - 8 - t) ** 2) / 3) for t in range(12)]
    np.save(tmp_path / "mine.npy", 250 * np.array(frames, dtype=np.float32))
    page = open_lab(reduced_motion="reduce")
    page.locator("#file").set_input_files(tmp_path / "mine.npy")
    page.get_by_text("12 frames of 30 × 40 px").wait_for()
    assert "stays on this machine" in page.locator("#status").inner_text()
    for gone in ("#truth", "#recall-far", "#show-true", "#noise", "#seed"):
        assert not page.locator(gone).is_visible()
    page.locator("#pace").select_option("fast")
    page.locator("#play").click()
    page.get_by_text("The recording is over").wait_for()
    assert n_frames(page) == 12
    assert page.locator("#track-count").inner_text() == "1"
    page.locator("#film").click()
    assert page.locator("#truth").is_visible()
    (tmp_path / "other.npy").write_text("no array")
    page.locator("#file").set_input_files(tmp_path / "other.npy")
    page.get_by_text("other.npy: The file is neither a NumPy array").wait_for()


@in_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_can_be_read_by_everyone(open_lab: Any, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    for size in (DESK, PHONE):
        page = open_lab(reduced_motion="reduce", color_scheme=scheme, viewport=size)
        wait_for_frames(page, 1)
        too_wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(too_wide) <= 0
        found = axe.run(page).response["violations"]
        assert [(v["id"], [n["target"] for n in v["nodes"]][:3]) for v in found] == []


@in_browser
def test_map_stays_in_sight_on_a_phone(open_lab: Any) -> None:
    from playwright.sync_api import expect

    page = open_lab(viewport=PHONE, reduced_motion="reduce")
    page.locator("#minLength").scroll_into_view_if_needed()
    expect(page.locator("#map")).to_be_in_viewport(ratio=0.9)
    expect(page.locator("#minLength")).to_be_in_viewport()


@in_browser
def test_lab_within_the_book_takes_its_colours_and_tells_its_height(
    browser: Browser, lab_page: Path
) -> None:
    (lab_page.parent / "book.html").write_text(
        '<!doctype html><html data-theme="dark"><body style="width: 760px">'
        '<iframe class="ulm-lab" title="lab" src="lab.html" style="width: 100%"></iframe>'
        f"<script>{(ROOT / 'book/static/ulm.js').read_text(encoding='utf-8')}</script>"
    )
    context = browser.new_context(viewport=DESK, color_scheme="light", reduced_motion="reduce")
    page = context.new_page()
    page.goto((lab_page.parent / "book.html").as_uri())
    lab = page.frame_locator("iframe")
    root = lab.locator("html")
    page.wait_for_function("document.querySelector('iframe').offsetHeight > 500")
    lab.locator("html[data-theme=dark]").wait_for()
    height = root.evaluate(
        "e => [e.scrollHeight, window.innerHeight, e.scrollWidth, e.clientWidth]"
    )
    assert height[0] <= height[1]
    assert height[2] <= height[3]
    page.evaluate("document.documentElement.dataset.theme = 'light'")
    lab.locator("html[data-theme=light]").wait_for()
    context.close()
