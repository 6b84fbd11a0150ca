"""The known faults of servers, each as a change of our reference. What is said of each one is in `faults.toml`.

A fault changes one of four things: the ids that the model reads, operations (`changes.py`), where tensors are found, or
the logits afterwards. No weights are copied, so it is as cheap on mapped, streamed and quantised ones.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tiny.config import Config, Images
from tiny.mixtral import Mixtral


class Fault(NamedTuple):
    """A fault with its value, if it has one: kind "window", value 128.

    ids(ids) -> the ids that the model reads, and for each position of ids the row of these that answers it, or -1
    ops(base, config) -> the operations that differ, by name
    tensors(weights, config) -> the mapping in which the model looks up its weights
    after(logits, ids) -> the logits from which the server takes its numbers. Shapes:  (T, V), (T,) -> (T, V)
    """

    kind: str
    value: float | None = None
    ids: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]] | None = None
    ops: Callable[..., Mapping[str, Callable]] | None = None
    tensors: Callable[[Mapping[str, np.ndarray], Config], Mapping[str, np.ndarray]] | None = None
    after: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None

    @property
    def name(self) -> str:
        """What it is called in a verdict: "a sliding window of 128"."""
        return self.kind


def hypotheses(config: Config, length: int) -> tuple[Fault, ...]:
    """The faults that a model of this configuration can have and that a text of so many tokens can show."""
    return ()


def logprobs(model: Mixtral, fault: Fault | None, ids: Sequence[int] | np.ndarray, images: Images = ()) -> np.ndarray:
    """What a server with a fault says of the token after each of ids; None is a healthy one.

    Shapes:  ids (T,), BOS first -> (T, V) float32 natural logarithms; NaN where such a server can say nothing
    """
    raise NotImplementedError
