"""How real servers speak, from recorded answers: the way is found, the numbers are read, the template is named."""

import numpy as np
import pytest
from recorded_servers import Replayer, exchange

from tiny.sampling import log_softmax
from tiny.tools.verify.server.answers import NOT_WRITTEN, UNSORTED
from tiny.tools.verify.server.chat import RIGHT
from tiny.tools.verify.server.decide import deviation
from tiny.tools.verify.server.repeat import CHOICE

# served: tiny-mixtral in float32, by llama.cpp and llama-cpp-python from a GGUF file; by mlx-lm without a template
SERVERS = {"vllm": ("prompt", RIGHT, [], []), "llama_cpp": ("prefixes", RIGHT, [], []),
           "llama_cpp_python": ("echo", RIGHT, [], [CHOICE]),
           "mlx_lm": ("prefixes", "mlx-lm's default for a model without a template", [UNSORTED, NOT_WRITTEN], [])}


@pytest.mark.parametrize("name", SERVERS)
def test_a_recorded_server(name, model):
    kind, template, notes, defaults = SERVERS[name]
    found = exchange(Replayer(name), model)
    assert found["way"].form.kind == kind and found["tokens"].good
    seen = found["seen"]
    apart = deviation(seen, log_softmax(model(seen.ids)))
    assert np.isfinite(apart).sum() >= 40 and np.nanmean(apart) < 1e-3, np.nanmean(apart)
    assert (found["chat"].template, found["chat"].notes) == (template, sorted(notes)), found["chat"]
    assert found["defaults"] == defaults


def test_no_recording_tells_of_a_machine():
    for name in SERVERS:
        text = str(Replayer(name).answers)
        assert not any(word in text for word in ("/tmp", "/home", "/root", "localhost")), name
