"""What the steps of the script will launch, asked for without a GPU, and compiled ahead by all cores together.

A launcher that launches nothing sees which kernels are wanted, with which options; its arrays are of the host and take
no memory until somebody writes them. Compiled one by one, as they are met, they would take most of the script's time.
"""

import dataclasses
import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from kernels import cases
from kernels.gpu import models
from kernels.launch import Cuda, OnHost
from kernels.nvrtc import cubin
from tiny.config import TinyError

Wanted = tuple[Path, tuple[str, ...]]


class Asking(OnHost):
    """A launcher that keeps what is asked for: files with options, and of each the kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: dict[Wanted, set[str]] = {}
        self.cupy = NoArrays

    def empty(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        """Zeros. Shapes:  -> as asked for."""
        return np.zeros(shape, dtype)

    def put(self, array: np.ndarray) -> np.ndarray:
        """The array itself. Shapes:  any -> same."""
        return array

    def load(self, path: Path, kernel: str, defines: tuple[str, ...]) -> Any:
        """Nothing, but it is remembered."""
        self.asked.setdefault((path, defines), set()).add(kernel)

    def call(self, *args: Any) -> None:
        """Nothing."""

    def record(self, run: Callable[[], None]) -> Callable[[], None]:
        """The launches are met once more; a replay is nothing."""
        run()
        return lambda: None


class NoArrays:
    """The few names of CuPy that random weights are made with; the numbers are zeros that nobody writes."""

    full = staticmethod(lambda shape, value, dtype: np.zeros(shape, dtype))

    class random:  # noqa: N801 (a module of CuPy's)
        """Of which a generator is asked for."""

        default_rng = staticmethod(lambda seed: NoArrays)

    @staticmethod
    def standard_normal(shape: tuple[int, ...], dtype: Any) -> Any:
        """Zeros. Shapes:  -> as asked for."""
        return Zeros(shape, dtype)


class Zeros:
    """Zeros that are scaled and converted without being touched."""

    def __init__(self, shape: tuple[int, ...], dtype: Any):
        self.shape = shape

    def __imul__(self, scale: Any) -> "Zeros":
        return self

    def astype(self, dtype: np.dtype, **options: Any) -> np.ndarray:
        """Zeros of that type. Shapes:  -> as made."""
        return np.zeros(self.shape, dtype)


class Untouched(cases.Draw):
    """Arguments of operations that take no memory."""

    def normal(self, shape: tuple[int, ...], dtype: np.dtype, scale: float = 1.0) -> np.ndarray:
        """Zeros. Shapes:  -> as asked for."""
        return np.zeros(shape, dtype)


def asked_by_cases() -> dict[Wanted, set[str]]:
    """What the steps that compare and time operations launch."""
    launcher = Asking()
    for operation in cases.operations():
        runs = [*itertools.product(cases.STORAGES, operation.small),
                *itertools.product(cases.STORAGES[-1:], operation.published.values())]
        for ((precision, weight), sizes), version in itertools.product(runs, operation.versions):
            arguments = operation.make(Untouched(np, precision, weight), **sizes)
            try:
                operation.call(launcher, arguments, precision, version)
            except ValueError as refusal:  # a version that is not for these sizes or this type
                if type(refusal) is not ValueError:
                    raise
    return launcher.asked


def asked_by_models() -> dict[Wanted, set[str]]:
    """What the steps that time whole models launch; all layers launch the same, so one is enough."""
    launcher = Asking()
    for release in models.RELEASES.values():
        vision = release.config.vision
        config = dataclasses.replace(release.config, n_layers=1, vision=vision and dataclasses.replace(
            vision, num_hidden_layers=1))
        model = models.random_model(config, release.form, launcher)
        for count in (1, models.SEQUENCES):
            cache = model.new_cache([models.PROMPT + 2] * count)
            model(np.full(count * models.PROMPT, 3), cache=cache, lengths=[models.PROMPT] * count, last_only=True)
            model(np.full(count, 3), cache=cache, lengths=[1] * count, last_only=True)
        for options in models.DRAWN.values():
            models.decode_on_device(model, model.new_cache(models.TOKENS + models.WARM_UPS), **options)
        if config.vision:
            models.image(model, config.vision)
    return launcher.asked


def compile_one(task: tuple) -> str:
    """Compile one file with its options; the words of the error, if there is one."""
    try:
        cubin(*task)
    except TinyError as error:
        return error.cause
    return ""


def compile_all() -> Iterator[dict]:
    """All that will be launched, as cubins on disk. Raises TinyError if something does not compile."""
    launcher, start = Cuda(), time.perf_counter()
    wanted = {**asked_by_cases(), **asked_by_models()}
    tasks = [(path, launcher.arch, defines, launcher.newest) for path, defines in wanted]
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:  # a fork would take CUDA's threads along
        failed = [words for words in pool.map(compile_one, tasks) if words]
    yield {"cubins": len(tasks), "failed": failed, "cores": os.cpu_count(),
           "seconds": round(time.perf_counter() - start, 1)}
    if failed:
        raise TinyError(f"{len(failed)} of {len(tasks)} do not compile: {failed[0]}", "See the row.")
