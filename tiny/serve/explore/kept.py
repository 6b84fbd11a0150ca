"""What the page's server remembers: some runs, so that a click is fast, and numbers that do not change."""

from collections import OrderedDict
from collections.abc import Callable

from tiny.mixtral import Mixtral
from tiny.serve.limits import Refusal
from tiny.serve.worker import Worker
from tiny.tools.explore import held_out
from tiny.tools.explore.held_out import Measured
from tiny.tools.explore.runs import Ask, Run
from tiny.tools.explore.switches import with_switch
from tiny.tools.token_cost import token_cost

ALL_BYTES = 512 << 20  # of the runs that are kept; the newest one always is
LARGE = 10**9  # operations of a token, from which on nothing is computed before it is asked for


class Explored:
    """The models of a page, and what was computed for it. Only the thread of the models calls it.

    names: the model of each run
    """

    def __init__(self, models: dict[str, Mixtral], worker: Worker):
        self.models, self.worker = models, worker
        self.runs: OrderedDict[str, Run] = OrderedDict()
        self.names: dict[str, str] = {}
        self.numbers: dict[tuple, Measured] = {}

    def find(self, key: str) -> Run | None:
        """A run that is still kept."""
        if key in self.runs:
            self.runs.move_to_end(key)
        return self.runs.get(key)

    def need(self, key: str) -> Run:
        """A run that has to be there. Raises Refusal with status 410; the page then asks its request again."""
        found = self.find(key)
        if found is None:
            raise Refusal(410, "This run is not kept any more.", "Ask its text again: the page does so by itself.")
        return found

    def keep(self, key: str, name: str, run: Run) -> None:
        """Keep a run, and let the oldest ones go."""
        self.runs[key], self.names[key] = run, name
        while len(self.runs) > 1 and sum(one.size for one in self.runs.values()) > ALL_BYTES:
            old, _ = self.runs.popitem(last=False)
            del self.names[old]

    def measure(self, name: str, model: Mixtral, ask: Ask, kind: str, check: Callable[[], None]) -> dict:
        """Held-out numbers of a model as trained, of the same with a switch, and blind where there are pictures."""
        few = is_large(model)
        switch = (ask.switch, ask.value, ask.layer)

        def number(*case: object) -> Measured:
            if (name, kind, *case) not in self.numbers:
                changed = with_switch(model, *case[:3])  # type: ignore[arg-type]
                self.numbers[name, kind, *case] = (
                    held_out.loss(changed, 4 if few else 20, check) if kind == "loss" else
                    held_out.count_right(changed, 4 if few else 12, case[3:] == ("blind",), kind == "pairs", check))
            return self.numbers[name, kind, *case]

        if kind == "hiding":
            if (name, kind) not in self.numbers:
                found = held_out.hiding(model, 4 if few else 12, check)
                self.numbers |= {(name, kind): found[0], (name, kind, 1): found[1], (name, kind, 2): found[2]}
            return {"before": self.numbers[name, kind], "after": self.numbers[name, kind, 1],
                    "control": self.numbers[name, kind, 2]}
        blind = {} if kind == "loss" else {"blind": number("", 0, None, "blind")}
        return {"before": number("", 0, None), "after": number(*switch), **blind}


def is_large(model: Mixtral) -> bool:
    """Whether a token costs so much that nothing is computed before somebody asks for it."""
    return token_cost(model.config, 0, 2)[1] > LARGE
