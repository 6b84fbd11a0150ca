"""What real servers answered, kept so that how each one speaks is tested without it.

    PYTHONPATH=. python tests/helpers/recorded_servers.py URL NAME PACKAGE==VERSION ...

That records one server into tests/golden/servers/NAME.json.xz. A file holds each request with its answer, as a run of
`exchange` makes them: the probe, the numbers of tokens, a text of 60 tokens, the chats and the defaults.
"""

import json
import lzma
import sys
from pathlib import Path

import tiny
from tiny.config import TinyError
from tiny.tools.verify.server.chat import check_chat
from tiny.tools.verify.server.collect import Collector
from tiny.tools.verify.server.connect import Refused, Server
from tiny.tools.verify.server.ids import check_ids
from tiny.tools.verify.server.names import Names
from tiny.tools.verify.server.probe import NATIVE, NEUTRAL, probe
from tiny.tools.verify.server.reference import texts
from tiny.tools.verify.server.repeat import check_defaults, named

FOLDER = Path(__file__).parents[1] / "golden/servers"
BOUND = 0.03  # nats
LEFT_OUT = ("created", "timings", "system_fingerprint", "root", "generation_settings", "permission", "modified_at",
            "prompt", "__verbose")


class Recorder(Server):
    """A server whose answers are kept."""

    def __init__(self, url: str):
        super().__init__(url)
        self.kept: list = []

    def call(self, method, path, body):
        try:
            found = super().call(method, path, body)
        except Refused as error:
            self.kept.append([method, path, body, {"status": error.status, "words": error.cause}])
            raise
        except TinyError as error:
            self.kept.append([method, path, body, {"status": 0, "words": error.cause}])
            raise
        self.kept.append([method, path, body, {"status": 200, "body": plain(found)}])
        return found


class Replayer(Server):
    """A server that is not there: each request gets what was answered to it, whatever was sent about sampling."""

    def __init__(self, name: str):
        super().__init__("http://127.0.0.1:1")
        kept = json.loads(lzma.decompress((FOLDER / f"{name}.json.xz").read_bytes()))
        self.answers = {key_of(*request): answer for *request, answer in kept["exchanges"]}
        self.versions = kept["versions"]

    def call(self, method, path, body):
        found = self.answers.get(key_of(method, path, body))
        assert found is not None, f"{method} {path} was not recorded; record again: {str(body)[:300]}"
        if found["status"] == 0:
            raise TinyError(found["words"], "")
        if found["status"] != 200:
            raise Refused(found["words"], "", found["status"])
        return found["body"]


def key_of(method: str, path: str, body: dict | None) -> str:
    """What tells requests apart."""
    kept = {key: value for key, value in (body or {}).items() if key not in (NEUTRAL | NATIVE)}
    # whether anything was said about sampling does count
    return json.dumps([method, path, kept, sum(key in NEUTRAL for key in body or {}) > 2, "temperature" in (
        body or {})], sort_keys=True)


def plain(found):
    """An answer without what is different each time, or tells of the machine, and with numbers of six digits."""
    if isinstance(found, dict):
        return {key: plain(value) for key, value in found.items() if key not in LEFT_OUT and not (
            key == "id" and str(value).startswith(("cmpl-", "chatcmpl-")))}
    if isinstance(found, float):
        return float(f"{found:.7g}")
    return [plain(one) for one in found] if isinstance(found, list) else found


def exchange(server: Server, model) -> dict:
    """One run of all that depends on how a server speaks; what came of it."""
    way = probe(server, model)
    found = {"way": way, "tokens": check_ids(server, way, model, texts.LEAST)}
    collector = Collector(server, way, Names(model.tokenizer, model.config.vocab_size))
    if way.form.kind not in ("chat", "text"):
        found["seen"] = collector.collect(texts.choose_texts(model.tokenizer, [60], None)[0])
    elif way.form.kind == "chat":
        found["seen"] = collector.collect_chat("Once upon a time there was a river", 24)
    body = NEUTRAL | named(way.name)
    return found | {"chat": check_chat(server, body, model, BOUND),
                    "defaults": check_defaults(server, way.name, body, model, BOUND)}


def main(url: str, name: str, *versions: str) -> None:
    """Record one server. versions: PACKAGE==VERSION of what served"""
    server = Recorder(url)
    print(exchange(server, tiny.load("tiny-mixtral", weights="resident")))
    FOLDER.mkdir(exist_ok=True)
    text = json.dumps({"versions": versions, "exchanges": server.kept})
    path = FOLDER / f"{name}.json.xz"
    path.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))
    print(path, path.stat().st_size, len(server.kept))


if __name__ == "__main__":
    main(*sys.argv[1:])
