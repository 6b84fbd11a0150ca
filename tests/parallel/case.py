"""What each of several real ranks finds: bits against one process, and the collectives against NumPy. Prints JSON."""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests/helpers")]

import numpy as np  # noqa: E402
from small import random_images  # noqa: E402

import tiny  # noqa: E402
import tiny.parallel  # noqa: E402

IDS = [1, 5, 9, 200, 33, 7, 8, 100, 64]
GOLDEN = ROOT / "tests/golden"


def run(model, ids=IDS, images=()):
    """Logits of a prompt and a further token, and the keys of the cache."""
    cache = model.new_cache(len(ids) + 1)
    return np.concatenate([model(ids, images=images, cache=cache), model([3], cache=cache)]), cache.keys


def collectives(ranks) -> bool:
    """Whether sum, columns, rows and exchange give what NumPy makes of all parts."""
    parts = np.random.default_rng(0).standard_normal((ranks.size, 5, 7)).astype(np.float32)
    total = parts[0].copy()
    for part in parts[1:]:
        total += part
    counts = [rank % 3 for rank in range(ranks.size)]
    pieces = [parts[rank, :count] for rank, count in enumerate(counts)]
    square = np.arange(ranks.size * 2, dtype=np.float32).reshape(ranks.size, 2) + 100 * ranks.rank
    return bool((ranks.sum(parts[ranks.rank]) == total).all()
                and (ranks.columns(parts[ranks.rank]) == np.concatenate(list(parts), axis=1)).all()
                and (ranks.rows(pieces[ranks.rank], counts) == np.concatenate(pieces)).all()
                and (ranks.exchange(square)[:, 0] == 2 * ranks.rank + 100 * np.arange(ranks.size)).all())


def experts(ranks) -> dict[str, bool]:
    """For each checkpoint and precision, whether whole experts give the bits of one process."""
    found = {}
    for name in ("tiny-mixtral", "mixtral-a/mistral", "mixtral-b/hf"):
        folder = name if name.startswith("tiny") else GOLDEN / name
        for precision in ("float32", "bfloat16"):
            one = run(tiny.load(folder, precision=precision))
            many = run(tiny.parallel.load(folder, ranks, precision=precision))
            found[f"{name} {precision}"] = all(np.array_equal(a, b) for a, b in zip(one, many))
    return found


def pixtral(ranks) -> float:
    """The largest error of logits with everything split, and two images."""
    ids = [1, 10, 10, 10, 12, 10, 10, 10, 13, 10, 10, 12, 10, 10, 13, 40, 41]
    images = random_images((3, 2), (2, 2), patch_size=8)
    one = run(tiny.load("tiny-pixtral"), ids, images)[0]
    return float(np.abs(one - run(tiny.parallel.load("tiny-pixtral", ranks, "all"), ids, images)[0]).max())


def main() -> None:
    """Rank 0 prints what all found."""
    ranks = tiny.parallel.Ranks()
    said = {"collectives": collectives(ranks), "experts": experts(ranks)}
    if ranks.size == 2:
        said["pixtral"] = pixtral(ranks)
    every = ranks.tell(said)
    if ranks.rank == 0:
        print(json.dumps(every))


if __name__ == "__main__":
    main()
