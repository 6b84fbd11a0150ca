"""A page that is right becomes a page of the site; whatever is wrong fails the build, with file and line."""

import hashlib
import re

import pytest
from oracles import ROOT
from small_site import CELLS, CHAPTER, notebook, write

from tutorial.site.links import links

pytest.importorskip("furo", reason="The site needs Sphinx and Furo: make site installs them.")
KATEX = ROOT / "tutorial/site/vendor/katex"
OUTPUT = {"output_type": "display_data", "metadata": {}}


def build(root, folder):
    from tutorial.site.build import build

    return build(root, folder)


def chapter(old, new):
    assert CHAPTER.count(old) == 1
    return {"tutorial/01_one.md": CHAPTER.replace(old, new)}


def cell(kind, text, output=None):
    return notebook([*CELLS, (kind, text, [output] if output else [])])


# What is wrong -> the files that change, and what the build says.
MISTAKES = {
    "a dead link": (chapter("../tiny/one.py#L2", "../tiny/two.py#L2"), "tutorial/01_one.md:7: the link ../tiny/two.py"),
    "a line past the end": (chapter("one.py#L2", "one.py#L3"), "tutorial/01_one.md:7: the link ../tiny/one.py.html#L3"),
    "a dead word of the glossary": (chapter("#word", "#world"), "tutorial/01_one.md:7: the link ../tutorial/glossary."),
    "a dead heading": (chapter("(#the-2nd-heading)", "(#the-3rd)"), "tutorial/01_one.md:8: the link #the-3rd"),
    "a dead picture": (chapter("figures/one.png", "figures/two.png"), "tutorial/01_one.md:7: "),
    "a picture in HTML": (chapter("## The", '<img src="two.png">\n\n## The'), "tutorial/01_one.md:15: the link"),
    "a picture of another host": (chapter("## The", '<img src="https://example.org/a.png">\n\n## The'),
                                  "tutorial/01_one.md:15: the link https://example.org/a.png is of another host"),
    "a picture of another host in Markdown": (chapter("figures/one.png", "https://example.org/a.png"),
                                              "tutorial/01_one.md:7: the link https://example.org/a.png is of another"),
    "a link out of the repository": (chapter("../tests/one", "../.."), "tutorial/01_one.md:8: the link ../.. "),
    "a hidden file": (chapter("../tests/one", "../.one") | {".one": "1"}, "tutorial/01_one.md:8: the link ../.one"),
    "a formula that does not end": (chapter(r"{\sqrt{d}}$$", r"{\sqrt{d}$$"), r"tutorial/01_one.md:5: WARNING: "),
    "an unknown command": (chapter(r"$\sqrt{d}$", r"$\sqroot{d}$"), r"Undefined control sequence: \sqroot"),
    "a letter that TeX does not have": (chapter(r"$\sqrt{d}$", "$ж$"), "tutorial/01_one.md:3: WARNING: "),
    "a heading level left out": (chapter("## The", "#### The"), "tutorial/01_one.md:15: WARNING: "),
    "a dead link of a notebook": (cell("markdown", "See [it](../tiny/two.py)."), "notebooks/01_one.py:8: the link"),
    "a formula of a notebook": (cell("markdown", r"So $\frac{1}$."), "notebooks/01_one.py:8: WARNING: "),
}


def test_a_small_repository_becomes_a_site(tmp_path):
    site = tmp_path / "site/html"
    assert build(write(tmp_path / "small", {}), tmp_path / "site") == []
    page, book = ((site / name).read_text(encoding="utf-8")
                  for name in ("tutorial/01_one.html", "notebooks/01_one.ipynb.html"))
    for shown in ('alt="A small picture."', "../tiny/one.py.html#L2", "../tutorial/glossary.html#word",
                  '"#the-2nd-heading"', "../tests/one.html", "../notebooks/01_one.ipynb.html", "a](b)[c](d.md",
                  "<summary>Answer</summary>"):
        assert shown in page, shown
    assert page.count("<li><p>How much") == page.count("<li><p>And 2") == page.count("<ol ") == 1
    assert page.count('class="katex-display"') == 1 and page.count('class="katex"') == 2 and "katex.min.js" not in page
    assert "True" in book and "a^2" in book and "../tutorial/01_one.html" in book
    assert '<span class="line" id="L2">' in (site / "tiny/one.py.html").read_text(encoding="utf-8")
    folder = (site / "tests/one.html").read_text(encoding="utf-8")
    assert 'href="one/test_one.py.html"' in folder and "<li>data.txt</li>" in folder
    assert not (site / "tests/one/data.txt.html").exists()
    assert "01_one.html" in (site / "index.html").read_text(encoding="utf-8")
    assert "something said" not in (site / "searchindex.js").read_text(encoding="utf-8")  # an index holds words only


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_fails_the_build(mistake, tmp_path):
    changes, said = MISTAKES[mistake]
    wrong = build(write(tmp_path / "small", changes), tmp_path / "site")
    assert any(said in line for line in wrong), wrong


def test_an_output_that_a_page_cannot_show_is_refused(tmp_path):
    from tiny.config import TinyError

    shown = cell("code", "widget", OUTPUT | {"data": {"application/x-widget": "1"}})
    with pytest.raises(TinyError, match="01_one.ipynb, cell 3: it shows .'application/x-widget'."):
        build(write(tmp_path / "small", shown), tmp_path / "site")


def test_the_command_tells_what_is_wrong_and_fails(tmp_path, monkeypatch, capsys):
    from tutorial.site import __main__ as command

    monkeypatch.setattr(command, "ROOT", write(tmp_path / "small", MISTAKES["a dead link"][0]))
    assert command.main([]) == 1 and "two.py" in capsys.readouterr().err
    write(tmp_path / "right", {})
    monkeypatch.setattr(command, "ROOT", tmp_path / "right")
    assert command.main([]) == 0 and "runs/site/html/index.html" in capsys.readouterr().out


def test_links_are_those_outside_of_code():
    text = ("[a](a.md) `[b](b.md)` ``[c](`c.md)`` $$[d](d.md)$$ <!-- [e](e.md) -->\n~~~\n[f](f.md)\n~~~\n"
            "   ```sh\n   [g](g.md)\n   ```\n[h](https://h.org) [i](#i) [![j](j.png)](k.md#k) [x [l]](l.md)")
    assert [(link.target, link.anchor, link.picture) for link in links(text)] == [
        ("a.md", "", False), ("j.png", "", True), ("k.md", "#k", False), ("l.md", "", False)]
    assert all(text[link.start:link.end] == link.target + link.anchor for link in links(text))


def test_every_page_of_the_tutorial_is_in_the_table_of_contents():
    from tutorial.site.stage import contents

    listed = {path.as_posix() for section in contents(ROOT).values() for path in section}
    for pattern in ("tutorial/*.md", "tutorial/reference/*.md", "notebooks/*.ipynb"):
        assert {path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern)} <= listed


def test_katex_is_what_was_published():
    """Its files, and no others, have the sums of its README."""
    text = (KATEX / "README.md").read_text(encoding="utf-8")
    sums = dict(re.findall(r"^\| (\S+) \| `([0-9a-f]{64})` \|$", text, re.M))
    files = {path.relative_to(KATEX).as_posix(): path for path in KATEX.rglob("*") if path.is_file()}
    del files["README.md"]
    assert sums == {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    (version,) = re.findall(r'version:"([\d.]+)"', files["katex.min.js"].read_text(encoding="utf-8"))
    assert text.startswith(f"# KaTeX {version}\n") and f"katex-{version}.tgz" in text
