"""Models with a fault or a patience of ours, around tiny-mixtral."""

import threading

import numpy as np

import tiny


class Planted:
    """tiny-mixtral, whose calls are counted; each first calls `before`, and its logits go through `after`."""

    def __init__(self, before=lambda: None, after=lambda logits: logits):
        self.model, self.calls, self.before, self.after = tiny.load("tiny-mixtral"), 0, before, after

    def __getattr__(self, name):
        return getattr(self.model, name)

    def __call__(self, *arguments, **options):
        self.calls += 1
        self.before()
        return self.after(self.model(*arguments, **options))


class Gate:
    """Lets passes through one by one, or all of them once it is open."""

    def __init__(self):
        self.passes, self.reached = threading.Semaphore(0), threading.Event()

    def __call__(self):
        self.reached.set()
        self.passes.acquire()

    def open(self):
        for _ in range(100_000):
            self.passes.release()


def out_of_memory():
    raise MemoryError("13 GB")


def unforeseen():
    raise RuntimeError("a fault of this program")


def with_nan(logits):
    return logits * np.float32("nan")


def far_apart(logits):
    return logits * np.float32(10_000)
