"""The numbers that stand in the prose of how_a_vision_model_is_scored.md are those of the code and of the tests."""

import json
import re

import test_intervals
from oracles import ROOT

from tiny.evals import intervals, judge, metrics
from tiny.evals.clients import ask
from tiny.evals.report import PUBLISHED

PAGE = ROOT / "tutorial/reference/how_a_vision_model_is_scored.md"


def test_numbers_of_the_prose():
    text = re.sub(r"<!-- begin (\w+) -->.*?<!-- end \1 -->", "", PAGE.read_text(encoding="utf-8"), flags=re.S)
    row = json.loads(PUBLISHED.read_text(encoding="utf-8"))["pixtral_table2"]["rows"]["Pixtral 12B"]
    known = {"58.3": row[0], "6.05": row[5], "5 %": metrics.NEAR, "93": test_intervals.COVERED[0], "97":
             test_intervals.COVERED[1]}
    assert (known["58.3"], known["6.05"], known["5 %"], known["93"], known["97"]) == (58.3, 6.05, 0.05, 0.93, 0.97)
    shares = {"86": test_intervals.PLAIN, "90": test_intervals.HIDDEN}
    assert test_intervals.COUNTS == (18, 30, 90) and test_intervals.RUNS == 2000, "and two thousand runs"
    assert all(int(name) == round(100 * share) for name, share in shares.items())
    assert judge.TRIES == 3 and ask.__defaults__[0] == 3, "the page says three times"
    assert intervals.FEW == 10 and "Below ten of them" in text
    one = intervals.bootstrap([2.0, 9.0], ["a", "a"], 1, 10)
    assert one.value == 5.5 and one.high - one.low > 6, "most of the scale"
    text = re.sub(r"^## \d+\.|\]\([^)]*\)", "", text, flags=re.M)  # without numbers of headings, and addresses of links
    found = set(re.findall(r"(?<![\w.])\d+(?:\.\d+)*(?: %)?(?![\w.]*\d)", text))
    examples = {"12", "897", "900", "0", "1", "2", "5.5", "3", "9", "10", "100"}  # answers, scales, levels
    examples |= {"127.0.0.1", "8000"}
    assert found - examples == known.keys() | shares.keys() | {"18", "30"}
