"""The training data: seven domains of text, their tokenizer, their token streams, and batches of them."""
import hashlib
import io
import lzma
import os
import pathlib
from typing import NamedTuple

import numpy as np
import sentencepiece

from tiny.system.whole import write_whole
from tiny.training.text import stories, tasks

BOS, EOS = 1, 2
SHARES = {"shakespeare": 0.24, "milton": 0.03, "bible": 0.14, "dictionary": 0.12, "python": 0.11,
          "stories": 0.20, "tasks": 0.16}
FILES = {"shakespeare": "shakespeare", "milton": "paradise_lost", "bible": "web_bible",
         "dictionary": "wordnet_glosses", "python": "python_stdlib"}
HERE = pathlib.Path(__file__).parent


class Stream(NamedTuple):
    """The tokens of one domain, and for documents where each starts.

    Shapes: ids, answers (N,), starts (documents + 1,), empty for running text.
    Dtypes: int32, bool (part of an answer), int64.
    """

    ids: np.ndarray
    answers: np.ndarray
    starts: np.ndarray


class Batch(NamedTuple):
    """Packed sequences: ids and targets (T,) int32, weights (T,) float32, and lengths, which sum to T."""

    ids: np.ndarray
    targets: np.ndarray
    weights: np.ndarray
    lengths: list[int]


class HeldOut(NamedTuple):
    """A domain's evaluation set, and the number of characters that its targets with weight 1 stand for."""

    batches: list[Batch]
    characters: int


# ---- texts and tokenizer

def texts() -> dict[str, tuple[str, str]]:
    """Return the (training, held-out) text of every domain; the generated ones as samples.

    Order: stored texts hold out the last 3 % of their characters, cut at a line end; stories and tasks hold
        out combinations.
    """
    found = {}
    for domain in FILES:
        found[domain] = stored_text(domain)
    found["stories"] = ("\n\n".join(_stories(0, 2000, False)), "\n\n".join(_stories(1, 200, True)))
    found["tasks"] = (_chat_text(_chats(0, 2500, False)), _chat_text(_chats(1, 100, True)))
    return found


def stored_text(domain: str) -> tuple[str, str]:
    """The (training, held-out) text of a domain that is stored."""
    text = lzma.decompress((HERE.parent / "corpus" / f"{FILES[domain]}.txt.xz").read_bytes()).decode("utf-8")
    cut = text.index("\n", len(text) * 97 // 100) + 1
    return text[:cut], text[cut:]


def train_tokenizer(texts: dict[str, tuple[str, str]], vocab_size: int = 2048,
                    characters: int = 5_000_000) -> bytes:
    """Train Mixtral's kind of tokenizer on a sample of the training texts; return the tokenizer.model file.

    Order: each domain gives evenly spaced lines, about its share of `characters`, or all it has.
    Source: the trainer options stored in Mixtral's released tokenizer.model.
    Differs: the vocabulary size; one thread, so that the same texts give the same bytes.
    """
    sample = []
    for domain, (text, _) in texts.items():
        lines = [line for line in text.split("\n") if line]
        count = min(len(lines), round(len(lines) * SHARES[domain] * characters / len(text)))
        sample += [lines[i] for i in np.linspace(0, len(lines) - 1, count).astype(np.int64)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sample), model_writer=model, model_type="bpe", vocab_size=vocab_size,
        byte_fallback=True, normalization_rule_name="identity", add_dummy_prefix=True,
        remove_extra_whitespaces=False, split_digits=True, allow_whitespace_only_pieces=True,
        max_sentencepiece_length=16, character_coverage=0.99995, unk_id=0, bos_id=BOS, eos_id=EOS, pad_id=-1,
        max_sentence_length=16384, num_threads=1, minloglevel=2)
    return model.getvalue()


def open_tokenizer(model: bytes) -> sentencepiece.SentencePieceProcessor:
    """Open the bytes of a tokenizer.model file."""
    return sentencepiece.SentencePieceProcessor(model_proto=model)


# ---- token streams

def encode_text(tokenizer, text: str) -> np.ndarray:
    """Encode running text as one int32 array, without the space that SentencePiece puts in front of a string.

    A newline is a byte token and never part of a longer piece, so blocks of lines encode as the whole does.
    """
    lines = text.split("\n")
    blocks = ["\n" + "\n".join(lines[i:i + 200]) for i in range(0, len(lines), 200)]
    encoded = tokenizer.encode(blocks, num_threads=1)
    ids = np.concatenate([np.array(block[1:], np.int32) for block in encoded])
    return ids[1:]


def build_streams(tokenizer, texts, tokens: dict[str, int], held_out: bool) -> dict[str, Stream]:
    """Encode every domain of one side of the split; `tokens` says how many of stories and tasks, at least."""
    streams = {}
    for domain in FILES:
        ids = encode_text(tokenizer, texts[domain][held_out])
        streams[domain] = Stream(ids, np.ones(len(ids), np.bool_), np.zeros(0, np.int64))
    for domain, draw in (("stories", _story_documents), ("tasks", _chat_documents)):
        documents: list = []
        count, block = 0, 0
        while count < tokens[domain]:
            new = draw(tokenizer, 2 * block + 1000 + held_out, held_out)
            count += sum(len(ids) for document in new for ids, _ in document)
            documents, block = documents + new, block + 1
        streams[domain] = pack(documents)
    return streams


def pack(documents: list[list[tuple[list[int], bool]]]) -> Stream:
    """Join documents, each a list of (ids, whether an assistant answers there), into a stream."""
    parts = [part for document in documents for part in document]
    lengths = [sum(len(ids) for ids, _ in document) for document in documents]
    ids = np.fromiter((i for part, _ in parts for i in part), np.int32, sum(lengths))
    answers = np.repeat(np.array([flag for _, flag in parts], np.bool_), [len(part) for part, _ in parts])
    return Stream(ids, answers, np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))


def _stories(seed: int, count: int, held_out: bool) -> list[str]:
    rng = np.random.default_rng([seed, 11])
    return [stories.generate(rng, held_out=held_out).text for _ in range(count)]


def _chats(seed: int, count: int, held_out: bool) -> list[list[tasks.Task]]:
    """Draw chats of three to six turns."""
    rng = np.random.default_rng([seed, 12])
    return [[tasks.generate(rng, held_out=held_out) for _ in range(rng.integers(3, 7))]
            for _ in range(count)]


def _chat_text(chats: list[list[tasks.Task]]) -> str:
    return "".join(f"[INST] {turn.prompt} [/INST] {turn.answer}\n" for turns in chats for turn in turns)


def _story_documents(tokenizer, seed: int, held_out: bool) -> list:
    """A block of stories as `<s> story </s>`; a story counts as answered throughout."""
    encoded = tokenizer.encode(_stories(seed, 100, held_out), num_threads=1)
    return [[([BOS] + ids + [EOS], True)] for ids in encoded]


def _chat_documents(tokenizer, seed: int, held_out: bool) -> list:
    """A block of chats in Mixtral's own format: `<s>`, then for each turn the prompt, the answer, `</s>`."""
    documents = []
    for turns in _chats(seed, 100, held_out):
        prompts = tokenizer.encode([f"[INST] {turn.prompt} [/INST]" for turn in turns], num_threads=1)
        answers = tokenizer.encode([turn.answer for turn in turns], num_threads=1)
        document = [([BOS], False)]
        for prompt, answer in zip(prompts, answers, strict=True):
            document += [(prompt, False), (answer + [EOS], True)]
        documents.append(document)
    return documents


def load_streams(model: bytes, folder: str | os.PathLike) -> tuple[dict[str, Stream], dict[str, Stream]]:
    """Return the (training, held-out) streams, from `folder` if they are there, else made and stored there.

    The name of the stored file is a hash of the tokenizer, the corpus and the code: it is never stale.
    """
    digest = hashlib.sha256(model)
    code = [HERE / f"{name}.py" for name in ("data", "stories", "tasks")]
    for source in code + sorted((HERE.parent / "corpus").glob("*.xz")):
        digest.update(source.read_bytes())
    path = pathlib.Path(folder) / f"streams-{digest.hexdigest()[:16]}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        tokenizer, split = open_tokenizer(model), texts()
        both = (build_streams(tokenizer, split, {"stories": 6_000_000, "tasks": 4_000_000}, False),
                build_streams(tokenizer, split, {"stories": 30_000, "tasks": 20_000}, True))
        arrays = {f"{side}.{domain}.{field}": array for side, streams in enumerate(both)
                  for domain, stream in streams.items() for field, array in stream._asdict().items()}
        write_whole(path, lambda file: np.savez(file, **arrays))
    with np.load(path, allow_pickle=False) as stored:
        train, held = ({domain: Stream(*(stored[f"{side}.{domain}.{field}"] for field in Stream._fields))
                        for domain in SHARES} for side in (0, 1))
    return train, held


# ---- batches

def batch(streams: dict[str, Stream], shares: dict[str, float], seed: int, step: int, tokens: int,
          window: int, answers_only: bool = False) -> Batch:
    """Draw the batch of one step: a pure function of its arguments, so that resuming is exact.

    Shapes: ids, targets, weights (tokens,).
    Order: sequences are grouped by domain in the order of `shares`. A window of running text is BOS and
        window - 1 tokens; a document is whole, or its first `window` tokens. `shares` are shares of tokens:
        the batch is divided into slots of `window` tokens, each slot takes the domain at a random point of
        itself on the line of cumulated shares, and a domain fills its slots together, its last sequence cut.
        With `answers_only`, only assistant answers and their `</s>` have weight 1 in a chat.
    """
    rng = np.random.default_rng([seed, step])
    edges = np.cumsum(np.array(list(shares.values()), np.float64))
    first = np.arange(0, tokens, window)
    sizes = np.minimum(window, tokens - first)
    points = (first + rng.random(len(first)) * sizes) / tokens * edges[-1]
    slots = np.minimum(np.searchsorted(edges, points, side="right"), len(edges) - 1)
    quotas = np.bincount(slots, weights=sizes, minlength=len(edges)).astype(np.int64)
    drawn = []
    for domain, quota in zip(shares, quotas.tolist(), strict=True):
        stream = streams[domain]
        while quota > 0:
            longest = min(window, quota)
            last = len(stream.starts) - 1 if len(stream.starts) else len(stream.ids) - longest + 1
            drawn.append(sequence(stream, int(rng.integers(last)), longest, answers_only))
            quota -= len(drawn[-1][0])
    return join(drawn)


def sequence(stream: Stream, place: int, longest: int, answers_only: bool) -> tuple[np.ndarray, ...]:
    """Return (ids, targets, weights) of document `place`, or of the window of running text at that offset.

    A document's `</s>` is a target and never an input: every position has a true next token.
    """
    if len(stream.starts):
        part = slice(stream.starts[place], min(stream.starts[place + 1], stream.starts[place] + longest + 1))
        ids, answers = stream.ids[part], stream.answers[part]
    else:
        part = slice(place, place + longest)
        ids = np.concatenate([np.array([BOS], np.int32), stream.ids[part]])
        answers = np.concatenate([[False], stream.answers[part]])
    weights = answers[1:].astype(np.float32) if answers_only else np.ones(len(ids) - 1, np.float32)
    return ids[:-1], ids[1:], weights


def join(sequences: list[tuple[np.ndarray, ...]]) -> Batch:
    """Pack sequences into one batch."""
    ids, targets, weights = (np.concatenate(arrays) for arrays in zip(*sequences, strict=True))
    return Batch(ids, targets, weights, [len(sequence[0]) for sequence in sequences])


def held_out(streams: dict[str, Stream], tokenizer, tokens: int = 16384,
             window: int = 256) -> dict[str, HeldOut]:
    """Return each domain's fixed evaluation set: about `tokens` tokens, or all there are.

    Order: evenly spaced windows of running text that do not overlap; the first documents, each whole or cut
        at `window`; 16 sequences a batch.
    """
    sizes = piece_characters(tokenizer)
    found = {}
    for domain, stream in streams.items():
        if len(stream.starts):
            documents = int(np.searchsorted(stream.starts, tokens, side="right")) - 1
            places = np.arange(min(documents, len(stream.starts) - 1))
        else:
            count = max(1, min(tokens, len(stream.ids)) // window)
            places = np.linspace(0, len(stream.ids) - window, count).astype(np.int64)
        drawn = [sequence(stream, int(place), window, False) for place in places]
        batches = [join(drawn[i:i + 16]) for i in range(0, len(drawn), 16)]
        characters = sum(int(sizes[b.targets].sum()) for b in batches)
        if len(stream.starts):
            # SentencePiece's space in front of a string, after <s> and </s>, is no character of the text.
            characters -= sum(int(np.count_nonzero((b.ids == BOS) | (b.ids == EOS))) for b in batches)
        found[domain] = HeldOut(batches, characters)
    return found


def piece_characters(tokenizer) -> np.ndarray:
    """Return how many characters each piece stands for.

    Shapes: (V,). Control pieces stand for none; of the bytes of a character, the first stands for it.
    """
    sizes = np.zeros(tokenizer.vocab_size(), np.int64)
    for i in range(tokenizer.vocab_size()):
        piece = tokenizer.id_to_piece(i)
        if tokenizer.is_byte(i):
            sizes[i] = not 0x80 <= int(piece[3:5], 16) < 0xC0
        elif not tokenizer.is_control(i) and not tokenizer.is_unknown(i):
            sizes[i] = len(piece)
    return sizes
