"""The tokenizers that tests run on: the two released ones, fetched once, and small ones made on the spot.

The released files are never committed. `python tests/helpers/fetch_tokenizer.py` takes them out of the mistral-common
package and puts them into tests/.cache/, which git ignores.
"""

import hashlib
import importlib.util
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "mistral-common==1.13.1"
MIXTRAL, PIXTRAL = "tokenizer.model.v1", "tekken_240911.json"
SHA256 = {MIXTRAL: "dadfd56d766715c61d2ef780a525ab43b8e6da4de6865bda3d95fdef5e134055",
          PIXTRAL: "1948e2d48b0e7377f1bb5f1210f1ae5f984934e75713fc07e2452729b8365316"}
CACHE = Path(__file__).parents[1] / ".cache"

CORPUS = """\
The expert that a router picks for a token is rarely the expert that a reader would pick.
Two of eight experts answer; their answers are weighed, added, and passed on to the next layer.
[INST] What is the answer? [/INST] The answer is 42, or 4.2, or 1,234,567.
    indented   text\twith tabs,  double spaces and a long line ------------
Größe, façade, naïve, Ελληνικά, русский текст, 你好，世界, 日本語, emoji 🙂🙃🙂
def f(x): return x + 1  # a comment
"""


def find_released(name: str) -> Path | None:
    """Return a released tokenizer, from the cache or from an installed mistral-common, or None.

    A file of the right name with other contents is not the released one.
    """
    spec = importlib.util.find_spec("mistral_common")
    folders = list(spec.submodule_search_locations or []) if spec else []
    files = [CACHE / name, *(Path(folder) / "data" / name for folder in folders)]
    return next((file for file in files if file.is_file() and checksum(file.read_bytes()) == SHA256[name]), None)


def checksum(data: bytes) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


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
    """Download the package, keep its tokenizers if the checksums are right, and say what was done."""
    if all((CACHE / name).is_file() and checksum((CACHE / name).read_bytes()) == SHA256[name] for name in SHA256):
        return f"{' and '.join(SHA256)} are in {CACHE} already, and their checksums are right."
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", PACKAGE, "-d", folder]
        subprocess.run(command, check=True)
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as archive:
            files = {name: archive.read(f"mistral_common/data/{name}") for name in SHA256}
    for name, data in files.items():
        if checksum(data) != SHA256[name]:
            raise SystemExit(f"{name} of {PACKAGE} has the sha256 {checksum(data)}, not {SHA256[name]}. "
                             "Nothing was written.")
    CACHE.mkdir(exist_ok=True)
    for name, data in files.items():
        (CACHE / name).write_bytes(data)
    return f"{CACHE}: {' and '.join(SHA256)} out of {PACKAGE}, checksums right."


if __name__ == "__main__":
    print(fetch())
