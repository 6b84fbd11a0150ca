"""A maintainer's script: pack the raw texts of the corpus into `corpus/*.txt.xz`.

    python -m tiny.training.text.build_corpus FOLDER_WITH_RAW_TEXTS

The code domain is read from the running interpreter, which has to be CPython 3.11.7, so that the same file
can be made again.
"""
import lzma
import pathlib
import platform
import sys
import sysconfig

from tiny.config import TinyError
from tiny.system.whole import write_whole

CORPUS = pathlib.Path(__file__).parents[1] / "corpus"
RAW_TEXTS = ("shakespeare", "paradise_lost", "web_bible", "wordnet_glosses")
PYTHON_VERSION = "3.11.7"

# Readable modules in alphabetical order. Tables, encodings, platform glue and generated files are left out.
# The end of the list is the held-out text of the domain.
PYTHON_MODULES = """
abc argparse ast asyncio/events asyncio/futures asyncio/locks asyncio/queues asyncio/runners asyncio/streams
asyncio/tasks asyncio/timeouts base64 bisect calendar cmd code codecs collections/__init__ colorsys
concurrent/futures/_base configparser contextlib copy csv dataclasses datetime difflib enum fileinput
fnmatch fractions functools getopt gettext glob graphlib gzip hashlib heapq hmac html/parser io json/decoder
json/encoder linecache logging/__init__ netrc numbers operator pathlib pkgutil poplib posixpath pprint
profile queue random reprlib sched secrets selectors shelve shlex shutil socketserver statistics string
tabnanny tempfile textwrap threading timeit tokenize trace traceback unittest/case unittest/loader
unittest/suite urllib/parse urllib/robotparser uuid warnings wave weakref
""".split()


def python_text() -> str:
    """Join the listed modules of the standard library, each under a line that names it."""
    if platform.python_version() != PYTHON_VERSION or platform.python_implementation() != "CPython":
        raise TinyError(f"The code domain needs CPython {PYTHON_VERSION}.", "Run this script with it.")
    library = pathlib.Path(sysconfig.get_path("stdlib"))
    modules = [(name, (library / f"{name}.py").read_text(encoding="utf-8")) for name in PYTHON_MODULES]
    return "\n".join(f"# Lib/{name}.py\n{text}" for name, text in modules)


def write(name: str, text: str) -> None:
    """Compress one text; the same text gives the same bytes with the same liblzma."""
    text = text.replace("\r\n", "\n").rstrip("\n") + "\n"
    data = lzma.compress(text.encode("utf-8"), preset=9 | lzma.PRESET_EXTREME)
    write_whole(CORPUS / f"{name}.txt.xz", data)
    print(f"{name}: {len(text):,} characters, {len(data):,} bytes compressed")


def main(arguments: list[str]) -> int:
    """Write every file of the corpus; returns the exit status."""
    try:
        if len(arguments) != 1:
            raise TinyError(f"{len(arguments)} arguments were given.", "Give one: the folder with the raw texts.")
        code = python_text()
        for name in RAW_TEXTS:
            write(name, (pathlib.Path(arguments[0]) / f"{name}.txt").read_text(encoding="utf-8"))
        write("python_stdlib", code)
    except TinyError as error:
        print(f"error: {error.cause}\nremedy: {error.remedy}", file=sys.stderr)
        return 2
    except (OSError, UnicodeError) as error:
        print(f"error: {error}.\nremedy: Give the folder with the raw texts.", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
