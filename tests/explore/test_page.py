"""The page as it is stored: it asks nobody for anything, takes no text for markup, and draws as the book draws."""

import gzip
import json
import re
import shutil
import subprocess
import tomllib

import numpy as np
import pytest
from compare import assert_close
from oracles import ROOT

from tiny.sampling import sample

PAGE = ROOT / "tiny/tools/explore/page"
FILES = {path.name: path.read_text(encoding="utf-8") for path in sorted(PAGE.iterdir())}
SCRIPTS = {name: text for name, text in FILES.items() if name.endswith(".js")}
NODE = shutil.which("node")
NAMESPACE = "http://www.w3.org/2000/svg"  # a name, which nobody fetches


def test_the_page_is_small():
    """Packed, as it is sent: 40 KB at most."""
    assert sum(len(gzip.compress(text.encode())) for text in FILES.values()) < 40_000
    assert {name.partition(".")[2] for name in FILES} == {"html", "css", "js"}


@pytest.mark.parametrize("name", FILES)
def test_the_page_asks_nobody_and_runs_nothing_but_its_files(name):
    text = FILES[name].replace(NAMESPACE, "")
    assert not re.search(r"https?:|//[a-z]+\.[a-z]|@import|url\(", text)
    assert not re.search(r"\beval\b|new Function|innerHTML|outerHTML|insertAdjacentHTML|document\.write|setAttribute|"
                         r"localStorage|sessionStorage|indexedDB|cookie|WebSocket|srcdoc|javascript:", text)


def test_no_handler_or_style_stands_in_the_markup():
    text = FILES["index.html"]
    assert not re.search(r"\son\w+=|\sstyle=|<style|<script(?! defer src=\"\w+\.js\"></script>)", text)
    assert set(re.findall(r'src="([\w.]+)"', text)) == set(SCRIPTS)


def test_every_name_that_a_script_looks_up_is_in_the_markup():
    ids = set(re.findall(r'\bid="([\w-]+)"', FILES["index.html"]))
    for name, text in SCRIPTS.items():
        looked = set(re.findall(r'(?:\$|fill|options)\("([\w-]+)"', text))
        assert looked <= ids, (name, looked - ids)
    labelled = set(re.findall(r'(?:for|aria-labelledby)="([\w-]+)"', FILES["index.html"]))
    assert labelled <= ids


def test_the_files_are_installed_with_the_package():
    told = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    assert told["package-data"]["tiny.tools.explore"] == ["page/*"]
    assert {"tiny.tools.explore", "tiny.serve.explore"} <= set(told["packages"])


def node(program, data):
    """What a program of JavaScript prints behind sampling.js, given some data."""
    if not NODE:
        pytest.skip("JavaScript without a browser needs node, which is not installed.")
    source = f"{FILES['sampling.js']}\nconst data = {json.dumps(data)};\n{program}"
    return json.loads(subprocess.run([NODE, "-"], input=source, capture_output=True, text=True, check=True).stdout)


CASES = [(seed, temperature, top_p) for seed in range(4) for temperature, top_p in
         ((1.0, 1.0), (0.7, 0.9), (2.0, 0.5), (0.05, 0.95), (1.0, 0.01))]


def test_the_page_keeps_the_tokens_that_sample_keeps():
    """On 20 distributions, with ties: the same set can be drawn, and the same random number draws the same token."""
    class Fixed:
        def __init__(self, number):
            self.number = number

        def random(self):
            return self.number

    data = []
    for seed, temperature, top_p in CASES:
        logits = np.random.default_rng(seed).normal(0, 3, 300).astype(np.float32).round(1)
        data.append([logits.astype(float).tolist(), temperature, top_p])
    numbers = (np.arange(200) / 200).tolist()
    found = node("console.log(JSON.stringify(data[0].map(([logits, temperature, topP]) => {"
                 "const found = distribution(Float32Array.from(logits), temperature, topP);"
                 "return [found.order.slice(0, found.kept), data[1].map(number => draw(found, number))]; })))",
                 [data, numbers])
    for (logits, temperature, top_p), (kept, drawn) in zip(data, found):
        row = np.array(logits, np.float32)
        wanted = [sample(row, temperature, top_p, Fixed(number)) for number in numbers]
        assert drawn == wanted and set(wanted) <= set(kept)
        edge = sample(row, temperature, top_p, Fixed(np.nextafter(1, 0)))
        assert edge == kept[-1], "the last of those that can be drawn"


def test_temperature_0_takes_the_lower_id_of_equal_logits():
    found = node("const found = distribution(Float32Array.from(data), 0, 1);"
                 "console.log(JSON.stringify([found.kept, draw(found, 0.9)]))", [1.0, 5.0, 2.0, 5.0])
    assert found == [1, 1] and sample(np.array([1, 5, 2, 5], np.float32), 0, 1, None) == 1


def test_a_control_hides_as_many_others():
    source = SCRIPTS["whatif.js"]
    others = source[source.index("function others"):source.index("async function hide")]
    found = node(f"{others} console.log(JSON.stringify(data.map(marks => others(marks, 48))))",
                 [[], [3], [0, 1, 2, 8, 9, 10], list(range(30)), list(range(48))])
    for marks, hidden in zip([[], [3], [0, 1, 2, 8, 9, 10], list(range(30)), list(range(48))], found):
        assert len(set(hidden)) == len(hidden) == min(len(marks), 48 - len(marks)) and not set(hidden) & set(marks)


def test_one_share_has_one_colour_in_every_head():
    """1 % is nowhere brighter than 1 % elsewhere: the colour of a share depends on nothing else."""
    heat = re.search(r"^const heat = .*$", SCRIPTS["attention.js"], re.M)[0]
    found = node(f"{heat} console.log(JSON.stringify(data.map(heat)))", [0.0, 0.01, 0.01, 0.04, 0.25, 1.0])
    assert found[1] == found[2] and [re.search(r"[\d.]+%", one)[0] for one in found] == [
        "0.0%", "10.0%", "10.0%", "20.0%", "50.0%", "100.0%"]


def test_the_edge_of_top_p_and_every_probability():
    """A token behind exactly top_p is kept, as sample keeps it; differences are rounded to float32, as there."""
    found = node("const halves = distribution(Float32Array.from([1, 1, -200]), 1, 0.5);"
                 "console.log(JSON.stringify([halves.kept, Array.from(distribution(Float32Array.from(data), 0.3, 1)"
                 ".probabilities)]))", logits := np.random.default_rng(9).normal(0, 3, 50).astype(np.float32).tolist())
    assert found[0] == 2
    row = np.array(logits, np.float32)
    wanted = np.exp((row - row.max()).astype(np.float64) / 0.3)
    assert_close(found[1], wanted / wanted.sum(), 1e-15)
