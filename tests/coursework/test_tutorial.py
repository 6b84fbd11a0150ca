"""The chapters: every number in them is computed here, every reference and picture is there, every example runs."""

import doctest
import importlib
import math
import re
import runpy
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tiny.__main__ import build_parser
from tiny.attention import QUERIES, attention
from tiny.config import TinyError
from tiny.numerics import softmax
from tiny.rope import rope, rope_table
from tiny.tools import memory
from tiny.tools.releases import MIXTRAL_8X7B as MIXTRAL
from tiny.tools.routing import chance
from tutorial import draw_figures, drawings
from tutorial.make_coursework import load_exercises
from tutorial.pages import chapters
from tutorial.source import ROOT, source_of

CHAPTERS = {path.name[:2]: path for path in chapters.chapters()}
SHOWN = {number: path.read_text(encoding="utf-8") for number, path in CHAPTERS.items()}
TEXTS = {number: chapters.by_hand(text) for number, text in SHOWN.items()}
NUMBERED = sorted(SHOWN.keys() - {"00"})  # Page 0 is a map: it has a form of its own, without problems and exercises.
LARGEST = 100 * 1024  # bytes of a picture

d, theta, context = MIXTRAL.head_dim, MIXTRAL.rope_theta, MIXTRAL.max_seq_len
total, active = memory.parameters(MIXTRAL)
expert = math.prod((3, MIXTRAL.dim, MIXTRAL.hidden_dim))
every_expert = expert * MIXTRAL.moe.num_experts * MIXTRAL.n_layers
two_experts = expert * MIXTRAL.moe.num_experts_per_tok * MIXTRAL.n_layers
cos, sin = rope_table(np.array([2]), 4, 1e4)
three = softmax(np.array([0, 1, 2], np.float32))
undivided = softmax(np.array([0, 2, 4], np.float32))
vanishes = next(n for n in range(1000) if np.exp(np.float32(-n)) == 0)
silu_1 = 1 / (1 + math.exp(-1))
four = softmax(np.array([0, 2, 1, 0], np.float32))
of_two = [softmax(np.array(row, np.float32))[1:3].sum() for row in ([0, 2, 1, 0], [1, 3, 3, 0])]
first, common = chance(8, 2)
last_pair, pair_32 = theta ** (-126 / d), theta ** (-2 * 32 / d)


def answers(query=2):
    """The worked example of chapter 3: one head of four numbers, of which the first is not zero."""
    q, keys, values = (np.zeros((3, 1, 4), np.float32) for _ in range(3))
    q[:, 0, 0], keys[:, 0, 0], values[:, 0, 0] = query, (0, 1, 2), (10, 20, 30)
    return attention(q, keys, values, [3], [(0, 3)])[:, 0, 0]


def pair_score(m, n):
    """The score of the pair (1, 0) at positions m and n."""
    a, b = (rope(np.array([[[1, 0]]], np.float32), *rope_table(np.array([p]), 2, theta))[0, 0] for p in (m, n))
    return float(a @ b)


def whole(x):
    return f"{x:,.0f}"


def test_a_mask_of_minus_a_billion_gives_the_same_bits():
    """As chapter 3 says: also where the allowed scores are small and those ahead are large."""
    scores = np.array([[-3e4, -1e5, 3e4], [0, 0, 0]], np.float32)
    ahead = np.array([[False, False, True], [False, True, True]])
    masked = {value: softmax(scores + np.where(ahead, np.float32(value), np.float32(0)))
              for value in (-np.inf, -1e9, -1e4)}
    assert np.array_equal(masked[-1e9], masked[-np.inf]) and masked[-1e4][0, 2] == 1


PAPER = {"67.0", "44.9"}  # arXiv:2401.04088, table 5, DM Mathematics, first or second choice, layers 15 and 0

# What is printed in the prose of a chapter, beside what its examples print: each number from where it comes.
CLAIMS = {
    "03": {*(f"{x:.{n}f}" for x in answers()[1:] for n in (2, 1)), *(f"{math.exp(n):.3f}" for n in (1, 2, 4)),
           *(f"{x:.3f}" for x in three), f"{three[0]:.2f}", str(d), *(f"{x:.3f}" for x in undivided),
           f"{undivided @ [10, 20, 30]:.2f}", whole(4096), whole(4097), whole(4096 * 4097 / 2), whole(131072),
           f"{QUERIES * 131072 * 4 / 1e6:.1f}", whole(131072 // QUERIES), "100",
           str(vanishes), whole(1e4)},
    "04": {whole(theta), whole(1e4), str(d), "126", whole(context - 1), whole(100), f"{2 * 1e4 ** (-2 / 4):.2f}",
           f"{cos[0, 0]:.4f}".lstrip("-"), f"{sin[0, 0]:.4f}", f"{last_pair:.8f}", f"{(context - 1) * last_pair:.4f}",
           f"{math.degrees((context - 1) * last_pair):.1f}", whole((context - 1) // (2 * math.pi)), f"{pair_32:.3f}",
           whole(1 / pair_32), whole(2 * math.pi / pair_32), f"{pair_score(1007, 1004):.2f}".lstrip("-"),
           whole(1007), whole(1004)},
    "05": {f"{softmax(np.array([2, 1], np.float32))[n]:.3f}" for n in (0, 1)}
          | {f"{four[1]:.2f}", f"{four[2]:.3f}", "0.5", f"{silu_1:.4f}",
             f"{0.731 * 2 * silu_1 + 0.269 * 3 * silu_1:.3f}", f"{100 * first:.1f}", f"{100 * common:.1f}",
             *(f"{x:.3f}" for x in of_two), f"{100 - 100 * common:.1f}", *PAPER,
             whole(MIXTRAL.dim), whole(MIXTRAL.hidden_dim), whole(expert),
             whole(every_expert), whole(total), whole(total - every_expert), whole(two_experts), whole(active),
             f"{100 * every_expert / total:.1f}", f"{100 * active / total:.1f}", f"{total / 1e9:.1f}"},
}
# A newer chapter has its numbers in a file of its own, claims/chapter_NN.py.
CLAIMS |= {path.stem[-2:]: runpy.run_path(str(path))["NUMBERS"]
           for path in sorted((ROOT / "tests/coursework/claims").glob("chapter_[0-9][0-9].py"))}


def prose(text):
    """A chapter without its examples, links and formulas, and without what tests/explore/test_chapters.py computes."""
    text = re.sub(r"^## Open the page\n.*?(?=^## )", "", text, flags=re.S | re.M)
    for pattern in (r"```.*?```", r"`[^`]+`", r"sections?\s\d[\d.]+", r"\]\([^)]*\)",
                    r"arXiv:\d+\.\d+", r"\$\$.*?\$\$", r"!\[[^\]]*\]"):
        text = re.sub(pattern, " ", text, flags=re.S)
    return text


def examples(text):
    return "\n".join(re.findall(r"```python\n(.*?)```", text, re.S))


def numbers(text):
    """The numbers of a text that are not small and whole, as printed."""
    found = re.findall(r"(?<![\w.])\d[\d,]*(?:\.\d+)?(?![\w])", text)
    return {n.rstrip(",") for n in found if "." in n or len(n.rstrip(",")) > 2}


@pytest.mark.parametrize("number", TEXTS)
def test_every_number_of_a_chapter_is_computed(number):
    printed = numbers(prose(TEXTS[number]))
    outputs = numbers(re.sub(r"[\[\](),]", " ", examples(TEXTS[number])))
    unknown = printed - CLAIMS[number] - outputs
    assert (len(printed) > 6 or number == "00") and not unknown, f"nothing computes {sorted(unknown)}"


@pytest.mark.parametrize("number", TEXTS)
def test_the_examples_of_a_chapter_run(number):
    test = doctest.DocTestParser().get_doctest(examples(TEXTS[number]), {}, number, CHAPTERS[number].name, 0)
    said = []
    result = doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert result.attempted >= 4 and result.failed == 0, "".join(said)


@pytest.mark.parametrize("number", NUMBERED)
def test_a_chapter_shows_the_code_as_it_stands(number):
    text = SHOWN[number]
    assert text == chapters.build(text), "run make pages"
    references = [reference for reference in chapters.PART.findall(text) if not reference.startswith("exercise")]
    assert len(references) >= 3
    for reference in references:
        source = source_of(reference)
        language = "cpp" if source.path.endswith(".cu") else "python"
        assert f"[{source.place}](../{source.path}#L{source.first})\n\n```{language}\n{source.text}\n```\n" in text


def test_each_exercise_stands_in_its_chapter_and_its_answer_is_folded():
    for exercise in load_exercises():
        text = (chapters.FOLDER / exercise.chapter).read_text(encoding="utf-8")
        block = text[text.index(f"<!-- begin exercise {exercise.id} -->"):]
        folded = block[block.index("<details>"): block.index("</details>")]
        assert f"<!-- begin {exercise.path}:{exercise.name}" in folded, exercise.id
        flat = re.sub(r"^ +", "", text, flags=re.M)
        shown = re.sub(r"<details>.*?</details>", "", flat, flags=re.S)
        for step in exercise.steps:
            answer = re.sub(r"^ +", "", source_of(f"{exercise.path}:{exercise.name}#{step}").text, flags=re.M)
            assert answer in flat, f"{exercise.id}: the chapter has no answer for step {step}"
            for line in answer.splitlines()[1:]:
                common = line in ("first += length", "__syncthreads();", "#pragma unroll", "}")
                assert common or line not in shown, f"{exercise.id}: {line} is given away"
        assert f"**Exercise {exercise.id}: {exercise.title}** ({exercise.points} points)" in text


@pytest.mark.parametrize("number", NUMBERED)
def test_the_order_of_a_chapter(number):
    text = TEXTS[number]
    assert text.startswith(f"# {int(number)}. ")
    for words in ("**You will do**", "**You will learn**", "**You need**"):
        assert words in text[: text.index("## ")].replace("\n", " "), words
    heads = re.findall(r"^## (.*)$", text, re.M)
    wanted = ["The question", "The idea", "The code", "Six numbers", "Problems", "Exercises", "Where the paper"]
    places = [next(n for n, head in enumerate(heads) if head.startswith(word)) for word in wanted]
    assert places == sorted(places), heads
    problems = text[text.index("## Problems"): text.index("## Exercise")]
    assert len(re.findall(r"^\d\. ", problems, re.M)) == problems.count("<details><summary>Answer") == 3
    words = len(re.sub(r"```.*?```|<details>.*?</details>|!?\[[^\]]*\]\([^)]*\)", "", text, flags=re.S).split())
    assert words <= 1500, f"{words} words take more than ten minutes"
    assert max(len(line) for line in text.splitlines() if not line.startswith("![")) <= 120


def test_the_glossary():
    """Its words are in alphabetical order, each with its anchor; links resolve, and every word is linked."""
    text = (chapters.FOLDER / "glossary.md").read_text(encoding="utf-8")
    words = re.findall(r'^<a id="([a-z0-9-]+)"></a>\*\*(.+?)\*\*: \S', text, re.M)
    assert len(words) == text.count("<a id=") == len(text.strip().split("\n\n")) - 2
    assert [name for name, _ in words] == [re.sub(r"\W+", "-", word.lower()) for _, word in words]
    assert [name for name, _ in words] == sorted(name for name, _ in words)
    linked = set(re.findall(r"\]\(glossary\.md#([^)]*)\)", "\n".join(SHOWN.values())))
    assert linked == {name for name, _ in words}


@pytest.mark.parametrize("number", SHOWN)
def test_commands_name_the_python_of_this_folder(number):
    """Another Python has none of the packages."""
    assert re.findall(r"^(?:\$ )?python3? -m .*$", SHOWN[number], re.M) == []


def test_commands_of_the_chapters():
    """Every command that a chapter names is one that the program knows, with options that it has."""
    commands = re.findall(r"^(?:\.venv/bin/)?python -m tiny (.*)$", "\n".join(TEXTS.values()), re.M)
    assert commands
    for command in commands:
        assert build_parser().parse_args(command.split()).command == command.split()[0]


def test_no_sentence_looks_like_a_list():
    """A line that begins with a number and a dot would be shown as an item of a list."""
    for number, text in TEXTS.items():
        outside = text if number == "00" else text[: text.index("## Problems")] + text[text.index("## Exercises"):]
        assert not re.findall(r"^[ >]*\d+\. .*", outside, re.M)


def test_words_of_the_chapters():
    for text in TEXTS.values():
        assert not re.search(r"[\u2013\u2014]|\b(?:simply|just a|obviously|of course|TO" r"DO)\b", text)


def test_the_writer_says_what_is_wrong(monkeypatch, tmp_path):
    chapter = tmp_path / "01_title.md"
    monkeypatch.setattr(chapters, "FOLDER", tmp_path)
    for part, words in (("tiny/rope.py:nothing", "nothing"), ("tiny/none.py:f", "none.py"), ("exercise 9.9", "9.9"),
                        ("tiny/rope.py:rope#7", "step"), ("words", "words")):
        chapter.write_text(f"# Title\n\n<!-- begin {part} -->\n<!-- end {part} -->\n", encoding="utf-8")
        with pytest.raises(TinyError, match=f"01_title.md: .*{words}"):
            chapters.main(["--check"])
    for text in ("<!-- begin tiny/rope.py:rope -->\n", " <!-- begin exercise 4.2 -->\n <!-- end exercise 4.2 -->\n"):
        chapter.write_text(text, encoding="utf-8")
        with pytest.raises(TinyError, match="pairs"):
            chapters.main([])


def test_the_writer_fills_a_chapter_once(monkeypatch, tmp_path, capsys):
    chapter = tmp_path / "01_title.md"
    monkeypatch.setattr(chapters, "FOLDER", tmp_path)
    chapter.write_text("# Title\n\n<!-- begin exercise 4.2 -->\nstale\n<!-- end exercise 4.2 -->\n", encoding="utf-8")
    assert chapters.main(["--check"]) == 1 and "not up to date" in capsys.readouterr().err
    assert chapters.main([]) == chapters.main(["--check"]) == 0
    text = chapter.read_text(encoding="utf-8")
    assert "stale" not in text and text.count("**Exercise 4.2") == 1 == text.count("<!-- end")


def test_the_box_of_an_exercise_is_a_sentence():
    """No part of a template is left in it."""
    for entry in load_exercises():
        text, hole = chapters.exercise(entry.id), "#error" if entry.is_kernel else "NotImplementedError"
        assert f"in the place of the `{hole}`, and try it:" in " ".join(text.split()) and not {"{", "}"} & set(text)


# ---- pictures

@pytest.fixture(scope="module")
def drawn():
    return draw_figures.figures()


def test_every_picture_is_shown_once_with_words(drawn):
    texts = [*TEXTS.values(), (ROOT / "README.md").read_text(encoding="utf-8")]
    shown = [match for text in texts
             for match in re.findall(r"!\[([^\]]*)\]\((?:tutorial/)?figures/(\w+)\.png\)", text)]
    # Pages of the reference also show pictures that commands of `python -m tiny` draw.
    shown += [match for path in sorted((ROOT / "tutorial/reference").glob("*.md"))
              for match in re.findall(r"!\[([^\]]*)\]\(\.\./figures/(\w+)\.png\)", path.read_text(encoding="utf-8"))
              if match[1] in drawn]
    assert sorted(name for _, name in shown) == sorted(drawn)
    assert all(len(words) > 40 for words, _ in shown)


def test_pictures_are_small_and_of_the_embedded_model(drawn):
    for name, figure in drawn.items():
        file = draw_figures.FOLDER / f"{name}.png"
        assert file.stat().st_size <= LARGEST, name
        with Image.open(file) as image:
            assert image.text["Model"] == draw_figures.model_checksum(), f"{name} is out of date: run make figures"
            assert image.text["Code"] == draw_figures.drawn_by(figure), f"{name} is out of date: run make figures"
            inches = figure.get_size_inches()
            assert abs(np.array(image.size) - 120 * inches).max() <= 1, f"{name} is out of date: run make figures"


def test_a_changed_drawing_is_seen_and_a_changed_comment_is_not(monkeypatch, tmp_path):
    """Also a change of another module that it draws with."""
    monkeypatch.setattr(drawings, "__path__", [str(tmp_path)])
    code = {"chapter_94": "from tutorial.drawings.shapes_94 import size\n\n\ndef draw():\n    return size()\n",
            "shapes_94": "def size():\n    return 3  # inches\n"}

    def checksum(**changed):
        for name, text in (code | changed).items():
            (tmp_path / f"{name}.py").write_text(text, encoding="utf-8")
        for name in code:
            sys.modules.pop(f"tutorial.drawings.{name}", None)
        importlib.invalidate_caches()
        return draw_figures.code_checksum("tutorial.drawings.chapter_94")
    as_it_was = checksum()
    assert checksum(chapter_94='"""Words."""\n\n' + code["chapter_94"]) == as_it_was
    assert checksum(shapes_94=code["shapes_94"].replace("inches", "of them")) == as_it_was
    assert len({as_it_was, checksum(chapter_94=code["chapter_94"].replace("size()", "2 * size()")),
                checksum(shapes_94=code["shapes_94"].replace("3", "4"))}) == 3


def test_a_chapter_s_drawings_are_found_by_the_name_of_their_module(monkeypatch, tmp_path):
    monkeypatch.setattr(drawings, "__path__", [str(tmp_path)])
    for name, picture in (("chapter_91", "one"), ("chapter_92", "two"), ("shapes", "three")):
        (tmp_path / f"{name}.py").write_text("from matplotlib.figure import Figure\n\n\ndef draw():\n"
                                             f"    return {{'{picture}': Figure()}}\n", encoding="utf-8")
    assert {name: figure.get_gid() for name, figure in drawings.all_pictures().items()} == {
        "one": "tutorial.drawings.chapter_91", "two": "tutorial.drawings.chapter_92"}
    (tmp_path / "chapter_93.py").write_text("def draw():\n    return {'one': 0, 'four': 0}\n", encoding="utf-8")
    with pytest.raises(ValueError, match="chapter_93 draws one"):
        drawings.all_pictures()


def test_the_pictures_are_drawn_by_one_command(monkeypatch, tmp_path, drawn, capsys):
    monkeypatch.setattr(draw_figures, "FOLDER", tmp_path / "figures")
    monkeypatch.setattr(draw_figures, "ROOT", tmp_path)
    monkeypatch.setattr(draw_figures, "figures", lambda: {"cache": drawn["kv_cache_rows"]})
    monkeypatch.setattr("sys.argv", ["draw_figures"])
    draw_figures.main()
    assert "figures/cache.png" in capsys.readouterr().out
    with Image.open(tmp_path / "figures/cache.png") as image:
        assert image.width > 600 and len(image.convert("RGB").getcolors()) > 3


def test_chapters_need_no_notebook_and_no_framework():
    code = ("import sys; import tutorial.pages.chapters; "
            "sys.exit(bool({'matplotlib', 'torch', 'nbformat'} & set(sys.modules)))")
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0
