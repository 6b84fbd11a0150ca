"""What `convert` writes beside the weights: the tokenizer for transformers, end tokens, and no file of elsewhere."""

import hashlib
import json
import shutil

import pytest
from oracles import GOLDEN
from small import hf_config, params, random_tensors, sizes, write_hf, write_mistral
from texts import texts

import tiny
from tiny.__main__ import main
from tiny.config import TinyError
from tiny.tools.convert import tokenizer_json
from tiny.tools.convert.write import hf_config_json

PROOF = json.loads((GOLDEN / "tokenizer_json.json").read_text(encoding="utf-8"))
MODELS = {"tiny-mixtral": "tiny-mixtral", "mixtral-a": GOLDEN / "mixtral-a/mistral",
          "mixtral-b": GOLDEN / "mixtral-b/mistral"}


def converted(source, out, capsys, to="hf"):
    status = main(["convert", str(source), str(out), "--to", to])
    out_text, err = capsys.readouterr()
    assert status == 0, err
    return err


def encode(rules, text):
    """The ids of a text by the rules of a tokenizer.json, read as the tokenizers library reads them, the plain way."""
    for step in rules["normalizer"]["normalizers"]:
        if step["type"] == "Prepend":
            text = step["prepend"] + text if text else text
        else:
            text = text.replace(step["pattern"]["String"], step["content"])
    vocab, ranks = rules["model"]["vocab"], {tuple(pair): rank for rank, pair in enumerate(rules["model"]["merges"])}
    parts = [part for c in text for part in ([c] if c in vocab else [f"<0x{byte:02X}>" for byte in c.encode()])]
    while len(parts) > 1:
        best = min(range(len(parts) - 1), key=lambda n: ranks.get((parts[n], parts[n + 1]), len(ranks)))
        if (parts[best], parts[best + 1]) not in ranks:
            break
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return [vocab[part] for part in parts]


@pytest.mark.parametrize("model", MODELS)
def test_the_rules_give_the_ids_of_the_sentencepiece_file(tmp_path, capsys, model):
    """By a reading of the rules that is ours, and by the checksum of what transformers has read."""
    converted(MODELS[model], tmp_path / "out", capsys)
    data = (tmp_path / "out/tokenizer.json").read_bytes()
    rules, tokenizer = json.loads(data), tiny.load_tokenizer(tmp_path / "out/tokenizer.model")
    assert len(texts()) >= 490
    for text in texts():
        assert encode(rules, text) == tokenizer.encode(text), repr(text)
    assert hashlib.sha256(data).hexdigest() == PROOF["sha256"][model], "run tests/verify/test_tokenizer_json.py"
    special = [(token["id"], token["content"]) for token in rules["added_tokens"]]
    assert special == [(0, "<unk>"), (1, "<s>"), (2, "</s>")] and rules["model"]["unk_token"] == "<unk>"
    config = json.loads((tmp_path / "out/tokenizer_config.json").read_text())
    assert (config["bos_token"], config["eos_token"]) == ("<s>", "</s>")


def test_files_that_the_source_has_stay_as_they_are(tmp_path, capsys):
    source = tmp_path / "in"
    shutil.copytree(GOLDEN / "mixtral-a/hf", source)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (source / name).write_text('{"kept": 1}')
    converted(source, tmp_path / "out", capsys)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert json.loads((tmp_path / "out" / name).read_text()) == {"kept": 1}


def test_mistrals_layout_gets_none_of_them(tmp_path, capsys):
    converted("tiny-mixtral", tmp_path / "out", capsys, "mistral")
    assert not [*(tmp_path / "out").glob("*token*.json"), *(tmp_path / "out").glob("generation*")]


@pytest.mark.parametrize("ids, said", [((), 2), ((2,), 2), ((2, 5), [2, 5]), ((7,), 7)])
def test_end_tokens_are_handed_on(tmp_path, capsys, ids, said):
    config = sizes()
    source = write_hf(tmp_path / "in", config, random_tensors(config), eos_token_id=list(ids))
    converted(source, tmp_path / "out", capsys)
    assert json.loads((tmp_path / "out/generation_config.json").read_text())["eos_token_id"] == said
    assert hf_config_json(tiny.load(source).config)["eos_token_id"] == said
    assert tiny.load(tmp_path / "out").config.end_ids == set(ids or (2,))


def test_theta_of_the_first_mistral_is_written_out(tmp_path, capsys):
    config = sizes(None)
    source = write_mistral(tmp_path / "in", config, random_tensors(config))
    fields = params(config, sliding_window=16)
    del fields["rope_theta"]
    (source / "params.json").write_text(json.dumps(fields))
    converted(source, tmp_path / "out", capsys)
    written = json.loads((tmp_path / "out/config.json").read_text())
    assert (written["rope_theta"], written["max_position_embeddings"]) == (10000.0, 16)


def test_without_a_tokenizer_and_with_other_rules(tmp_path, capsys):
    config = sizes()
    source = write_mistral(tmp_path / "in", config, random_tensors(config))
    assert "there is no tokenizer.model" in converted(source, tmp_path / "a", capsys)
    data = (GOLDEN / "mixtral-a/mistral/tokenizer.model").read_bytes()
    assert len(tokenizer_json.read_pieces(data)) == 509
    for field, other in ((b"\x98\x02\x01", b"\x98\x02\x00"), (b"\x20\x00", b"\x20\x01")):  # bytes; spaces kept
        place = data.rindex(field)
        with pytest.raises(TinyError, match="other rules than Mixtral's"):
            tokenizer_json.read_pieces(data[:place] + other + data[place + len(field):])


# ---- links

def test_what_links_elsewhere_point_to_is_not_copied(tmp_path, capsys):
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    config = sizes()
    source = write_mistral(tmp_path / "in", config, random_tensors(config))
    (source / "notes.txt").symlink_to(secret)
    (source / "up.txt").symlink_to("../secret.txt")
    (source / "card.md").write_text("card")
    (source / "same.md").symlink_to("card.md")
    err = converted(source, tmp_path / "out", capsys)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert "not copied: notes.txt, up.txt" in err and not names & {"notes.txt", "up.txt"}
    assert (tmp_path / "out/same.md").read_text() == "card" and not (tmp_path / "out/same.md").is_symlink()


def test_links_of_a_cache_are_followed_and_no_further(tmp_path, capsys):
    config = sizes()
    top = tmp_path / "models--some--model"
    snapshot, blobs = top / "snapshots/abc", top / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    made = write_hf(tmp_path / "made", config, random_tensors(config))
    (made / "LICENSE").write_text("licence")
    for path in made.iterdir():
        path.rename(blobs / f"x{path.name}")
        (snapshot / path.name).symlink_to(f"../../blobs/x{path.name}")
    (tmp_path / "secret.txt").write_text("secret")
    (snapshot / "notes.txt").symlink_to("../../../secret.txt")
    assert "not copied: notes.txt" in converted(top, tmp_path / "out", capsys, "mistral")
    assert (tmp_path / "out/LICENSE").read_text() == "licence"


def test_stacked_experts_are_taken_apart(tmp_path, capsys):
    from tests.files.test_found_checkpoints import CONFIG, TENSORS, stacked_folder

    converted(stacked_folder(tmp_path / "in")[0], tmp_path / "out", capsys, "mistral")
    for name, x in tiny.load(tmp_path / "out", weights="mapped").weights.items():
        assert x.tobytes() == TENSORS[name].tobytes(), name
    assert tiny.load(tmp_path / "out").config.dim == CONFIG.dim and hf_config(CONFIG)["hidden_size"] == CONFIG.dim
