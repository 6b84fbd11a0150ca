"""What a training run shows and keeps: progress line, log, loss curve, its state; and a clean end on a signal."""

import json
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tiny.config import TinyError
from tiny.system.reading import check_plain
from tiny.system.whole import write_whole


class Clock:
    """Times of a run: since it started or went on, and since it was last saved."""

    def __init__(self, tokens: int):
        self.first, self.start = tokens, time.monotonic()
        self.last = self.start

    def speed(self, tokens: int) -> float:
        """Tokens per second since the run started or went on."""
        return (tokens - self.first) / max(1e-9, time.monotonic() - self.start)

    def due(self, minutes: float) -> bool:
        """Whether this number of minutes has passed since this was last true."""
        if time.monotonic() - self.last < 60 * minutes:
            return False
        self.last = time.monotonic()
        return True


class Signals:
    """While open, SIGINT and SIGTERM set `received` instead of ending the program at once."""

    def __enter__(self) -> "Signals":
        self.received = False
        self.old = {number: signal.signal(number, self.on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def on_signal(self, number, frame) -> None:
        """Remember that a signal came."""
        self.received = True

    def __exit__(self, *error) -> None:
        for number, handler in self.old.items():
            signal.signal(number, handler)


def save_state(path: Path, **arrays) -> None:
    """Write named arrays; a crash at any moment leaves the old state or the new one, both whole."""
    write_whole(path, lambda file: np.savez(file, **arrays))


def load_state(path: Path, like: Mapping[str, np.ndarray], identity: str) -> dict[str, np.ndarray]:
    """Read named arrays; each must have the shape and the kind of the one given for it, and hold finite numbers.

    Raises:  TinyError if the state is damaged, or has another identity than the run's
    """
    try:
        check_plain(path)
        with np.load(path, allow_pickle=False) as file:
            state = {name: file[name] for name in ("identity", *like)}
            found = str(state["identity"])
            whole = all(state[name].shape == x.shape and state[name].dtype.kind == x.dtype.kind
                        and np.isfinite(state[name]).all() for name, x in like.items()) and state["step"] >= 0
    except Exception:  # NumPy's readers raise whatever damaged data leads them to.
        whole = False
    if not whole:
        raise TinyError(f"{path} is not a whole training state.", "Remove it to train from the start.")
    if found != identity:
        raise TinyError(f"{path} was made by another recipe or on other data.",
                        "Give the options it was started with, or another --out folder.")
    return state


def require_finite(numbers: np.ndarray, step: int) -> None:
    """Raise TinyError unless all parameters are finite, before a state is saved with them."""
    if not np.isfinite(numbers).all():
        raise TinyError(f"The parameters are not finite after step {step}; the saved state is older, and whole.",
                        "The rate is too high: start again with a lower one, in another --out folder.")


def log_line(trainer, result: dict, clock: Clock) -> dict:
    """What the log keeps of a step; loss, aux and shares are running means over about 50 steps."""
    done, total, mean = trainer.tokens(), int(trainer.ends[-1]), trainer.smoothed
    speed = clock.speed(done)
    return {"step": trainer.step, "steps": len(trainer.sizes), "tokens": done, "loss": round(mean["loss"], 4),
            "step_loss": round(result["loss"], 4), "aux": round(mean["aux"], 4), "tokens_per_second": round(speed),
            "seconds_left": round((total - done) / speed), "smallest_share": round(float(mean["shares"].min()), 4),
            "largest_share": round(float(mean["shares"].max()), 4), "rate": result["rate"],
            "norm": round(result["norm"], 4)}


def progress_text(line: dict) -> str:
    """One progress line. Each stays on the screen; a moving bar would show only the last one."""
    return (f"step {line['step']:,}/{line['steps']:,}  {line['tokens'] / 1e6:.2f} M tokens  loss {line['loss']:.3f}  "
            f"aux {line['aux']:.3f}  {line['tokens_per_second']:,} tokens/s  left {line['seconds_left'] // 60} min  "
            f"experts {line['smallest_share']:.1%} to {line['largest_share']:.1%}  rate {line['rate']:.2e}")


def read_log(path: Path, last_step: int | None = None) -> list[dict]:
    """The lines of a log, up to a step. A line cut short, as a killed run may leave one, is not read."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if last_step is None or line["step"] <= last_step:
            lines.append(line)
    return lines


def cut_log(path: Path, last_step: int) -> None:
    """Drop what a killed run logged after its state was saved: those steps are run, and logged, again."""
    write_whole(path, "".join(json.dumps(line) + "\n" for line in read_log(path, last_step)))


def plot_losses(log: Path, path: Path) -> None:
    """Draw the loss and the learning rate over the tokens seen, as a PNG."""
    from matplotlib.figure import Figure  # Only here: training itself does without.

    lines = read_log(log)
    tokens = [line["tokens"] / 1e6 for line in lines]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    loss = figure.add_subplot()
    loss.plot(tokens, [line["loss"] for line in lines], color="tab:blue")
    loss.set(xlabel="million tokens", ylabel="loss, nats per token (blue)", title="Training loss and learning rate")
    loss.grid(alpha=0.3)
    rate = loss.twinx()
    rate.plot(tokens, [line["rate"] for line in lines], color="tab:orange")
    rate.set(ylabel="learning rate (orange)", ylim=(0, None))
    write_whole(path, lambda file: figure.savefig(file, format="png", dpi=120))
