"""Lists of chapters, exercises and notebooks are those that there are, and no page counts them by hand."""

import re

import pytest
from oracles import ROOT

from tutorial.pages import lists
from tutorial.pages.chapters import chapters

BY_HAND = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "tutorial/README.md", "tutorial/TEACHERS.md",
           "notebooks/README.md")
LINK = re.compile(r"https://(?:github\.com/\S+/\S+|arxiv\.org/abs/\d{4}\.\d{5})$")
NUMBER = r"(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|\d+)"
COUNTED = re.compile(rf"\b{NUMBER} (?:chapters|exercises|notebooks)\b", re.I)


@pytest.mark.parametrize("stem, heading, called", [
    ("03_attention", "3. Look back at other tokens", "Attention: look back at other tokens"),
    ("08_the_vision_encoder", "8. RoPE-2D and more", "The vision encoder: RoPE-2D and more"),
    ("02_the_frame", "2. Mixtral's frame", "The frame: Mixtral's frame"),
    ("06_the_whole_mixtral", "6. The whole Mixtral", "The whole Mixtral")])
def test_the_name_of_a_chapter(tmp_path, stem, heading, called):
    path = tmp_path / f"{stem}.md"
    path.write_text(f"# {heading}\n\n## Else\n", encoding="utf-8")
    assert lists.title(path, "# ") == called


def test_every_chapter_is_in_the_list_or_said_to_be_missing(monkeypatch):
    lines = lists.chapter_list().splitlines()
    assert [int(line.split()[1]) for line in lines] == list(range(len(lines)))
    assert [line.split("](")[1].split(")")[0] for line in lines if "](" in line] == [path.name for path in chapters()]
    some = [path for path in chapters() if path.name[:2] in ("00", "03")]
    monkeypatch.setattr(lists, "chapters", lambda: some)
    first, *missing, last = lists.chapter_list().splitlines()
    assert missing == ["* 1 is not written yet", "* 2 is not written yet"]
    assert "exercise" not in first and last.endswith(", with exercises 3.1 and 3.2")
    assert lists.listed(["3.1"]) == "3.1" and lists.listed(["1", "2", "3"]) == "1, 2 and 3"


@pytest.mark.parametrize("page", BY_HAND)
def test_no_page_counts_chapters(page):
    assert COUNTED.search("three chapters") and COUNTED.search("12 exercises")
    assert COUNTED.findall((ROOT / page).read_text(encoding="utf-8")) == []


def test_what_others_teach_better_is_said_for_each_chapter():
    text = (ROOT / "tutorial/reference/what_others_teach_better.md").read_text(encoding="utf-8")
    parts = re.split(r"^\*\*(\d+)\. .*?\*\* ", text.partition("**Exercises and grading")[0], flags=re.M)
    assert parts[1::2] == [str(n) for n in range(13)]
    for words in parts[2::2]:
        links = re.findall(r"\]\((\S+?)\)", words)
        assert links and all(LINK.match(link) for link in links)
