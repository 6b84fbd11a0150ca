"""The sizes of a model, as its files state them, and the types of what a model is given.

The field names are those of Mistral's `params.json`, and are used everywhere. Read `numerics.py` next.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

Ids = Sequence[int] | np.ndarray  # token ids
Images = Sequence[Any]  # each a preprocessed array (3, H, W), a PIL image or a path


class TinyError(ValueError):
    """An error that a user can act on: one line of cause, one of remedy."""

    def __init__(self, cause: str, remedy: str):
        super().__init__(f"{cause}\n{remedy}")
        self.cause, self.remedy = cause, remedy


@dataclass(frozen=True)
class MoeConfig:
    """Sizes of the mixture of experts. Source: params.json, `moe`."""

    num_experts: int
    num_experts_per_tok: int


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of a vision encoder, and which token stands for a patch.

    max_image_size: longest side in pixels; larger images are shrunk to it.

    Source: params.json, `vision_encoder`
    """

    hidden_size: int
    num_channels: int
    image_size: int
    patch_size: int
    rope_theta: float
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    image_token_id: int
    max_image_size: int
    image_break_token_id: int | None = field(default=None, compare=False)
    image_end_token_id: int | None = field(default=None, compare=False)
    # The encoder's layers are those of the decoder: dense, and with this epsilon whatever the text's is.
    moe: None = None
    norm_eps: float = 1e-5

    @property
    def head_dim(self) -> int:
        """The width of one head."""
        return self.hidden_size // self.num_attention_heads


@dataclass(frozen=True)
class Config:
    """Sizes of a decoder. `moe` is None for a dense feed-forward; `vision` is None for a text model.

    end_ids: tokens that end a text, beside the tokenizer's EOS

    Source: params.json of the release; mistral-inference args.py, TransformerArgs.
    """

    dim: int
    n_layers: int
    head_dim: int
    hidden_dim: int
    n_heads: int
    n_kv_heads: int
    norm_eps: float
    vocab_size: int
    rope_theta: float
    max_seq_len: int
    moe: MoeConfig | None = None
    vision: VisionConfig | None = None
    end_ids: frozenset[int] = field(default=frozenset(), compare=False)


class Tokenizer(Protocol):
    """What a model asks of a tokenizer. `tokenizer.py` and `tekken.py` have one each."""

    vocab_size: int
    bos_id: int
    eos_id: int

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without BOS and EOS."""

    def decode(self, ids: Ids) -> str:
        """The text of ids; special tokens are left out."""

    def encode_chat(self, messages: list[dict], style: str = "mistral") -> tuple[list[int], list[np.ndarray]]:
        """The ids of a chat, with BOS, and its preprocessed images."""

    def stream(self) -> Any:
        """A decoder of one id at a time: push(id) gives the text that it completes, finish() the rest."""


class Trace(Protocol):
    """What keeps intermediate arrays by name: a dict, or less."""

    def __setitem__(self, name: str, value: np.ndarray, /) -> None:
        """Keep an array."""
