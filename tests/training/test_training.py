"""The trainer: gradients of the whole model, the optimiser, runs that go on where they stopped, and the card."""

import dataclasses
import json
import os
import signal
import zipfile

import numpy as np
import pytest
from compare import assert_close

import tiny
import tiny.ops
from tests.training.test_backward import (
    loop_attention,
    loop_balance,
    loop_cross_entropy,
    loop_experts,
    loop_feed_forward,
    loop_rms_norm,
    loop_rope,
    loop_weights,
)
from tiny.config import Config, MoeConfig, TinyError
from tiny.files.params import read_params
from tiny.mixtral import Mixtral
from tiny.training import __main__ as command
from tiny.training import backward, experts_backward, optimiser
from tiny.training.gradients import loss_and_gradients
from tiny.training.optimiser import views, weight_shapes
from tiny.training.run_state import cut_log, plot_losses, read_log
from tiny.training.text import data, evaluate, stories, tasks, train

COEFFICIENT = 0.3


def small_config(moe=True):
    return Config(dim=8, n_layers=2, head_dim=4, hidden_dim=6, n_heads=4, n_kv_heads=2, norm_eps=1e-5, vocab_size=11,
                  rope_theta=1e4, max_seq_len=64, moe=MoeConfig(4, 2) if moe else None)


def small_model(config, seed=0):
    """Random weights, gradients full of NaN, and a packed batch."""
    rng = np.random.default_rng(seed)
    shapes = weight_shapes(config)
    flat = rng.standard_normal(sum(int(np.prod(shape)) for shape in shapes.values()), np.float32) * np.float32(0.5)
    grads = np.full_like(flat, np.nan)
    lengths = [5, 1, 6]
    batch = data.Batch(rng.integers(0, 11, 12), rng.integers(0, 11, 12), rng.random(12).astype(np.float32), lengths)
    return Mixtral(config, views(flat, shapes)), views(grads, shapes), batch


def reference_loss(config, weights, batch, choices):
    """The loss in float64, from the loop-written operations; the choices of experts are given."""
    positions = np.concatenate([np.arange(length) for length in batch.lengths])
    angles = np.outer(positions, config.rope_theta ** (-np.arange(0, config.head_dim, 2) / config.head_dim))
    cos, sin = np.cos(angles), np.sin(angles)
    x, aux = weights["tok_embeddings.weight"][batch.ids], []
    for layer in range(config.n_layers):
        w = lambda name, layer=layer: weights[f"layers.{layer}.{name}.weight"]
        y = loop_rms_norm(x, w("attention_norm"), config.norm_eps)
        q, k, v = ((y @ w(f"attention.{name}").T).reshape(len(x), -1, config.head_dim) for name in ("wq", "wk", "wv"))
        y = loop_attention(loop_rope(q, cos, sin), loop_rope(k, cos, sin), v, batch.lengths)
        x = x + y.reshape(len(x), -1) @ w("attention.wo").T
        y = loop_rms_norm(x, w("ffn_norm"), config.norm_eps)
        if config.moe:
            logits, chosen = y @ w("feed_forward.gate").T, choices[layer]
            experts = [[w(f"feed_forward.experts.{e}.{m}") for e in range(4)] for m in ("w1", "w2", "w3")]
            x = x + loop_experts(y, chosen, loop_weights(logits, chosen), *experts)
            aux.append(loop_balance(logits, chosen))
        else:
            network = [w(f"feed_forward.{m}") for m in ("w1", "w2", "w3")]
            x = x + np.stack([loop_feed_forward(row, *network) for row in y])
    logits = loop_rms_norm(x, weights["norm.weight"], config.norm_eps) @ weights["output.weight"].T
    loss = loop_cross_entropy(logits, batch.targets, batch.weights)
    return loss + COEFFICIENT * np.mean(aux) if aux else loss


def check_whole_model(config):
    """Compare a few derivatives of every tensor, always with the largest one.

    Measured over 12 seeds: loss 2.2e-7, derivatives 3.6e-7.
    """
    model, grads, batch = small_model(config)
    result = loss_and_gradients(model, batch, COEFFICIENT, grads)
    trace = {}
    model(batch.ids, lengths=batch.lengths, trace=trace)
    choices = [trace[f"experts{layer:02}"] for layer in range(config.n_layers)] if config.moe else None
    wide = {name: weight.astype(np.float64) for name, weight in model.weights.items()}
    loss = result["loss"] + COEFFICIENT * result["aux"]
    assert_close(np.array(loss), np.array(reference_loss(config, wide, batch, choices)), atol=1e-6, name="loss")
    rng = np.random.default_rng(1)
    for name, weight in wide.items():
        places = [int(np.argmax(np.abs(grads[name]))), *rng.integers(0, weight.size, 3).tolist()]
        flat, expected = weight.reshape(-1), []
        for place in places:
            kept, sides = flat[place], []
            for step in (1e-5, -1e-5):
                flat[place] = kept + step
                sides.append(reference_loss(config, wide, batch, choices))
            flat[place] = kept
            expected.append((sides[0] - sides[1]) / 2e-5)
        assert_close(grads[name].reshape(-1)[places], np.array(expected), atol=2e-6, name=name)


def test_gradients_of_the_whole_mixture_model():
    check_whole_model(small_config())


def test_gradients_of_the_whole_dense_model():
    check_whole_model(small_config(moe=False))


def test_one_batch_is_learnt_by_heart():
    model, grads, batch = small_model(dataclasses.replace(small_config(), dim=32, head_dim=8, hidden_dim=32))
    parameters, gradients = (named["norm.weight"].base for named in (model.weights, grads))
    optimiser.initialise(model.weights, 2, 0)
    moments = np.zeros((2, len(parameters)), np.float32)
    for step in range(1, 41):
        loss = loss_and_gradients(model, batch, 0.02, grads)["loss"]
        optimiser.adamw(parameters, gradients, *moments, step, 1e-2, optimiser.clip_factor(gradients, 1.0)[1])
    assert loss < 0.05, f"{loss:.3f} nats after 40 steps on one batch"


# ---- the optimiser


def test_adamw_is_the_hand_written_loop(monkeypatch):
    monkeypatch.setattr(optimiser, "BLOCK", 4)  # several blocks, the decay ending inside one
    rng, decayed, factor = np.random.default_rng(0), 6, 0.5
    p, m, v = rng.standard_normal(11), np.zeros(11), np.zeros(11)
    arrays = [x.copy() for x in (p, m, v)]
    for step, rate in ((1, 0.1), (2, 0.2), (3, 0.05)):
        g = rng.standard_normal(11)
        optimiser.adamw(arrays[0], g, *arrays[1:], step, rate, factor, decayed, 0.3)
        for i in range(11):
            clipped = g[i] * factor
            m[i] = 0.9 * m[i] + 0.1 * clipped
            v[i] = 0.95 * v[i] + 0.05 * clipped**2
            if i < decayed:
                p[i] -= rate * 0.3 * p[i]
            p[i] -= rate * (m[i] / (1 - 0.9**step)) / (np.sqrt(v[i] / (1 - 0.95**step)) + 1e-8)
    for name, actual, expected in zip(("parameters", "first moment", "second moment"), arrays, (p, m, v)):
        assert_close(actual, expected, atol=2e-15, name=name)


def test_the_schedule_climbs_stays_and_falls():
    rates = [optimiser.learning_rate(x, 2.0, 0.1, 0.5, 0.02) for x in (0.0, 0.05, 0.1, 0.3, 0.5, 0.75, 1.0)]
    assert_close(np.array(rates), np.array([0, 1, 2, 2, 2, 1.02, 0.04]), atol=1e-15, name="rates")
    rates = [optimiser.learning_rate(x, 2.0, 0.1, 1.0, 0.02) for x in (0.0, 0.05, 0.1, 0.5, 1.0)]
    assert_close(np.array(rates), np.array([0, 1, 2, 2, 2]), atol=1e-15, name="rates that never fall")


def test_clipping_shortens_long_gradients_only():
    assert optimiser.clip_factor(np.array([3.0, 4.0], np.float32), 1.0) == (5.0, 0.2)
    assert optimiser.clip_factor(np.array([0.3, 0.4], np.float32), 1.0)[1] == 1.0
    assert optimiser.clip_factor(np.zeros(2, np.float32), 1.0) == (0.0, 1.0)


def test_weights_are_views_and_norms_come_last():
    shapes = weight_shapes(small_config())
    flat = np.zeros(sum(int(np.prod(shape)) for shape in shapes.values()), np.float32)
    weights = views(flat, shapes)
    weights["norm.weight"][...] = 7
    assert (flat[-8:] == 7).all() or (flat == 7).sum() == 8
    dimensions = [weight.ndim for weight in weights.values()]
    assert dimensions == sorted(dimensions, reverse=True) and {1, 2} == set(dimensions)
    with pytest.raises(ValueError, match="flat array"):
        views(flat[1:], shapes)


def test_initial_weights_have_the_stated_spread():
    config = dataclasses.replace(small_config(), dim=64, hidden_dim=96, vocab_size=100)
    shapes = weight_shapes(config)
    weights = views(np.zeros(sum(int(np.prod(shape)) for shape in shapes.values()), np.float32), shapes)
    optimiser.initialise(weights, 2, 0)
    expected = {"tok_embeddings.weight": 0.5, "output.weight": 0.05, "norm.weight": 0.0,
                "layers.0.attention.wk.weight": (64 * 3) ** -0.5, "layers.1.attention.wo.weight": (16 * 3 * 4) ** -0.5,
                "layers.1.feed_forward.experts.3.w2.weight": (96 * 3 * 4) ** -0.5}
    for name, deviation in expected.items():
        assert_close(np.array(weights[name].std()), np.array(deviation), atol=0.0, rtol=0.1, name=name)


# ---- runs

RECIPE = train.Recipe(closing=0, dim=16, n_layers=2, n_heads=2, n_kv_heads=1, head_dim=8, hidden_dim=16, num_experts=4,
                      vocab_size=50, tokens=480, windows=(8, 16), batch_tokens=(24, 48), answers=0.25,
                      answers_tokens=40, shares=(("text", 0.6), ("chats", 0.4)),
                      answer_shares=(("text", 0.3), ("chats", 0.7)))


@pytest.fixture
def streams():
    """Running text, and documents of 10 tokens of which the last 4 are answers."""
    ids = np.random.default_rng(0).integers(3, 50, 600).astype(np.int32)
    running = data.Stream(ids, np.ones(600, np.bool_), np.zeros(0, np.int64))
    return {"text": running, "chats": data.Stream(ids[::-1].copy(), np.arange(600) % 10 > 5, np.arange(0, 601, 10))}


@pytest.fixture
def run(monkeypatch, streams, tmp_path):
    """Train in its own folder, on these streams and without a tokenizer."""
    monkeypatch.setattr(train, "tokenizer_file", lambda out, vocab_size: b"")
    monkeypatch.setattr(train.data, "load_streams", lambda model, out: (streams, None))
    return lambda recipe=RECIPE, folder="run", **options: train.train(recipe, tmp_path / folder, log_every=1, **options)


def assert_same(a, b):
    """Two trainers stand at the same step with the same bits."""
    assert a.step == b.step
    for name in train.ARRAYS:
        same = getattr(a, name).tobytes() == getattr(b, name).tobytes()
        assert same, name  # by itself: pytest would search two long strings of bytes for their differences
    assert a.smoothed["loss"] == b.smoothed["loss"]


def test_a_run_goes_on_to_the_same_bits(run, tmp_path):
    straight = run(folder="straight")
    assert straight.step == len(straight.sizes) == 15
    assert run(stop_after=3).step == 3 and run(stop_after=1).step == 4
    resumed = run()
    assert_same(resumed, straight)
    steps = [line["step"] for line in read_log(tmp_path / "run/log.jsonl")]
    assert steps == list(range(1, 16)), "every step is logged once"
    losses = [[line["step_loss"] for line in read_log(tmp_path / f"{name}/log.jsonl")] for name in ("run", "straight")]
    assert losses[0] == losses[1]


def test_a_lost_moment_is_noticed(run, tmp_path):
    """The comparison above can fail: a state without the second moment gives other weights."""
    straight = run(folder="straight")
    run(stop_after=4)
    with np.load(tmp_path / "run/state.npz") as file:
        state = dict(file)
    np.savez(tmp_path / "run/state.npz", **state | {"moment2": np.zeros_like(state["moment2"])})
    with pytest.raises(AssertionError, match="parameters"):
        assert_same(run(), straight)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_ends(run, monkeypatch, number):
    advance, handler = train.Trainer.advance, signal.getsignal(number)

    def interrupted(trainer):
        if trainer.step == 2:
            os.kill(os.getpid(), number)
        return advance(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(train.Trainer, "advance", interrupted)
        assert run().step == 3, "the step in hand is finished"
    assert signal.getsignal(number) is handler
    assert_same(run(), run(folder="straight"))


def test_a_crash_while_saving_leaves_the_old_state(run, monkeypatch):
    run(stop_after=2)

    def crash(file, **arrays):
        file.write(b"half a state")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", crash)
        with pytest.raises(KeyboardInterrupt):
            run(stop_after=2)
    assert_same(run(), run(folder="straight"))


def test_states_are_written_at_intervals(run, monkeypatch):
    saved, save = [], train.Trainer.save
    monkeypatch.setattr(train.Trainer, "save", lambda self, path: (saved.append(self.step), save(self, path)))
    run(save_minutes=0.0)
    assert saved == [*range(1, 16), 15]


def test_a_state_of_another_recipe_is_refused(run, streams):
    run(stop_after=1)
    with pytest.raises(TinyError, match="another recipe"):
        run(dataclasses.replace(RECIPE, rate=1e-3))
    streams["text"].ids[0] += 1
    with pytest.raises(TinyError, match="other data"):
        run()


@pytest.mark.parametrize("damage", [lambda x: x[: len(x) // 2], lambda x: b"", lambda x: b"\x80\x04N."],
                         ids=["cut short", "empty", "a pickle"])
def test_a_damaged_state_is_refused(run, tmp_path, damage):
    run(stop_after=1)
    path = tmp_path / "run/state.npz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(TinyError, match="not a whole training state"):
        run()


def npy(header: bytes, data: bytes = b"") -> bytes:
    """A .npy file with any header."""
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


def member(content: bytes, name: str = "parameters"):
    """The state with the bytes of one array changed."""
    def change(path):
        with zipfile.ZipFile(path) as file:
            members = {each: file.read(each) for each in file.namelist()}
        with zipfile.ZipFile(path, "w") as file:
            for each, data in (members | {f"{name}.npy": content}).items():
                file.writestr(each, data)
    return change


def arrays(**changed):
    """The state with some arrays changed, by functions of what they were."""
    def change(path):
        with np.load(path) as file:
            state = dict(file)
        np.savez(path, **{name: changed.get(name, lambda x: x)(x) for name, x in state.items()})
    return change


def one_array(path):
    with open(path, "wb") as file:
        np.save(file, np.zeros(3, np.float32))


DAMAGES = {
    "a .npy": one_array, "TokenError": member(npy(b"{'descr': '<f4', 'shape': (")),
    "SyntaxError": member(npy(b"{'descr' '<f4'}")), "RecursionError": member(npy(b"(" * 5000)),
    "TypeError": member(npy(b"{'descr': 7, 'fortran_order': False, 'shape': (3,)}\n")),
    "IndexError": member(npy(b"{'descr': ('<f4',), 'fortran_order': False, 'shape': (3,)}\n")),
    "huge": member(npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (999999999999,)}\n")),
    "negative": member(npy(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-3,)}\n")),
    "objects": member(npy(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}\n", b"\x80\x04N.")),
    "other shape": arrays(parameters=lambda x: x[:-1]), "scalar": arrays(moment1=lambda x: x[0]),
    "broadcasts": arrays(moment2=lambda x: x[:1]), "NaN": arrays(parameters=lambda x: x * np.nan),
    "infinite loss": arrays(loss=lambda x: x + np.inf), "text": arrays(step=lambda x: np.array("3")),
    "fraction": arrays(step=lambda x: np.array(1.5)), "before the start": arrays(step=lambda x: np.array(-1)),
    "past the end": arrays(step=lambda x: np.array(10**6)), "a list of steps": arrays(step=lambda x: np.array([1, 2])),
    "complex": arrays(moment1=lambda x: x.astype(np.complex64)), "no member": member(b"")}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_state_of_other_numbers_is_refused(run, tmp_path, damage):
    run(stop_after=1)
    path = tmp_path / "run/state.npz"
    DAMAGES[damage](path)
    before = path.read_bytes()
    with pytest.raises(TinyError, match="not a whole training state"):
        run()
    assert path.read_bytes() == before


def test_a_rate_that_is_too_high_keeps_the_state(run, streams, tmp_path, monkeypatch):
    run(stop_after=1)
    before = (tmp_path / "run/state.npz").read_bytes()
    monkeypatch.setattr(train.Recipe, "rate_at", lambda *_: float("nan"))
    with np.errstate(all="ignore"), pytest.raises(TinyError, match="parameters are not finite after step 2"):
        run(stop_after=2)
    assert (tmp_path / "run/state.npz").read_bytes() == before and sorted(
        path.suffix for path in (tmp_path / "run").iterdir()) == sorted(
        path.suffix for path in (tmp_path / "run").iterdir() if path.suffix != ".part")


@pytest.mark.parametrize("arguments", [
    ["--tokens", "nan"], ["--tokens", "inf"], ["--tokens", "-5"], ["--tokens", "0"], ["--tokens", "1e15"],
    ["--seed", "-1"], ["--seed", "1e3"], ["--rate", "nan"], ["--rate", "inf"], ["--rate", "-1"], ["--rate", "0"],
    ["--stop-after", "0"], ["--stop-after", "-3"], ["--save-minutes", "nan"], ["--save-minutes", "-1"],
    ["tiny-pixtral", "--scenes", "0"], ["tiny-pixtral", "--processes", "0"], ["tiny-mistral"], ["--nonsense"],
    ["--evaluate", ""], ["--evaluate", "no/folder"]], ids=" ".join)
def test_options_that_mean_nothing_end_in_two_lines(capsys, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    assert command.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == "" and [line.split(":")[0] for line in err.splitlines()] == ["error", "remedy"]
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_a_step_is_refused(streams):
    with pytest.raises(TinyError, match="has no step"):
        train.Trainer(dataclasses.replace(train.Recipe(), tokens=1, closing=0), streams)


def test_infinite_gradients_stop_the_run_before_they_do_harm(streams):
    trainer = train.Trainer(RECIPE, streams)
    trainer.weights["output.weight"][3, 3] = np.inf
    before = trainer.parameters.copy()
    with np.errstate(all="ignore"), pytest.raises(TinyError, match="not finite at step 0"):
        trainer.advance()
    assert before.tobytes() == trainer.parameters.tobytes() and trainer.step == 0


def test_steps_windows_and_the_last_part_follow_the_recipe(streams, monkeypatch):
    drawn, draw = [], data.batch
    monkeypatch.setattr(data, "batch", lambda *arguments: drawn.append(arguments) or draw(*arguments))
    trainer = train.Trainer(RECIPE, streams)
    while trainer.step < len(trainer.sizes):
        trainer.advance()
    sizes, windows, answers = zip(*((tokens, window, only) for *_, tokens, window, only in drawn))
    assert sizes == (24,) * 10 + (48,) * 2 + (40,) * 3
    assert windows == (8,) * 9 + (16,) * 6, "the first half ends within the tenth step"
    assert answers == (False,) * 12 + (True,) * 3
    assert [dict(arguments[1]) for arguments in drawn[11:13]] == [dict(RECIPE.shares), dict(RECIPE.answer_shares)]


def test_a_log_cut_short_is_read_up_to_there(tmp_path):
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    assert read_log(log) == [{"step": 1}, {"step": 2}, {"step": 3}]
    cut_log(log, 2)
    assert log.read_text() == '{"step": 1}\n{"step": 2}\n'


def test_the_loss_curve_is_a_picture(run, tmp_path):
    run()
    plot_losses(tmp_path / "run/log.jsonl", tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_the_exported_checkpoint_loads(run, tmp_path):
    trainer = run(stop_after=2)
    train.export(trainer, tmp_path)
    model = tiny.load(tmp_path)
    assert read_params(tmp_path / "params.json") == trainer.model.config == model.config
    ids = np.arange(10)
    # bfloat16 keeps 8 bits of a weight. Measured: the logits, of size 0.2, differ by 1.0e-3 at the most.
    assert_close(model(ids), trainer.model(ids), atol=4e-3, name="logits")


# ---- the command line, and the card


def test_the_command_line_says_what_is_wrong(capsys, tmp_path):
    assert command.main(["--evaluate", str(tmp_path / "nothing")]) == 2
    cause, remedy = capsys.readouterr().err.splitlines()
    assert "nothing" in cause and remedy


def test_the_command_line_trains_and_writes_the_card(run, monkeypatch, tmp_path, capsys):
    asked = []

    def train_small(recipe, out, stop_after, save_minutes):
        asked.append((recipe, save_minutes))
        return run(stop_after=stop_after)

    card = {"held_out": {"text": {"nats_per_token": 2.0, "bits_per_character": 1.0}},
            "rows": [{"what": "something", "value": "12 %"}]}
    monkeypatch.setattr(command, "train", train_small)
    monkeypatch.setattr(command, "evaluate", lambda folder: card)
    arguments = ["--out", str(tmp_path / "run"), "--tokens", "1e3", "--seed", "5", "--rate", "1e-3"]
    assert command.main([*arguments, "--stop-after", "2"]) == 0
    assert "goes on from here" in capsys.readouterr().out and not (tmp_path / "run/card.json").exists()
    assert command.main(arguments) == 0
    assert asked == [(dataclasses.replace(train.Recipe(), tokens=1000, seed=5, rate=1e-3), 2.0)] * 2
    written = json.loads((tmp_path / "run/card.json").read_text())
    assert written["rows"] == card["rows"] and written["recipe"]["tokens"] == 1000
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"params.json", "consolidated.safetensors", "loss.png"} <= files
    assert "12 %  something" in capsys.readouterr().out


def test_held_out_loss_of_a_model_that_knows_nothing():
    model, _, batch = small_model(small_config())
    model.weights["output.weight"][...] = 0
    batch.weights[:] = 1
    losses, shares = evaluate.held_out(model, {"text": data.HeldOut([batch, batch], 30)})
    assert losses["text"]["tokens"] == 24 and losses["text"]["characters"] == 30
    assert_close(np.array(losses["text"]["nats_per_token"]), np.log(11), atol=1e-6, name="nats per token")
    assert_close(np.array(losses["text"]["bits_per_character"]), np.log2(11) * 24 / 30, atol=1e-6, name="bits")
    trace = {}
    model(batch.ids, lengths=batch.lengths, trace=trace)
    counted = [[np.mean(trace[f"experts{layer:02}"] == e) for e in range(4)] for layer in range(2)]
    assert_close(np.array(shares["text"]), np.array(counted), atol=5e-5, name="shares")
    model.weights["output.weight"][0] = np.nan
    with pytest.raises(TinyError, match="it first appears in 'logits'"):
        evaluate.held_out(model, {"text": data.HeldOut([batch], 30)})


class Letters:
    """A tokenizer of single letters, and a model that knows one answer to everything."""

    bos_id, eos_id = 0, 1

    def __init__(self, answer):
        self.tokenizer, self.answer = self, answer

    def encode(self, text):
        return [ord(letter) for letter in text]

    def encode_chat(self, messages):
        return [self.bos_id, *self.encode(f"[INST] {messages[0]['content']} [/INST]")], []

    def decode(self, ids):
        return "".join(chr(id) for id in ids if id > 1)

    def generate_batch(self, model, prompts, max_tokens):
        return [[tiny.Token(ord(letter), letter, 0.0, None) for letter in self.answer(model.decode(ids))[:max_tokens]]
                for ids in prompts]


def test_stories_are_continued_from_their_openings(monkeypatch):
    model = Letters(lambda opening: " The end.")
    monkeypatch.setattr(tiny, "generate_batch", model.generate_batch)
    texts = evaluate.write_stories(model, 3)
    rng = np.random.default_rng([2, 11])
    assert texts == [stories.generate(rng, held_out=True).opening + " The end." for _ in range(3)]


def test_story_scores():
    rng = np.random.default_rng(0)
    good = [stories.generate(rng, held_out=True).text for _ in range(3)]
    assert evaluate.story_scores(good) == {"accepted": 1.0, "who_and_where": 1.0, "consistent": 1.0}
    scores = evaluate.story_scores([*good, "No story."])
    assert scores == {"accepted": 0.75, "who_and_where": 0.75, "consistent": 0.75}


def test_answers_are_compared_exactly(monkeypatch):
    model = Letters(lambda prompt: prompt.removeprefix("[INST] Copy this: ").removesuffix(" [/INST]"))
    monkeypatch.setattr(tiny, "generate_batch", model.generate_batch)
    found = evaluate.answer_tasks(model, "repeat", 40)
    right = {task.prompt.startswith("Copy this: ") for task, given in found if given == task.answer}
    wrong = {task.prompt.startswith("Copy this: ") for task, given in found if given != task.answer}
    assert right == {True} and wrong == {False}
    assert all(tasks.is_held_out(task.prompt) for task, _ in found)


def test_the_closing_part_trains_on_everything_again(streams):
    """After the answers: steps of their size, the first shares, all of the loss, and a rate that falls again."""
    recipe = dataclasses.replace(RECIPE, closing=120)
    trainer = train.Trainer(recipe, streams)
    assert trainer.sizes[-3:].tolist() == [40] * 3 and trainer.total == trainer.ends[-4]
    rates = []
    while trainer.step < len(trainer.sizes):
        rates.append(trainer.advance()["rate"])
    assert rates[-4] < rates[-3] > rates[-2] > rates[-1] > 0
    assert rates[-3] <= recipe.closing_rate


def test_the_operations_that_keep_are_the_books():
    """Attention and experts as the trainer runs them give what `tiny.ops` gives, and keep one entry for each call."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return rng.standard_normal(shape, np.float32)

    lengths = [3, 130, 1, 66]
    stops = np.cumsum(lengths).tolist()
    q, keys, values, kept = normal(200, 6, 8), normal(200, 2, 8), normal(200, 2, 8), []
    ours = backward.keeping_attention(kept)(q, keys, values, lengths)
    book = tiny.ops.attention(q, keys, values, lengths, list(zip([0, *stops], stops)))
    assert_close(ours, book, atol=4e-6, name="attention")  # measured: 5.4e-7 over 6 seeds
    x, gate = normal(50, 16), normal(4, 16)
    w1, w2, w3 = normal(4, 12, 16), normal(4, 16, 12), normal(4, 12, 16)
    _, expert_ids, expert_weights = tiny.ops.route(x, gate, 2)
    ours = experts_backward.keeping_experts(kept)(x, expert_ids, expert_weights, w1, w2, w3)
    book = tiny.ops.experts(x, expert_ids, expert_weights, w1, w2, w3)
    assert_close(ours, book, atol=2e-4, name="experts")  # values reach 280; measured: 3.1e-5
    assert len(kept) == 2
