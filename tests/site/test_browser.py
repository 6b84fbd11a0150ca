"""Every page of the site in Chromium, from the file system: it renders, asks nobody for anything, and is readable."""

import re
import shutil
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

import pytest
from oracles import ROOT

from tutorial.site.links import CODE

pytestmark = pytest.mark.browser
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync"]
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
# What a script in the page sees of it.
SEEN = """() => ({
  title: document.querySelector('article h1')?.innerText ?? '',
  links: [...document.querySelectorAll('a[href], link[href]')].map(link => link.href),
  ids: [...document.querySelectorAll('[id]')].map(element => element.id),
  pictures: [...document.querySelectorAll('article img')].map(img => [img.naturalWidth > 0, img.alt]),
  formulas: [...document.querySelectorAll('.katex-html')].map(formula => formula.getBoundingClientRect().width),
  displays: document.querySelectorAll('.katex-display').length,
  text: [...document.querySelectorAll('article p, article li, article summary')].map(part => {
    const words = part.cloneNode(true);
    words.querySelectorAll('code, pre, .katex').forEach(code => code.remove());
    return words.textContent;
  }).join('\\n'),
})"""
# Lightness of paper and ink, from 0 to 1.
LIGHT = """() => {
  const lightness = colour => colour.match(/[\\d.]+/g).slice(0, 3).reduce((sum, part) => sum + Number(part), 0) / 765;
  const style = getComputedStyle(document.body);
  return [lightness(style.backgroundColor), lightness(style.color)];
}"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A Chromium with an empty profile."""
    playwright = pytest.importorskip("playwright.sync_api", reason="make site-check installs playwright.")
    if not CHROMIUM:
        pytest.skip("Chromium is missing; on Debian: apt-get install chromium.")
    with playwright.sync_playwright() as driver:
        context = driver.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("profile"), executable_path=CHROMIUM, args=FLAGS, viewport=WIDE)
        yield context
        context.close()


@pytest.fixture
def tab(browser):
    """An open page, and the list of what went wrong in it."""
    page, wrong = browser.new_page(), []
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("requestfailed", lambda request: wrong.append(f"not loaded: {request.url}"))
    page.on("request", lambda request: wrong.append(f"asked for: {request.url}") if not re.match(
        r"file:|data:|http://127\.0\.0\.1:", request.url) else None)
    yield page, wrong
    page.close()


def pages(site):
    return sorted(path for path in site.rglob("*.html") if not {"_static", "explore"} & set(path.parts))


def prose(path):
    """A page of the repository without its code."""
    return re.sub(r"^[ ]*(`{3,}|~{3,}).*?^[ ]*\1", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)


def chapters(site):
    """The chapters: (page of the site, page of the repository)."""
    found = sorted((ROOT / "tutorial").glob("[0-9][0-9]_*.md"))
    assert found
    return [(site / f"tutorial/{path.stem}.html", path) for path in found]


def test_every_page_renders_and_every_link_leads_somewhere(site, tab):
    """Wide and narrow; links are those that a browser sees, resolved by it."""
    page, wrong = tab
    seen, faults = {}, []
    for number, path in enumerate(pages(site)):
        sizes = (WIDE, NARROW) if number % 2 else (NARROW, WIDE)  # the size stays from a page to the next: it is slow
        page.goto(path.as_uri())
        widths = {}
        for size in sizes:
            page.set_viewport_size(size)
            widths[size["width"]] = page.evaluate("document.documentElement.scrollWidth")
        seen[path] = found = page.evaluate(SEEN)
        name = path.relative_to(site)
        faults += [f"{name}: {fault}" for fault in wrong]
        wrong.clear()
        faults += [f"{name}: scrolls sideways"] * any(width > size for size, width in widths.items())
        faults += [f"{name}: no title"] * (not found["title"] and path.name != "search.html")
        faults += [f"{name}: a picture is missing or has no words"] * (not all(map(all, found["pictures"])))
        faults += [f"{name}: a formula has no width"] * (not all(found["formulas"]))
        faults += [f"{name}: marks of the source are seen: {mark[0]}" for mark in
                   re.finditer(r"\$\$|\\frac|\]\(|</?details>|\*\*|<!--", found["text"])]
    anchors = {path: set(found["ids"]) for path, found in seen.items()}
    for path, found in seen.items():
        for link in set(found["links"]):
            parts = urlsplit(link)
            if parts.scheme == "file":
                target = type(path)(unquote(parts.path))
                there = target.is_file() and target.is_relative_to(site)
                place = unquote(parts.fragment)
                if not there or target in anchors and place and place not in anchors[target]:
                    faults.append(f"{path.relative_to(site)}: {link}")
            elif parts.scheme not in ("http", "https", "mailto"):
                faults.append(f"{path.relative_to(site)}: {link}")
    assert len(seen) > 100 and not faults, "\n".join(faults)


def test_every_formula_of_the_chapters_is_typeset(site, tab):
    page, _ = tab
    total = 0
    for path, source in chapters(site):
        page.goto(path.as_uri())
        written = len(re.findall(r"\$\$.+?\$\$", prose(source), re.S))
        assert page.evaluate(SEEN)["displays"] == written, source.name
        total += written
    page.goto(next(path for path, source in chapters(site) if "$$" in prose(source)).as_uri())
    page.evaluate("document.fonts.ready.then(() => true)")
    loaded = page.evaluate("[...document.fonts].filter(font => font.status == 'loaded').map(font => font.family)")
    assert total >= 4 and any("KaTeX_Main" in family for family in loaded), loaded


def test_problems_are_one_numbered_list_with_folded_answers(site, tab):
    page, _ = tab
    asked = 0
    for path, source in chapters(site):
        section = re.search(r"^## Problems\n(.*?)(?=^## |\Z)", CODE.sub("", source.read_text(encoding="utf-8")),
                            re.M | re.S)
        if not section:
            continue
        page.goto(path.as_uri())
        problems = page.locator("section#problems > ol > li")
        assert page.locator("section#problems > ol").count() == 1, source.name
        assert problems.count() == len(re.findall(r"^\d+\. ", section[1], re.M)), source.name
        folded = page.locator("section#problems > ol > li > details")
        assert folded.count() == problems.count(), source.name
        answer = folded.first
        assert not answer.locator("p").first.is_visible()
        answer.locator("summary").click()
        assert answer.locator("p").first.is_visible()
        asked += problems.count()
    assert asked >= 9


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark(scheme, site, tab):
    """Ink stands out against paper, and the choice of the reader's system is followed."""
    page, wrong = tab
    page.emulate_media(color_scheme=scheme)
    for path in (site / "index.html", chapters(site)[0][0], *sorted(site.glob("notebooks/*.ipynb.html"))[:1]):
        page.goto(path.as_uri())
        paper, ink = page.evaluate(LIGHT)
        assert (paper > 0.9 and ink < 0.3) if scheme == "light" else (paper < 0.2 and ink > 0.7), path
    assert not wrong, wrong


def test_the_switch_of_light_and_dark_is_remembered(site, tab):
    page, _ = tab
    page.goto((site / "index.html").as_uri())
    before = page.evaluate("document.body.dataset.theme")
    page.locator(".theme-toggle-content .theme-toggle").click()
    chosen = page.evaluate("document.body.dataset.theme")
    page.reload()
    assert page.evaluate("document.body.dataset.theme") == chosen != before


def test_on_paper_there_is_the_text_and_nothing_else(site, tab):
    page, _ = tab
    path = next(path for path, source in chapters(site) if "<details>" in source.read_text(encoding="utf-8"))
    page.goto(path.as_uri())
    page.emulate_media(media="print", color_scheme="dark")
    for outside in (".skip-to-content", ".sidebar-drawer", ".toc-drawer", ".mobile-header", ".related-pages",
                    ".back-to-top"):
        assert not page.locator(outside).first.is_visible(), outside
    assert page.evaluate(LIGHT)[0] > 0.9
    assert page.locator("article h1").is_visible()
    assert page.locator("article details p").first.is_visible(), "nobody can unfold an answer on paper"


def hits(page):
    page.locator("#search-results li a").first.wait_for()
    return [urlsplit(link).path.rpartition("/")[2] for link in page.locator("#search-results li a").evaluate_all(
        "links => links.map(link => link.href)")]


def test_search_finds_a_chapter_from_the_file_system(site, tab):
    page, wrong = tab
    for path, source in chapters(site):
        title = source.read_text(encoding="utf-8").partition("\n")[0]
        word = max(re.findall(r"[a-z]+", title), key=len)
        page.goto((site / "index.html").as_uri())
        page.locator(".sidebar-search").fill(word)
        page.keyboard.press("Enter")
        assert path.name in hits(page), (word, title)
    page.goto((site / "search.html").as_uri() + "?q=zzyzx")
    page.get_by_text("did not match any documents").wait_for()
    assert not wrong, wrong


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def test_a_static_host_serves_it_as_well(site, tab):
    page, wrong = tab
    server = ThreadingHTTPServer(("127.0.0.1", 0), lambda *args: Quiet(*args, directory=site))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        page.goto(f"http://127.0.0.1:{server.server_port}/")
        page.locator(".sidebar-tree a.reference", has_text=re.compile(r"^\d+\. ")).first.click()
        assert page.locator("article h1").is_visible()
        page.goto(f"http://127.0.0.1:{server.server_port}/search.html?q=softmax")
        assert hits(page) and not wrong, wrong
    finally:
        server.shutdown()
        server.server_close()


def test_two_recorded_runs_of_explore_need_no_server(site, tab):
    """From the file system: tokens, patches, hiding and comparisons; what is not recorded says so."""
    page, wrong = tab
    page.goto((site / "explore/index.html").as_uri())
    page.wait_for_selector("#list [aria-pressed=true]")
    page.locator("#list button").nth(5).click()
    assert page.locator("#reading").inner_text().startswith("The panels show token 5")
    page.click("#compare")
    page.locator("#switch-result .number", has_text="1.224 so").wait_for()
    page.click("#models button:nth-child(2)")
    page.locator("#answer", has_text="purple").wait_for()
    page.get_by_text("Mark the star").click()
    page.click("#hide-go")
    page.locator("#hide-result .number", has_text="7 with the thing hidden").wait_for()
    assert page.locator("#hide-result strong").all_inner_texts() == ["purple", "orange", "purple"]
    page.click("#draw")
    page.locator("#status.error", has_text="This page is recorded").wait_for()
    assert not wrong, wrong
