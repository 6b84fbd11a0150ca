"""The language model: embed the tokens, run the layers, normalise, score every word of the vocabulary.

With experts it is Mixtral; without, the dense decoder of the Mistral models. Read `sampling.py` next.
"""

from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np

import tiny.ops
from tiny.config import Config, Ids, Images, TinyError, Tokenizer, Trace
from tiny.decoder import ForwardPass, decoder_layer
from tiny.kv_cache import KVCache
from tiny.numerics import PRECISIONS


class Mixtral:
    """A decoder with its weights. Built by `tiny.load`, or from any mapping of Mistral's tensor names to arrays.

    checkpoint: what was read of its folder; None for a model that was not loaded from one
    cache: how its caches store numbers, "float32" or "bfloat16"; by default as the precision, which loses nothing
    """

    def __init__(self, config: Config, weights: Mapping[str, np.ndarray], tokenizer: Tokenizer | None = None,
                 ops: ModuleType = tiny.ops, precision: str = "float32", checkpoint: Any = None,
                 cache: str | None = None):
        self.config, self.weights, self.ops, self.precision = config, weights, ops, known("precision", precision)
        self._tokenizer, self.checkpoint, self.cache = tokenizer, checkpoint, known("cache", cache or precision)

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the checkpoint. Raises TinyError if its folder holds none."""
        if self._tokenizer is None:
            raise TinyError("This checkpoint has no tokenizer.",
                            "Put the release's tokenizer.model or tekken.json into its folder.")
        return self._tokenizer

    def new_cache(self, max_tokens: int | Sequence[int], dtype: str | None = None) -> KVCache:
        """An empty cache for one sequence of max_tokens, or for several with a limit each.

        dtype: how it stores numbers, "float32" or "bfloat16"; by default as the model has it

        Raises:  TinyError for limits that are not whole numbers of at least 1, or another dtype
        """
        limits: list = list(max_tokens) if isinstance(max_tokens, (list, tuple, np.ndarray)) else [max_tokens]
        if not all(isinstance(limit, (int, np.integer)) and limit >= 1 for limit in limits):
            raise TinyError(f"A cache for {max_tokens!r} tokens is asked for.",
                            "Give a whole number of at least 1, or a list with one for each sequence.")
        return self.ops.new_cache(self.config.n_layers, self.config.n_kv_heads, self.config.head_dim, limits,
                                  known("cache", dtype or self.cache))

    def __call__(self, ids: Ids, images: Images = (), cache: KVCache | None = None,
                 lengths: Sequence[int] | None = None, last_only: bool = False,
                 trace: Trace | None = None) -> np.ndarray:
        """Score the next token after every token, or after the last one of each sequence.

        Several sequences are packed in ids, and lengths says how many tokens each has. With a cache, ids are the tokens
        that follow those already in it. A trace is filled with every intermediate array by its stable name.

        Shapes:  ids (T,) -> logits (T, V), or (len(lengths), V) with last_only
        Dtypes:  ids int -> float32
        Raises:  TinyError if the ids are no row of whole numbers or one is not in the vocabulary, images are no list or
                 not those of the prompt, lengths do not add up to T or are not as many as the cache has, or a
                 sequence outgrows the context
        Source:  mistral-inference transformer.py, Transformer.forward
        """
        ids, lengths, past = self.check_call(ids, cache, lengths)
        pixels = self.check_images(ids, check_list(images), cache)
        logits = self.forward(ids, positions_of(past, lengths), lengths, pixels, cache, trace, last_only)
        if cache:
            cache.advance(lengths)
        return logits

    def forward(self, ids: np.ndarray, positions: np.ndarray, lengths: Sequence[int], pixels: Images,
                cache: KVCache | None, trace: Trace | None, last_only: bool) -> np.ndarray:
        """Compute what a call is for, with arguments that were checked.

        Shapes:  ids (T,), positions (T,) -> logits (T, V), or (len(lengths), V) with last_only
        """
        config, precision = self.config, self.precision
        # (1) an angle for each token's position in its own sequence
        cos, sin = self.ops.rope_table(positions, config.head_dim, config.rope_theta)
        run = ForwardPass(lengths, cos, sin, cache, trace, self.ops, precision)
        # (2) a vector for each token
        x = self.embed(ids, pixels, run)
        run.keep("embed", x)
        # (3) the layers
        for layer in range(config.n_layers):
            x = decoder_layer(x, layer, self.weights, config, run)
        # (4) normalise, (5) score the vocabulary
        if last_only and len(x) > len(lengths):
            x = self.ops.embed(np.cumsum(lengths) - 1, x)
        x = self.ops.rms_norm(x, self.weights["norm.weight"], config.norm_eps, precision)
        run.keep("norm", x)
        logits = self.ops.linear(x, self.weights["output.weight"], precision)
        run.keep("logits", logits)
        return logits

    def embed(self, ids: np.ndarray, images: Images, run: ForwardPass) -> np.ndarray:
        """Look up one vector per token. Pixtral overrides this and puts image patches into the rows of [IMG].

        Shapes:  ids (T,) -> (T, D)
        """
        return run.ops.embed(ids, self.weights["tok_embeddings.weight"])

    def look(self, ids: np.ndarray, images: Images) -> Images:
        """Check the images of prompts that are read in several passes; return what every pass takes as its images.

        Shapes:  ids (T,), of all prompts
        """
        return self.check_images(ids, check_list(images))

    def check_images(self, ids: np.ndarray, images: Images, cache: KVCache | None = None) -> Images:
        """Refuse images: this model reads text only."""
        if len(images):
            raise TinyError(f"This model reads text only; {len(images)} images came.", "Use a Pixtral checkpoint.")
        return []

    def check_call(self, ids: Ids, cache: KVCache | None,
                   lengths: Sequence[int] | None) -> tuple[np.ndarray, list[int], list[int]]:
        """Check the arguments of a call before anything is computed; return ids and lengths in proper form.

        Shapes:  ids (T,) -> ids (T,), and for each sequence how many tokens are new and how many it has
        """
        ids = check_ids(ids)
        lengths = [ids.size] if lengths is None else list(np.ravel(np.array(lengths, object)))
        if ids.min() < 0 or ids.max() >= self.config.vocab_size:
            bad = int(np.argmax((ids < 0) | (ids >= self.config.vocab_size)))
            raise TinyError(f"Token id {ids[bad]} at position {bad} is not in the vocabulary of "
                            f"{self.config.vocab_size}.", "Use the tokenizer that came with this model.")
        if not all(isinstance(n, (int, np.integer)) for n in lengths) or sum(lengths) != len(ids) or min(lengths) < 1:
            raise TinyError(f"The lengths {lengths} do not add up to {len(ids)} tokens, or one is below 1.",
                            "Give one length of at least 1 for each sequence.")
        if cache and len(cache.slots) != len(lengths):
            raise TinyError(f"The cache holds {len(cache.slots)} sequences, the call {len(lengths)}.",
                            "Give one length for each sequence of the cache.")
        past = cache.lengths if cache else [0] * len(lengths)
        for old, length in zip(past, lengths):
            if old + length > self.config.max_seq_len:
                raise TinyError(f"A sequence of {old + length:,} tokens is longer than the context of "
                                f"{self.config.max_seq_len:,}.", "Shorten the prompt.")
        return ids, list(map(int, lengths)), past


def known(name: str, value: str) -> str:
    """Return the name of a precision. Raises TinyError for another word; name is that of the argument."""
    if value not in PRECISIONS:
        raise TinyError(f"{name}={value!r} is unknown.", "Use 'float32' or 'bfloat16'.")
    return value


def positions_of(past: Sequence[int], lengths: Sequence[int]) -> np.ndarray:
    """Number the new tokens of several packed sequences, each from where its own tokens in the cache end.

    Shapes:  past and lengths: for each sequence how many tokens it has, and how many are new -> (T,) int
    """
    # (1) every sequence goes on by itself
    return np.concatenate([np.arange(n, n + length) for n, length in zip(past, lengths)])


def check_ids(ids: Ids) -> np.ndarray:
    """Return one row of token ids as an array. Raises TinyError if it is text, empty, or anything else.

    Shapes:  T numbers -> (T,)
    """
    try:
        row = np.asarray(ids)
    except ValueError:  # rows of several lengths
        row = np.empty(0, object)
    if row.ndim != 1 or not len(row) or not np.issubdtype(row.dtype, np.integer):
        came = f"the text {ids[:40]!r}" if isinstance(ids, str) else f"shape {row.shape}, {row.dtype}"
        raise TinyError(f"The model takes one row of at least one token id; got {came}.",
                        "Encode a text first, and put BOS in front: [tokenizer.bos_id, *tokenizer.encode(text)].")
    return row.astype(row.dtype.newbyteorder("="), copy=False)


def check_list(images: Images) -> Images:
    """Return the images of a call. Raises TinyError if they are None, a single picture, or anything else."""
    if isinstance(images, (list, tuple, np.ndarray)):
        return images
    raise TinyError(f"The images are one {type(images).__name__}.", "Give a list, also of a single image.")
