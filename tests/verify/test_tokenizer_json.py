"""The tokenizer.json that `convert` writes, read by transformers: the ids and the texts of the SentencePiece file.

What is shown here is kept as the checksum of the file in tests/golden/tokenizer_json.json; where transformers is
missing, test_convert_tokenizer.py compares with that.
"""

import hashlib
import importlib.util
import json
from importlib.metadata import version

import pytest
from oracles import GOLDEN
from texts import texts

import tiny
from tiny.__main__ import main

MISSING = [name for name in ("transformers", "tokenizers") if importlib.util.find_spec(name) is None]
pytestmark = [pytest.mark.verify,
              pytest.mark.skipif(bool(MISSING), reason=f"This check needs {' and '.join(MISSING)} (the verify extra).")]
STORED = GOLDEN / "tokenizer_json.json"


@pytest.mark.parametrize("model", ["tiny-mixtral", "mixtral-a", "mixtral-b"])
def test_the_same_ids_and_texts(tmp_path, model, record_property):
    from transformers import AutoTokenizer

    source = model if model.startswith("tiny") else GOLDEN / model / "mistral"
    assert main(["convert", str(source), str(tmp_path / "out"), "--to", "hf"]) == 0
    theirs = AutoTokenizer.from_pretrained(tmp_path / "out")
    ours = tiny.load_tokenizer(tmp_path / "out/tokenizer.model")
    for text in texts():
        ids = ours.encode(text)
        assert theirs(text, add_special_tokens=False).input_ids == ids, repr(text)
        assert theirs(text).input_ids == [ours.bos_id, *ids]
        assert theirs.decode(ids) == ours.decode(ids), repr(text)
        assert theirs.decode([ours.bos_id, *ids, ours.eos_id], skip_special_tokens=True) == ours.decode(ids)
    assert (theirs.bos_token_id, theirs.eos_token_id) == (ours.bos_id, ours.eos_id)
    proof = json.loads(STORED.read_text(encoding="utf-8"))
    digest = hashlib.sha256((tmp_path / "out/tokenizer.json").read_bytes()).hexdigest()
    assert proof["sha256"][model] == digest, "keep the new checksum: this file was compared just now"
    record_property("version transformers", version("transformers"))
    record_property(f"tokenizer.json of {model}", f"the ids and texts of tokenizer.model on {len(texts())} texts")
