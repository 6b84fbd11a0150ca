"""Texts that a resident model writes without its logits: tokens are chosen on the device, and only they come back.

    for ids, logprobs in write(model, [prompt], max_tokens=100, temperature=0.7, seed=1): ...

The same seed gives the tokens that `tiny.generate` gives: one random number for each, from the same generator.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from kernels.resident import Resident
from tiny.config import Ids, Images
from tiny.generate import check_prompt, not_finite, prefill
from tiny.mixtral import check_ids, check_list
from tiny.sampling import check_sampling, log_softmax, sample


def write(model: Resident, prompts: Sequence[Ids], images: Images = (), max_tokens: int = 64, temperature: float = 0.0,
          top_p: float = 1.0, seed: int | None = None,
          stop_at_eos: bool = True) -> list[tuple[list[int], list[float]]]:
    """Continue several prompts together; of each the ids that were written, and their log-probabilities.

    Raises:  TinyError as `tiny.generate_batch`
    """
    check_sampling(max_tokens, temperature, top_p, seed)
    rows = [check_ids(ids) for ids in prompts]
    room = [check_prompt(model, ids, max_tokens) for ids in rows]
    cache: Any = model.new_cache([len(ids) + limit for ids, limit in zip(rows, room)])
    ends = end_ids(model) if stop_at_eos else set()
    texts: list[tuple[list[int], list[float]]] = [([], []) for _ in rows]
    rngs = [np.random.default_rng(seed) for _ in rows]
    # (1) read the prompts; their last logits are on the host, where the first tokens are chosen
    logits, _ = prefill(model, rows, check_list(images), cache)
    if not all(np.isfinite(row).all() for row in logits):
        raise not_finite(model, np.concatenate(rows), images, [len(ids) for ids in rows])
    chosen: Any = [sample(row, temperature, top_p, rng) for row, rng in zip(logits, rngs)]
    logprobs: Any = [float(log_softmax(row)[token]) for row, token in zip(logits, chosen)]
    draws = np.array([rng.random(max(room)) for rng in rngs])
    going, some = list(range(len(rows))), draws
    before: list[int] = []
    while True:
        # (2) keep what was chosen; a text ends at its EOS, or when it is as long as it may be
        for n, token, logprob in zip(going, chosen, logprobs):
            if token in ends:
                room[n] = 0
            else:
                texts[n][0].append(int(token))
                texts[n][1].append(float(logprob))
        going = [n for n in going if len(texts[n][0]) < room[n]]
        if not going:
            return texts
        # (3) the next ones: ids are given only where other sequences came before
        last = None
        if going != before:
            last, some, before = [texts[n][0][-1] for n in going], draws[going], going
        chosen, logprobs = model.choose(cache.subset(going), last, temperature, top_p,
                                        some if temperature > 0 else None, [len(texts[n][0]) - 1 for n in going])
        if min(chosen) < 0:
            every = [[*ids, *text] for ids, (text, _) in zip(rows, texts)]
            raise not_finite(model, np.concatenate(every), images, [len(ids) for ids in every])


def end_ids(model: Resident) -> set[int]:
    """The tokens that end a text of this model."""
    return ({model._tokenizer.eos_id} if model._tokenizer else set()) | model.config.end_ids
