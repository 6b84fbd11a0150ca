"""What a trained model can do, measured on held-out text, stories and tasks, as one dict that becomes its card."""

from pathlib import Path

import numpy as np

import tiny
from tiny.config import TinyError
from tiny.generate import run_finite
from tiny.tokenizer import SentencePieceTokenizer
from tiny.training.backward import cross_entropy
from tiny.training.text import data, stories, tasks


def evaluate(folder: str | Path, openings: int = 200, prompts: int = 100) -> dict:
    """Measure a checkpoint: held-out losses and expert shares by domain, greedy stories, exact answers by task kind."""
    model = tiny.load(folder, weights="resident")
    if model.config.moe is None or not isinstance(model.tokenizer, SentencePieceTokenizer):
        raise TinyError(f"{folder} is not a model of text like tiny-mixtral: it has no experts, or no SentencePiece.",
                        "Measure a model like tiny-pixtral with: python -m tiny.training tiny-pixtral --evaluate MODEL")
    pieces = data.open_tokenizer((tiny.model_folder(folder) / "tokenizer.model").read_bytes())
    streams = data.build_streams(pieces, data.texts(), {"stories": 30_000, "tasks": 20_000}, True)
    losses, shares = held_out(model, data.held_out(streams, pieces))
    texts = write_stories(model, openings)
    answers = {kind: answer_tasks(model, kind, prompts) for kind in tasks.KINDS}
    card = {"held_out": losses, "shares": shares, "stories": story_scores(texts), "tasks": {
        kind: sum(given == task.answer for task, given in found) / prompts for kind, found in answers.items()}}
    card["samples"] = {"stories": texts[:3], "tasks": [
        {"kind": kind, "prompt": task.prompt, "answer": task.answer, "given": given}
        for kind, found in answers.items() for task, given in found[:2]]}
    return card | {"rows": result_rows(card, openings, prompts)}


def held_out(model, sets: dict[str, data.HeldOut]) -> tuple[dict, dict]:
    """Loss of every domain, and the share of choices that each expert gets there, as (n_layers, E) nested lists."""
    losses, shares = {}, {}
    for domain, (batches, characters) in sets.items():
        nats, tokens, counts = 0.0, 0.0, np.zeros((model.config.n_layers, model.config.moe.num_experts))
        for batch in batches:
            trace: dict = {}
            logits = run_finite(model, batch.ids, lengths=batch.lengths, trace=trace)
            weight = float(batch.weights.sum())
            nats, tokens = nats + cross_entropy(logits, batch.targets, batch.weights)[0] * weight, tokens + weight
            for layer, row in enumerate(counts):
                row += np.bincount(trace[f"experts{layer:02}"].reshape(-1), minlength=len(row))
        losses[domain] = {"nats_per_token": nats / tokens, "bits_per_character": float(nats / np.log(2) / characters),
                          "tokens": int(tokens), "characters": characters}
        shares[domain] = (counts / counts.sum(axis=1, keepdims=True)).round(4).tolist()
    return losses, shares


def write_stories(model, count: int, max_tokens: int = 250) -> list[str]:
    """Continue held-out openings greedily, each to its end; return the whole stories."""
    rng = np.random.default_rng([2, 11])
    prompts = [[model.tokenizer.bos_id, *model.tokenizer.encode(stories.generate(rng, held_out=True).opening)]
               for _ in range(count)]
    texts = tiny.generate_batch(model, prompts, max_tokens=max_tokens)
    return [model.tokenizer.decode([*prompt, *(token.id for token in tokens)])
            for prompt, tokens in zip(prompts, texts)]


def story_scores(texts: list[str]) -> dict[str, float]:
    """The share of stories that the grammar's parser accepts, and that keep to their facts."""
    reports = [stories.check_story(text) for text in texts]
    return {name: sum(getattr(report, name) for report in reports) / len(reports)
            for name in ("accepted", "who_and_where", "consistent")}


def answer_tasks(model, kind: str, count: int, max_tokens: int = 64) -> list[tuple[tasks.Task, str]]:
    """Answer held-out prompts of one kind greedily, each as the first turn of a chat."""
    rng = np.random.default_rng([3, tasks.KINDS.index(kind)])
    drawn = [tasks.generate(rng, kind, held_out=True) for _ in range(count)]
    prompts = [model.tokenizer.encode_chat([{"role": "user", "content": task.prompt}])[0] for task in drawn]
    texts = tiny.generate_batch(model, prompts, max_tokens=max_tokens)
    return [(task, model.tokenizer.decode([token.id for token in tokens])) for task, tokens in zip(drawn, texts)]


def result_rows(card: dict, openings: int, prompts: int) -> list[dict]:
    """The results in words, as rows of a table."""
    even = np.mean([np.array(share) for share in card["shares"].values()], axis=0)
    named = {"accepted": "accepted by the grammar's parser", "who_and_where": "consistent in who and where",
             "consistent": "consistent in every fact"}
    found = [{"what": f"share of choices of an expert in a layer, over {len(card['shares'])} domains",
              "value": f"{even.min():.1%} to {even.max():.1%}"}]
    found += [{"what": f"greedy stories, {openings} held-out openings, {words}",
               "value": f"{card['stories'][name]:.1%}"} for name, words in named.items()]
    return found + [{"what": f"exact answers, {prompts} held-out [INST] prompts: {kind}", "value": f"{share:.0%}"}
                    for kind, share in card["tasks"].items()]
