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

Read `image.py` next, where the vision half begins.
"""

import codecs
import operator
import re
from typing import Any

from tiny import chat
from tiny.config import Ids, TinyError

SPACE = "\u2581"


class SentencePieceTokenizer:
    """A tokenizer.model file.

    `vocab_size`, `bos_id` and `eos_id` are plain numbers.

    Source:  mistral-common 1.13.1, sentencepiece.py; the file of the Mixtral release
    """

    def __init__(self, model: Any):
        self._model = model
        self._pieces: list[str] = model.id_to_piece(list(range(model.vocab_size())))
        self.vocab_size, self.bos_id, self.eos_id = len(self._pieces), model.bos_id(), model.eos_id()

    def add(self, names: list[str]) -> None:
        """Give the ids that follow the file's a name each, so that they can be shown. They have no text."""
        self._pieces += names
        self.vocab_size += len(names)

    def in_file(self, id: int) -> int:
        """An id of the file: BOS for one that was added, which leaves as little text.

        Raises:  TinyError that names an id outside of the vocabulary
        """
        id = check_id(id, self.vocab_size)
        return id if id < self._model.vocab_size() else self.bos_id

    def encode(self, text: str) -> list[int]:
        """Split text into token ids, without BOS and EOS. Control strings in the text, as "<s>", are text.

        Raises:  TinyError for something that is not a string, or that holds half of a surrogate pair
        """
        check_text(text)
        if half := re.search("[\ud800-\udfff]", text):
            cause = f"Character {half.start()} of the text is U+{ord(half[0]):04X}, half of a surrogate pair."
            raise TinyError(cause, "Repair it: text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace').")
        return self._model.encode(text)

    def decode(self, ids: Ids) -> str:
        """Join token ids to text; special tokens are left out.

        Raises:  TinyError that names an id outside of the vocabulary
        """
        return self._model.decode([self.in_file(id) for id in ids])

    def pieces(self, ids: Ids) -> list[str]:
        """Return the vocabulary entry of each id, for display: U+2581 stands for a space, <0x0A> for a byte.

        Raises:  TinyError that names an id outside of the vocabulary
        """
        return [self._pieces[check_id(id, self.vocab_size)] for id in ids]

    def encode_chat(self, messages: list[dict], style: str = "mistral") -> tuple[list[int], list]:
        """Write a chat as token ids, with BOS; the second value is the list of images, always empty here.

        Raises:  TinyError for malformed messages, an image, an unknown style, or a file of a later format
        """
        chat.check_style(style, ("mistral",))
        if self._model.is_control(self._model.piece_to_id("[INST]")):
            raise TinyError("This tokenizer is of a later chat format: it has a control token [INST].",
                            "Use the tokenizer.model that was released with Mixtral 8x7B.")
        return chat.encode_v1(chat.normalise(messages), self), []

    def stream(self) -> "TextStream":
        """Start to decode token by token."""
        return TextStream(self)


class TextStream:
    """Decodes one token at a time; the joined strings equal `decode` of all ids.

    Nothing is decoded twice: the state is at most three bytes of an unfinished character, and whether text
    has begun.
    """

    def __init__(self, tokenizer: SentencePieceTokenizer):
        self._tokenizer, self._model = tokenizer, tokenizer._model
        self._held, self._starting = b"", True

    def push(self, id: int) -> str:
        """Return the text that this token completes; it may be empty.

        Raises:  TinyError that names an id outside of the vocabulary
        """
        id = self._tokenizer.in_file(id)
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

    Returns the text, and the bytes at the end that may still become a character; `final` leaves none.
    """
    # (1) read up to a byte that fits nowhere, put U+FFFD for this one byte, and go on behind it
    read = ""
    while data:
        decoder = codecs.getincrementaldecoder("utf-8")()
        try:
            return read + decoder.decode(data, final), decoder.getstate()[0]
        except UnicodeDecodeError as error:
            read += data[:error.start].decode("utf-8") + "\ufffd"
            data = data[error.start + 1:]
    # (2) if all bytes are read, or `final`, nothing waits
    return read, b""


def check_text(text: str) -> None:
    """Refuse what is not a string.

    Raises:  TinyError that names the type
    """
    if not isinstance(text, str):
        raise TinyError(f"The text to encode is of type {type(text).__name__}.", "Give a str; decode bytes first.")


def check_id(id: Any, vocab_size: int) -> int:
    """Return a token id as an int.

    Raises:  TinyError that names it, if it is no whole number or outside of the vocabulary
    """
    try:
        number = operator.index(id)
    except TypeError:
        raise TinyError(f"Token id {id!r} is not a whole number.", "Give ids as ints.") from None
    if not 0 <= number < vocab_size:
        raise TinyError(f"Token id {number} is outside of the vocabulary, 0 to {vocab_size - 1}.",
                        "Use the tokenizer that belongs to the model.")
    return number
