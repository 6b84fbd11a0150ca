"""What several ranks send, by formula, and what that costs on networks that people have: an estimate, nobody ran it.

Bytes are those of arrays, summed over all ranks; `Group` counts the same while it runs. Read `model.py` next.
"""

from dataclasses import dataclass
from itertools import combinations
from math import ceil, comb, log2

from tiny.config import Config
from tiny.parallel.shards import SPLITS, sizes_of

FLOAT = 4  # bytes of a number that is sent


@dataclass(frozen=True)
class Network:
    """Seconds until a message begins to arrive, and bytes a second from then on; assumed, not measured."""

    name: str
    delay: float
    rate: float


NETWORKS = (Network("1 Gb Ethernet", 50e-6, 0.117e9), Network("10 Gb Ethernet", 25e-6, 1.17e9),
            Network("100 Gb InfiniBand", 3e-6, 11e9), Network("NVLink with NCCL", 12e-6, 150e9))
CHOICES = 20_000  # choices of experts that are worth counting one by one
CPU, GPU = 40e9, 3e12  # bytes of weights that a machine reads in a second: two channels of DDR5, one large GPU


def bytes_sent(config: Config, size: int, split: str, tokens: int, scored: int, patches: int = 0) -> int:
    """Bytes that all ranks together send to each other for some tokens.

    Whole experts: each answer, K for a token in each layer, goes to all ranks but its own. Heads and hidden rows: two
    sums in each layer, of which each rank sends its share of every other piece, then its own piece to every other rank;
    and the logits of `scored` tokens, if the vocabulary can be shared.

    patches: of images that go through the encoder, whose layers send the same
    """
    others = size - 1
    if split == "experts":
        assert config.moe is not None
        return config.n_layers * others * config.moe.num_experts_per_tok * tokens * config.dim * FLOAT
    decoder = 2 * config.n_layers * sum_bytes(tokens * config.dim, size)
    logits = 0 if config.vocab_size % size else others * scored * config.vocab_size * FLOAT
    vision = config.vision
    encoder = 2 * vision.num_hidden_layers * sum_bytes(patches * vision.hidden_size, size) if vision else 0
    return decoder + logits + encoder


def sum_bytes(n: int, size: int) -> int:
    """Bytes that all ranks together send to add arrays of n numbers: pieces there, and their sums back."""
    return 2 * (size - 1) * size * ceil(n / size) * FLOAT


def decode_seconds(config: Config, size: int, split: str, network: Network, memory: float,
                   itemsize: int = 2) -> tuple[float, float]:
    """Seconds in which the busiest rank reads the weights of one token, and in which its answers travel.

    A token visits K experts that it chooses evenly. With whole experts the busiest rank reads as many as the most
    that one rank is expected to have, and attention is repeated on all.

    memory: bytes of weights that one machine reads in a second
    """
    D, query, kv = config.dim, config.n_heads * config.head_dim, config.n_kv_heads * config.head_dim
    attention, expert = config.n_layers * D * (2 * query + 2 * kv), config.n_layers * 3 * D * config.hidden_dim
    E, K = (config.moe.num_experts, config.moe.num_experts_per_tok) if config.moe else (1, 1)
    steps = ceil(log2(size))
    asked = 2 * steps * network.delay  # the question before each pass
    if split == "all":
        weights = (attention + K * expert + D * config.vocab_size) / size
        sums = 2 * config.n_layers * (2 * steps * network.delay + sum_bytes(D, size) / size / network.rate)
        logits = steps * network.delay + (size - 1) / size * config.vocab_size * FLOAT / network.rate
        return weights * itemsize / memory, (asked + sums + logits) * (size > 1)
    weights = attention + D * config.vocab_size + busiest(E, K, size) * expert
    sent = config.n_layers * (steps * network.delay + (size - 1) / size * K * D * FLOAT / network.rate)
    return weights * itemsize / memory, (asked + sent) * (size > 1)


def busiest(num_experts: int, chosen: int, size: int) -> float:
    """How many of a token's experts the busiest rank has, on average over all choices; the most, if they are many."""
    each = num_experts // size
    if comb(num_experts, chosen) > CHOICES:
        return min(chosen, each)
    choices = list(combinations(range(num_experts), chosen))
    return sum(max(sum(e // each == rank for e in choice) for rank in range(size)) for choice in choices) / len(choices)


def eight_machines(config: Config) -> list[dict]:
    """What one token would take on eight machines, by split, memory and network; an estimate."""
    rows = []
    for split in SPLITS:
        counts = sizes_of(config, split)
        if not counts or any(number % 8 for number, _ in counts):
            continue
        for memory in (CPU, GPU):
            for network in NETWORKS:
                read, sent = decode_seconds(config, 8, split, network, memory)
                rows.append({"split": split, "memory_bytes_per_second": memory, "network": network.name,
                             "read_seconds": read, "sent_seconds": sent, "tokens_per_second": 1 / (read + sent)})
    return rows
