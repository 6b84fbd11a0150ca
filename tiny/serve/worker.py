"""One thread that computes, and the queue before it: a model on one machine answers one request after another."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

from tiny.serve.limits import ENDING, Left, Refusal

Work = Callable[["Job"], Iterator[bytes]]
Receive = Callable[[], Awaitable[Any]]  # ASGI's: waits for the next message of a client


class Job:
    """One request on its way through the thread. It is also the trace of its passes through the model.

    So it is asked at every array: a client that leaves, and a time limit, end a pass within a layer.
    """

    def __init__(self, work: Work, seconds: float):
        self.work, self.seconds = work, seconds
        self.events: asyncio.Queue = asyncio.Queue()
        self.loop = asyncio.get_running_loop()
        self.left, self.deadline = threading.Event(), float("inf")

    def check(self) -> None:
        """Raise Left, or Refusal if the time is up."""
        if self.left.is_set():
            raise Left
        if time.monotonic() > self.deadline:
            raise Refusal(504, f"The answer took more than {self.seconds:g} seconds.",
                          "Ask for fewer tokens, or start the server with a larger --seconds.")

    def __setitem__(self, name: str, value: Any) -> None:
        self.check()

    def tell(self, event: bytes | Exception | None) -> None:
        """Hand an event over to the request's own task; None is the end."""
        with suppress(RuntimeError):  # The loop is closed: the server ends.
            self.loop.call_soon_threadsafe(self.events.put_nowait, event)

    def compute(self) -> None:
        """Do the work, in the thread."""
        self.deadline = time.monotonic() + self.seconds
        try:
            self.check()
            for event in self.work(self):
                self.check()
                self.tell(event)
            self.tell(None)
        except Left:
            self.tell(ENDING)
        except Exception as error:
            self.tell(error)


class Worker:
    """The thread and its queue.

    waiting: how many requests may wait beside the one that is computed
    seconds: how long one may compute
    """

    def __init__(self, waiting: int, seconds: float):
        self.most, self.seconds, self.ending = waiting, seconds, False
        self.waiting: deque[Job] = deque()
        self.current: Job | None = None
        self.change = threading.Condition()
        # A daemon, so that a signal before anybody could stop it still ends the process.
        self.thread = threading.Thread(target=self.serve, name="model", daemon=True)
        self.thread.start()

    def serve(self) -> None:
        """Compute what waits, in the order in which it came, until the end."""
        while True:
            with self.change:
                self.current = None
                self.change.wait_for(lambda: self.waiting or self.ending)
                if not self.waiting:
                    return
                self.current = self.waiting.popleft()
            self.current.compute()

    def stop(self) -> None:
        """End: what is computed ends within a token, what waits does not begin."""
        with self.change:
            self.ending = True
            for job in (*self.waiting, *([self.current] if self.current else [])):
                job.left.set()
            self.change.notify()

    async def run(self, work: Work, receive: Receive) -> AsyncIterator[bytes]:
        """Let the thread do some work, and yield what it tells. If the client leaves, the work ends.

        Raises:  Refusal if too many wait; whatever the work raises; Left if the client leaves
        """
        job = Job(work, self.seconds)
        with self.change:
            if self.ending or len(self.waiting) >= self.most:
                raise Refusal(429, f"{len(self.waiting)} requests wait already.", "Ask again in some seconds.")
            self.waiting.append(job)
            self.change.notify()
        watcher = asyncio.create_task(watch(job, receive))
        try:
            while (event := await job.events.get()) is not None:
                if isinstance(event, Exception):
                    raise event
                yield event
        finally:
            job.left.set()
            watcher.cancel()
            with self.change, suppress(ValueError):
                self.waiting.remove(job)


async def watch(job: Job, receive: Receive) -> None:
    """Wait until the client leaves; then nobody needs the work any more."""
    while (await receive())["type"] != "http.disconnect":
        pass
    job.left.set()
    job.events.put_nowait(Left())
