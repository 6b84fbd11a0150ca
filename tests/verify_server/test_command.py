"""The whole command against servers with planted faults: the verdict in words, the exit status, JSON and picture.

Texts are short here and faults few, so that the reference is quick; how many are named at 400 tokens, with all that are
known, is tested elsewhere.
"""

import json

import gguf_files
import numpy as np
import pytest

import tiny
from tests.verify_server import fake_servers as fakes
from tests.verify_server.fake_servers import running
from tiny.__main__ import main
from tiny.tools.verify.server.decide import Evidence
from tiny.tools.verify.server.families import structures
from tiny.tools.verify.server.faults import hypotheses, logprobs, made
from tiny.tools.verify.server.numbers import roundest
from tiny.tools.verify.server.reference import texts
from tiny.tools.verify.server.rounding import rounded

LENGTH = 140
SOME = ("window", "theta", "bos", "kept", "epsilon", "top_experts")  # kinds of faults, so that the reference is quick


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """One folder for what the reference says: it is computed once for all tests."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(texts, "LEAST", LENGTH)
    monkeypatch.setattr("tiny.tools.verify.server.numbers.LEAST", LENGTH)
    monkeypatch.setattr("tiny.tools.verify.server.reference.cost.LEAST", 0.01)
    monkeypatch.setattr("tiny.tools.verify.server.numbers.hypotheses", lambda *what: tuple(
        fault for fault in hypotheses(*what) if fault.kind in SOME))


@pytest.fixture(scope="module")
def text(model):
    return texts.choose_texts(model.tokenizer, [LENGTH + texts.SPARE], None)


def verify(capsys, fake, kept, *options):
    """Status, report and notes of the command, with short texts."""
    with running(fake) as url:
        status = main(["verify", "server", url, "--model", "tiny-mixtral", "--quick", "--tokens", str(LENGTH), "--keep",
                       str(kept), *map(str, options)])
    out, err = capsys.readouterr()
    return status, out, err


def test_a_healthy_server(capsys, model, say, kept, text, tmp_path):
    status, out, err = verify(capsys, fakes.VLLM(model, say), kept, "--json", tmp_path / "o.json")
    assert status == 0 and out.endswith(": healthy\n") and "within bfloat16 rounding" in out, (out, err)
    found = json.loads((tmp_path / "o.json").read_text())
    assert found["status"] == 0 and found["verdict"]["deviation"] < 1e-5 and found["fault"] is None
    assert len(found["deviations"][0]) == LENGTH + texts.SPARE
    assert {"2 BOS tokens", "a sliding window of 64"} < set(found["evidence"])


@pytest.mark.parametrize(("dialect", "kind", "value", "name"), [
    (fakes.VLLM, "window", 64, "sliding window of 64"), (fakes.VLLM, "theta", 1e6, "theta of 1e+06"),
    (fakes.LlamaCpp, "bos", 2, "2 BOS tokens"), (fakes.LlamaCppPython, "window", 64, "sliding window of 64")])
def test_a_fault_is_named_through_each_dialect(capsys, model, kept, text, dialect, kind, value, name):
    fake = dialect(model, lambda ids: logprobs(model, made(kind, value), ids), texts=text)
    status, out, _ = verify(capsys, fake, kept)
    assert status == 1 and name in out and "explained" in out and "to mend: " in out, out
    assert out.endswith(": faulty\n")


def test_a_healthy_server_of_few_bits_is_not_accused(capsys, model, kept):
    """Nothing is known of its rounding, so nothing can be told, and the report says what would help."""
    low = rounded(model, "q4_0")
    fake = fakes.VLLM(model, lambda ids: logprobs(low, None, ids))
    status, out, _ = verify(capsys, fake, kept)
    assert status == 2 and "give the served GGUF as --model" in out and out.endswith(": nothing can be told\n"), out
    status, out, _ = verify(capsys, fake, kept, "--served-as", "q4_0")
    assert status == 0, out


@pytest.mark.parametrize("options", [
    [], pytest.param(["--served-as", "q2_k"], marks=pytest.mark.thorough)])
def test_a_server_of_two_bits_cannot_be_told(capsys, model, kept, options):
    """It is further off than any rounding of ours, and that is no fault, unless a cause is named."""
    def coarse(x):
        step = abs(x).max(axis=-1, keepdims=True) / 3
        return np.round(x / step).astype(np.float32) * step

    weights = {name: coarse(x.astype(np.float32)) if ".experts." in name or ".attention." in name else x
               for name, x in model.weights.items()}
    low = type(model)(model.config, weights, model.tokenizer)
    for fault, status, words in ((None, 2, "2 or 3 bits"), (made("window", 32), 1, "as a sliding window of 32")):
        fake = fakes.VLLM(model, lambda ids, fault=fault: logprobs(low, fault, ids))
        found, out, _ = verify(capsys, fake, kept, *options)
        assert found == status and words in out and ("--model" in out or fault), out


def test_the_very_file_that_is_served_tells_more(capsys, model, kept, tmp_path):
    """With it a server of 4 bits is healthy, and one with a fault that 4 bits hide is not."""
    path = tmp_path / "model.gguf"
    gguf_files.write_model(path, "tiny-mixtral", "Q4_0")
    served = rounded(tiny.load(path), "gguf")
    for fault, status, words in ((None, 0, "within gguf rounding"), (made("epsilon", 1e-3), 1, "epsilon of 0.001")):
        fake = fakes.VLLM(model, lambda ids, fault=fault: logprobs(served, fault, ids))
        found, out, _ = verify(capsys, fake, kept, "--model", path)
        assert found == status and words in out, out


@pytest.mark.thorough
def test_a_server_of_chats_has_its_log_probabilities_compared(capsys, model, say, kept):
    status, out, _ = verify(capsys, fakes.ChatOnly(model, say), kept)
    assert status in (0, 2) and "log-probabilities of chat answers" in out and "FAULT" not in out, out


@pytest.mark.thorough
@pytest.mark.parametrize(("kind", "value", "words"), [
    ("window", 100, "a sliding window of 100"), ("theta", 1e5, "a rotary theta of 100000"),
    ("temperature", 1.3, "a temperature of 1.3"), ("top_experts", 4, "4 experts")])
def test_values_on_no_list_are_found(capsys, model, kept, monkeypatch, kind, value, words):
    """At 4 bits, from two texts of 400 tokens, with the checks of chats, which the fake server refuses."""
    monkeypatch.undo()
    low = rounded(model, "q4_0")
    with running(fakes.VLLM(model, lambda ids: logprobs(low, made(kind, value), ids))) as url:
        status = main(["verify", "server", url, "--model", "tiny-mixtral", "--keep", str(kept)])
    out = capsys.readouterr().out
    assert status == 1 and words in out, out


@pytest.mark.parametrize(("value", "left", "found"), [
    (103, {100: 0.7136}, 100), (64, {}, 64), (128, {}, 128), (90890.0, {1e5: 0.719}, 1e5), (1.29453, {1.3: 0.7}, 1.3),
    (103, {100: 0.75}, 103), (2, {}, 2), (3, {}, 3), (90000.0, {1e5: 0.722}, 1e5), (90000.0, {1e5: 0.73}, 90000.0)])
def test_a_round_value_is_taken_only_if_it_explains_as_much(value, left, found):
    """What scans gave at 4 bits, where the best value is a matter of noise."""
    kind = "window" if isinstance(value, int) else "temperature"
    before = Evidence(1.0, 0.01, 0.7177, 0.5)
    fault, _ = roundest(made(kind, value), before, lambda other: before._replace(left=left.get(other.value, 0.9)))
    assert fault.value == found


@pytest.mark.thorough
def test_a_dead_expert_is_named_by_its_number(capsys, model, kept, monkeypatch):
    monkeypatch.undo()
    dead = next(fault for fault in structures(model.config)
                if fault.kind == "expert_dead" and fault.place == "4 of layer 2")
    with running(fakes.VLLM(model, lambda ids: logprobs(model, dead, ids))) as url:
        status = main(["verify", "server", url, "--model", "tiny-mixtral", "--keep", str(kept), "--deep",
                       "--served-as", "bfloat16"])
    out = capsys.readouterr().out
    assert status == 1 and dead.name in out, out


def test_unsorted_lists_are_a_fault_of_the_report(capsys, model, say, kept, text):
    status, out, _ = verify(capsys, fakes.Mlx(model, say, texts=text), kept)
    assert status == 1 and "lists of likeliest tokens are not sorted" in out and "within bfloat16" in out, out


def test_other_tokens_end_a_run_that_sends_text(capsys, model, say, kept):
    fake = fakes.LlamaCppPython(model, say, read=lambda text: [1, 1, *model.tokenizer.encode(text)])
    status, out, _ = verify(capsys, fake, kept)
    assert status == 1 and "a second BOS in front" in out and "numbers" not in out


@pytest.mark.thorough
def test_texts_alone_find_a_fault_and_do_not_name_it(capsys, model, say, kept, monkeypatch):
    monkeypatch.setattr("tiny.tools.verify.server.gap.WRITTEN", 12)
    monkeypatch.setattr("tiny.tools.verify.server.gap.BEGINNING", 10)
    status, out, _ = verify(capsys, fakes.TextOnly(model, say), kept)
    assert status == 0 and "below the likeliest token" in out, out
    fake = fakes.TextOnly(model, lambda ids: logprobs(model, made("top_experts", 1), ids))
    status, out, _ = verify(capsys, fake, kept, "--served-as", "bfloat16")
    assert status == 1 and "no known fault explains it" in out, out


def test_the_reference_is_not_run_twice(capsys, model, say, tmp_path, text):
    computed = []
    fake = fakes.VLLM(model, say)
    for _ in range(2):
        _, out, err = verify(capsys, fake, tmp_path / "kept")
        computed.append((err.split("reference: ")[1].split(" kept")[0], out.replace(out.split()[-2], "")))
    count = int(computed[0][0].split()[0])
    assert computed[0][0] == f"{count} computed, 0" and computed[1][0] == f"0 computed, {count}"
    assert computed[0][1] == computed[1][1], "the same report"
    for path in list((tmp_path / "kept").iterdir())[:3]:
        path.write_bytes(path.read_bytes()[:200])
    _, _, err = verify(capsys, fake, tmp_path / "kept")
    assert f"3 computed, {count - 3} kept" in err, "what is damaged is computed again"


def test_the_picture(capsys, model, kept, tmp_path):
    fake = fakes.VLLM(model, lambda ids: logprobs(model, made("window", 64), ids))
    status, _, _ = verify(capsys, fake, kept, "--plot", tmp_path / "o.png")
    assert status == 1 and (tmp_path / "o.png").read_bytes().startswith(b"\x89PNG")
    status, _, err = verify(capsys, fake, kept, "--plot", tmp_path / "o.txt")
    assert status == 2 and "o.txt" in err


@pytest.mark.parametrize(("options", "words"), [
    (["--served-as", "q9"], "q9 is unknown"), (["--tokens", "100"], "--tokens is 100"),
    (["--texts", "none.txt"], "none.txt does not exist"), (["--timeout", "0"], "--timeout is 0"),
    (["--token", "none"], "none does not exist")])
def test_what_is_no_option(capsys, model, say, kept, options, words, monkeypatch):
    status, _, err = verify(capsys, fakes.VLLM(model, say), kept, *options)
    assert status == 2 and words in err and "remedy: " in err, err


def test_a_text_that_says_too_little_is_no_verdict(capsys, model, say, kept):
    """A server that names a few positions only is not healthy."""
    class Sparse(fakes.LlamaCppPython):
        def completion(self, ids, written, logprobs, **more):
            for name in ("token_logprobs", "top_logprobs"):
                if logprobs and len(ids) > 100:
                    logprobs[name][50:] = [None] * len(logprobs[name][50:])
            return super().completion(ids, written, logprobs, **more)

    status, out, _ = verify(capsys, Sparse(model, say), kept)
    assert status == 2 and f"fewer than {LENGTH} tell nothing" in out, out


CUT = 74  # tokens that a server keeps of a prompt


class Cutting(fakes.VLLM):
    """Keeps the end of a prompt only."""

    def ids_of(self, prompt):
        return super().ids_of(prompt)[-CUT:]


class CuttingUncounted(Cutting):
    def completion(self, *what, **more):
        return super().completion(*what, **more) | {"usage": None}


class CuttingWithNulls(fakes.LlamaCppPython):
    """Echoes all, and says nothing of what it does not read."""

    def completion(self, ids, written, logprobs, **more):
        if logprobs:
            unread = [n for n, value in enumerate(logprobs["token_logprobs"]) if value is None or value != value]
            for name in ("token_logprobs", "top_logprobs"):
                logprobs[name] = [None if n in unread else one for n, one in enumerate(logprobs[name])]
        return super().completion(ids, written, logprobs, **more)


class Refusing(fakes.VLLM):
    """Takes no longer prompt."""

    def ids_of(self, prompt):
        if len(ids := super().ids_of(prompt)) > CUT:
            raise fakes.Refuse(400, f"maximum context length is {CUT}")
        return ids


@pytest.mark.parametrize(("kind", "status", "words"), [
    (Cutting, 1, f"is cut to {CUT}, in silence"), (CuttingUncounted, 2, f"log-probabilities of {CUT - 1} of "),
    (CuttingWithNulls, 1, f"as a prompt cut to its last {CUT} tokens"),
    (Refusing, 2, f"400 Bad Request: maximum context length is {CUT}")])
def test_a_prompt_that_is_cut(capsys, model, kept, kind, status, words):
    """By the number of its tokens, by what is missing, or by the numbers of what is left; never by another name."""
    cut = made("kept", CUT) if kind is CuttingWithNulls else None
    found, out, err = verify(capsys, kind(model, lambda ids: logprobs(model, cut, ids)), kept)
    assert found == status and words in out + err, (out, err)
    assert "numbers  FAULT" not in out or cut, out
