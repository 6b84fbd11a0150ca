"""The same model and the same training step in plain PyTorch: the reference for gradients, and for speed.

    python tests/verify/torch_speed.py [--tokens 2048] [--rounds 5]

times both trainers in turn, a few steps each, on one thread, and prints one JSON object: the median tokens per second
of both. Set OPENBLAS_NUM_THREADS=1, which counts for NumPy as torch.set_num_threads(1) counts for torch.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[2]))

from tiny.training.text import data, train  # noqa: E402


def torch_loss(config, w, ids, targets, weights, lengths, coefficient):
    """The decoder as one would write it in PyTorch: packed tokens, scaled_dot_product_attention for each sequence,
    a loop over experts, index_add_ for their answers. Returns cross-entropy and mean load-balancing loss.
    """
    positions = torch.cat([torch.arange(length) for length in lengths])
    pairs = torch.arange(0, config.head_dim, 2, dtype=torch.float64)
    angles = torch.outer(positions.double(), config.rope_theta ** (-pairs / config.head_dim))
    turn = torch.polar(torch.ones_like(angles), angles).to(torch.complex64)[:, None]
    x, balance = w["tok_embeddings.weight"][ids], []
    for layer in range(config.n_layers):
        named = f"layers.{layer}.{{}}.weight".format
        x = x + torch_attention(rms_norm(x, w[named("attention_norm")], config), w, named, turn, lengths, config)
        y, aux = torch_feed_forward(rms_norm(x, w[named("ffn_norm")], config), w, named, config)
        x = x + y
        balance.append(aux)
    logits = rms_norm(x, w["norm.weight"], config) @ w["output.weight"].T
    losses = F.cross_entropy(logits, targets, reduction="none")
    return (losses * weights).sum() / weights.sum(), torch.stack(balance).mean()


def rms_norm(x, weight, config):
    return F.rms_norm(x, weight.shape, weight, config.norm_eps)


def torch_attention(y, w, named, turn, lengths, config):
    q, k, v = (F.linear(y, w[named(f"attention.{m}")]).view(len(y), -1, config.head_dim) for m in ("wq", "wk", "wv"))
    q, k = (torch.view_as_real(torch.view_as_complex(z.reshape(*z.shape[:2], -1, 2)) * turn).flatten(2) for z in (q, k))
    parts = [F.scaled_dot_product_attention(*(z.transpose(0, 1)[None] for z in part), is_causal=True, enable_gqa=True)
             for part in zip(*(z.split(lengths) for z in (q, k, v)))]
    out = torch.cat([part[0].transpose(0, 1) for part in parts]).reshape(len(y), -1)
    return F.linear(out, w[named("attention.wo")])


def swiglu(y, w1, w2, w3):
    return F.linear(F.silu(F.linear(y, w1)) * F.linear(y, w3), w2)


def torch_feed_forward(y, w, named, config):
    matrices = ("w1", "w2", "w3")
    if config.moe is None:
        return swiglu(y, *(w[named(f"feed_forward.{m}")] for m in matrices)), torch.zeros(())
    E, K = config.moe.num_experts, config.moe.num_experts_per_tok
    logits = F.linear(y, w[named("feed_forward.gate")])
    top, chosen = torch.topk(logits, K)
    scales, out = torch.softmax(top, dim=1), torch.zeros_like(y)
    for e in range(E):
        tokens, rank = torch.where(chosen == e)
        answer = swiglu(y[tokens], *(w[named(f"feed_forward.experts.{e}.{m}")] for m in matrices))
        out = out.index_add(0, tokens, answer * scales[tokens, rank, None])
    share = torch.bincount(chosen.flatten(), minlength=E) / len(y)
    return out, E * (share * torch.softmax(logits, dim=1).mean(0)).sum()


class TorchTrainer:
    """A plain loop: autograd, clip_grad_norm_, AdamW with decay on matrices."""

    def __init__(self, trainer: train.Trainer):
        self.recipe, self.config = trainer.recipe, trainer.model.config
        self.w = {name: torch.tensor(weight).requires_grad_() for name, weight in trainer.weights.items()}
        groups = [{"params": [p for p in self.w.values() if p.ndim > 1], "weight_decay": self.recipe.decay},
                  {"params": [p for p in self.w.values() if p.ndim == 1], "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), eps=1e-8)

    def advance(self, batch: data.Batch) -> float:
        """One step; returns the cross-entropy."""
        loss, aux = torch_loss(self.config, self.w, *tensors(batch), batch.lengths, self.recipe.aux)
        self.optimiser.zero_grad()
        (loss + self.recipe.aux * aux).backward()
        torch.nn.utils.clip_grad_norm_(list(self.w.values()), self.recipe.clip)
        self.optimiser.step()
        return loss.item()


def tensors(batch: data.Batch):
    return (torch.tensor(np.asarray(batch.ids, np.int64)), torch.tensor(np.asarray(batch.targets, np.int64)),
            torch.tensor(batch.weights))


def main() -> None:
    """Time both trainers in turn on the same batches, and print the median tokens per second of each."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokens", type=int, default=2048, help="tokens per step")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of 4 steps each")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    recipe = train.Recipe(batch_tokens=(options.tokens,), windows=(256,), shares=(("text", 1.0),), answers=0.0,
                          closing=0)
    ids = rng.integers(0, recipe.vocab_size, 500_000).astype(np.int32)
    streams = {"text": data.Stream(ids, np.ones(len(ids), np.bool_), np.zeros(0, np.int64))}
    train.keep_freed_memory()
    ours = train.Trainer(recipe, streams)
    theirs = TorchTrainer(ours)
    batches = [data.batch(streams, dict(recipe.shares), 0, n, options.tokens, recipe.windows[0]) for n in range(4)]
    times: dict[str, list[float]] = {"numpy": [], "torch": []}
    for _ in range(options.rounds + 1):  # The first round warms up and is not counted.
        for name, step in (("numpy", lambda batch: ours.advance()), ("torch", theirs.advance)):
            start = time.perf_counter()
            for batch in batches:
                step(batch)
            times[name].append((time.perf_counter() - start) / len(batches))
    print(json.dumps({name: options.tokens / float(np.median(seconds[1:])) for name, seconds in times.items()}))


if __name__ == "__main__":
    main()
