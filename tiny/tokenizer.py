"""Text to token ids and back, with the released SentencePiece file of Mixtral.

The library finds the pieces; what is written here is what a model needs around it: errors that say what to
do, and a stream that turns tokens into text one at a time. The stream has to reproduce the library's decoder.
Facts about it, found by experiment on sentencepiece 0.2 and held by tests:

* Control ids (BOS, EOS) leave no text, but they end a run of byte pieces.
* The first id that is not a control id loses one leading U+2581, the mark of a space, if it has one. A lone
  space piece at the start leaves no text, and the piece after it keeps its own space.
* In all other pieces U+2581 is a space. Spelt as three byte pieces it is not: then it stays U+2581.
* The unknown id leaves " \\u2047 ".
* A run of byte pieces is read as UTF-8. A byte that begins no valid character becomes one U+FFFD, and reading
  goes on at the next byte. Python's own errors="replace" makes fewer of them.

Read `chat.py` next.
"""

import codecs
import operator
from pathlib import Path

from tiny import chat
from tiny.config import TinyError

SPACE = "\u2581"
# The released file has half a megabyte; the largest known of this kind have about five.
LARGEST_FILE = 64 * 2**20


class SentencePieceTokenizer:
    """A tokenizer.model file.

    `vocab_size`, `bos_id` and `eos_id` are plain numbers.

    Source:  mistral-common 1.13.1, sentencepiece.py; the file of the Mixtral release
    """

    def __init__(self, model):
        self._model = model
        self._pieces: list[str] = [model.id_to_piece(id) for id in range(model.vocab_size())]
        self.vocab_size: int = len(self._pieces)
        self.bos_id: int = model.bos_id()
        self.eos_id: int = model.eos_id()

    def encode(self, text: str) -> list[int]:
        """Split text into token ids, without BOS and EOS. Control strings in the text, as "<s>", are text.

        Raises:  TinyError for something that is not a string, or that holds half of a surrogate pair
        """
        if not isinstance(text, str):
            raise TinyError(f"The text to encode is of type {type(text).__name__}.",
                            "Give a str; decode bytes first.")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            code = f"U+{ord(text[error.start]):04X}"
            remedy = "Repair it: text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')."
            raise TinyError(f"Character {error.start} of the text is {code}, half of a surrogate pair.",
                            remedy) from None
        return self._model.encode(text)

    def decode(self, ids) -> str:
        """Join token ids to text; special tokens are left out.

        Raises:  TinyError that names an id outside of the vocabulary
        """
        return self._model.decode([self._checked(id) for id in ids])

    def pieces(self, ids) -> list[str]:
        """Return the vocabulary entry of each id, for display: U+2581 stands for a space, <0x0A> for a byte.

        Raises:  TinyError that names an id outside of the vocabulary
        """
        return [self._pieces[self._checked(id)] for id in ids]

    def encode_chat(self, messages: list[dict], style: str = "mistral") -> tuple[list[int], list]:
        """Write a chat as token ids, with BOS; the second value is the list of images, always empty here.

        Raises:  TinyError for malformed messages, an image, an unknown style, or a file of a later format
        """
        chat.check_style(style)
        if self._model.is_control(self._model.piece_to_id("[INST]")):
            raise TinyError("This tokenizer is of a later chat format: it has a control token [INST].",
                            "Use the tokenizer.model that was released with Mixtral 8x7B.")
        return chat.encode_v1(chat.normalise(messages), self), []

    def stream(self) -> "TextStream":
        """Start to decode token by token."""
        return TextStream(self)

    def _checked(self, id) -> int:
        """Return a token id as an int, or raise a TinyError that names it."""
        try:
            number = operator.index(id)
        except TypeError:
            raise TinyError(f"Token id {id!r} is not a whole number.", "Give ids as ints.") from None
        if not 0 <= number < self.vocab_size:
            raise TinyError(f"Token id {number} is outside of the vocabulary, 0 to {self.vocab_size - 1}.",
                            "Use the tokenizer that belongs to the model.")
        return number


class TextStream:
    """Decodes one token at a time; the joined strings equal `decode` of all ids.

    Nothing is decoded twice: the state is at most three bytes of an unfinished character, and whether text
    has begun.
    """

    def __init__(self, tokenizer: SentencePieceTokenizer):
        self._tokenizer, self._model = tokenizer, tokenizer._model
        self._held = b""
        self._starting = True

    def push(self, id: int) -> str:
        """Return the text that this token completes; it may be empty.

        Raises:  TinyError that names an id outside of the vocabulary
        """
        id = self._tokenizer._checked(id)
        if self._model.is_byte(id):
            self._starting = False
            # A byte piece is written <0xE2>.
            self._held += bytes([int(self._tokenizer._pieces[id][3:5], 16)])
            text, self._held = read_bytes(self._held, final=False)
            return text
        return self.finish() + self._piece_text(id)

    def finish(self) -> str:
        """Return what is still held back: bytes that no further token will complete."""
        text, self._held = read_bytes(self._held, final=True)
        return text

    def _piece_text(self, id: int) -> str:
        if self._model.is_control(id):
            return ""
        # The library takes one space from the first piece, and looks up how unknown text is shown.
        if self._starting or self._model.is_unknown(id):
            self._starting = False
            return self._model.decode([id])
        return self._tokenizer._pieces[id].replace(SPACE, " ")


def read_bytes(data: bytes, final: bool) -> tuple[str, bytes]:
    """Read UTF-8 as SentencePiece does, one U+FFFD for each byte that fits nowhere.

    Returns the text and the bytes that may still become a character; with `final` there are none.
    """
    text = ""
    while data:
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            return text + decoder.decode(data, final), decoder.getstate()[0]
        except UnicodeDecodeError as error:
            text += data[:error.start].decode("utf-8") + "\ufffd"
            data = data[error.start + 1:]
    return text, b""


def load_tokenizer(path: str | Path) -> SentencePieceTokenizer:
    """Read a tokenizer.model, by its own name or as the folder that holds it.

    Raises:  TinyError if it is missing, empty, cut short, not a SentencePiece file, or a tekken.json
    Differs: mistral-common takes the chat format from the file's name; here the name means nothing
    """
    # Imported here so that commands without text start without it.
    import sentencepiece

    path = find_tokenizer(Path(path))
    data = read_file(path)
    remedy = "Fetch the file again, from the same release as the weights."
    try:
        model = sentencepiece.SentencePieceProcessor(model_proto=data)
        tokenizer = SentencePieceTokenizer(model)
        # Bytes that are not UTF-8 show only when they are read; the pieces have been, in the line above.
        model.decode([model.unk_id()] if model.unk_id() >= 0 else [])
    except (RuntimeError, UnicodeDecodeError):
        raise TinyError(f"{path} is not a SentencePiece model, or it is damaged.", remedy) from None
    if min(model.bos_id(), model.eos_id(), model.unk_id()) < 0:
        raise TinyError(f"{path} has no ids for BOS, EOS or unknown text.", remedy)
    # A file cut before its last field loads, and then silently swallows spaces.
    if model.decode(model.encode("  ")) != "  ":
        raise TinyError(f"{path} does not keep spaces as Mixtral's file does, or it is cut short.", remedy)
    return tokenizer


def find_tokenizer(path: Path) -> Path:
    """Return the tokenizer file that `path` is or holds: tokenizer.model, else the first tokenizer.model.v*.

    Raises:  TinyError if there is none, or only a tekken.json
    """
    found: Path | None = path
    if path.is_dir():
        patterns = ("tokenizer.model", "tokenizer.model.v*", "tekken*.json")
        named = [file for pattern in patterns for file in sorted(path.glob(pattern))]
        found = next((file for file in named if file.is_file()), None)
    if found is None:
        raise TinyError(f"{path} holds no tokenizer.model.",
                        "Copy it from the release that the weights come from.")
    if found.name.startswith("tekken") and found.suffix == ".json":
        raise TinyError(f"{found} is a Tekken tokenizer, which this version does not read yet.",
                        "Use a model with a tokenizer.model, as Mixtral's.")
    return found


def read_file(path: Path) -> bytes:
    """Read a whole file of plausible size.

    Raises:  TinyError if it is missing, unreadable, empty or too large
    """
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= LARGEST_FILE else b""
    except FileNotFoundError:
        raise TinyError(f"{path} does not exist.",
                        "Give a tokenizer.model, or the folder that holds it.") from None
    except OSError as error:
        raise TinyError(f"{path} cannot be read: {error.strerror}.",
                        "Check the path and its permissions.") from None
    if not data:
        what = "is empty" if size == 0 else f"has {size} bytes, too many for a tokenizer"
        raise TinyError(f"{path} {what}.", "Fetch the file again, from the same release as the weights.")
    return data
