"""What the chapters say that a reader finds on the page: each number of the sections "Open the page"."""

import re

import numpy as np
import pytest
from oracles import ROOT

from tests.explore.cases import model_of, run_of, scene
from tiny.tools.explore import held_out, rows
from tiny.tools.explore.switches import with_switch

SECTION = re.compile(r"^## Open the page\n(.*?)^## ", re.M | re.S)
FOUND = {path.name[:2]: SECTION.search(path.read_text(encoding="utf-8"))
         for path in sorted((ROOT / "tutorial").glob("[0-9][0-9]_*.md"))}
SAID = {number: re.sub(r"\s+", " ", found[1]) for number, found in FOUND.items() if found}


def loss(name, value, layer=None):
    return held_out.loss(with_switch(model_of("text"), name, value, layer)).value


def test_each_begins_with_the_page_and_asks_for_something():
    assert set(SAID) == {"03", "05", "08", "09"}
    for said in SAID.values():
        assert said.startswith(" <details><summary>Open the page and ") and "-m tiny explore" in said
        assert "**Find out, and write down:**" in said and "<summary>What we found</summary>" in said


def test_what_heads_read():
    run, said = run_of("text"), SAID["03"]
    found = rows.attention(run, run.prompt - 1)
    pieces = model_of("text").tokenizer.pieces(run.ids)
    assert pieces[run.prompt - 1 : run.prompt + 1] == [".", "▁Then"]
    for head, piece, share in ((1, "▁Rex", 69), (3, "<s>", 95)):
        best = int(found[2, head].argmax())
        assert pieces[best] == piece and round(100 * float(found[2, head, best])) == share and f" {share}" in said


@pytest.mark.thorough
def test_the_head_that_costs_most():
    costs = {(layer, head): loss("head_off", head, layer) for layer in range(4) for head in range(4)}
    order = sorted(costs, key=costs.get)
    assert order[-1] == (2, 1) and f"{costs[2, 1]:.2f}" == "0.77" and f"{costs[order[-2]]:.2f}" == "0.68"
    assert "0.40 to 0.77" in SAID["03"] and "more than 0.68" in SAID["03"]


def test_what_june_chooses():
    run, said = run_of("text"), SAID["05"]
    june = [at for at, piece in enumerate(model_of("text").tokenizer.pieces(run.ids)) if piece == "▁June"]
    kinds = [len({int(run.trace[f"experts{layer:02}"][at, 0]) for at in june}) for layer in range(4)]
    assert [kind == 1 for kind in kinds] == [True, True, True, False] and "In layers 0, 1 and 2" in said


@pytest.mark.thorough
def test_the_expert_that_costs_most():
    costs = [loss("expert_off", expert, 3) for expert in range(8)]
    assert np.argmax(costs) == 3 and f"{costs[3]:.2f}" == "1.22" and f"{sorted(costs)[-2]:.2f}" == "0.53"
    assert f"{loss('experts_a_token', 3):.2f}" == f"{held_out.loss(model_of('text')).value:.2f}" == "0.40"
    assert "0.40 to 1.22" in SAID["05"] and "0.53 at most" in SAID["05"] and "same loss, 0.40" in SAID["05"]


def test_what_a_patch_reads():
    run, star = run_of("picture"), scene()[1].things["star"]
    on = {patch: rows.patch_attention(run, patch)[..., star].sum(axis=2) for patch in (18, 0)}
    assert 18 in star and (2, 2) == divmod(18, 8) and 0 not in star
    assert np.unravel_index(on[18].argmax(), (4, 4)) == (3, 0)
    assert [round(100 * float(on[patch][3, 0])) for patch in (18, 0)] == [97, 19]
    assert "97 per cent" in SAID["08"] and "corner 19" in SAID["08"]
    mixed = held_out.count_right(with_switch(model_of("picture"), "pictures_mixed"), pairs=True)
    assert mixed == ("right", 10, 12) and "10 of 12" in SAID["08"]


def test_attention_lies_on_one_thing_and_the_answer_hangs_on_the_other():
    run, things, said = run_of("picture"), scene()[1].things, SAID["09"]
    found = rows.attention(run, run.prompt - 1)
    shares = found[..., run.places].sum(axis=2)
    layer, head = np.unravel_index(shares.argmax(), shares.shape)
    on = found[layer, head, run.places[things["ring"]]].sum()
    assert [round(100 * float(share)) for share in (shares.max(), on)] == [98, 94]
    assert "98 per cent" in said and "94 per cent" in said
    assert [run_of("picture", hide=tuple(things[name])).text for name in ("ring", "star")] == ["purple", "orange"]
    assert run_of("picture", blind=True).text == "pink"
    assert [one.value for one in held_out.hiding(model_of("picture"))] == [12, 7, 12] and "12 are right, 7" in said
