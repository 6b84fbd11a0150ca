"""What real servers answered, kept so that how each one speaks is tested without it.

    python tests/helpers/recorded_servers.py URL NAME        records one server into tests/golden/servers/NAME.json.xz

A file holds each request with its answer, in the order of a run of `exchange`: the probe, the numbers of tokens, a text
of 60 tokens, the chats and the defaults. It is made again with tests/verify/engines running a server.
"""

import json
import lzma
import sys
from pathlib import Path

import tiny
from tiny.tools.verify.server import answers, chat, collect, ids, names, probe, repeat
from tiny.tools.verify.server.connect import Refused, Server
from tiny.tools.verify.server.reference import texts

FOLDER = Path(__file__).parents[1] / "golden/servers"
BOUND = 0.03  # nats


class Recorder(Server):
    """A server whose answers are kept."""

    def __init__(self, url: str):
        super().__init__(url)
        self.kept: list = []

    def call(self, method, path, body):
        try:
            found, status = super().call(method, path, body), 200
        except Refused as error:
            self.kept.append([method, path, body, error.status, str(error)])
            raise
        self.kept.append([method, path, body, status, plain(found)])
        return found


def plain(found):
    """An answer without what is different each time, or tells of the machine."""
    if isinstance(found, dict):
        return {key: plain(value) for key, value in found.items() if key not in (
            "id", "created", "timings", "system_fingerprint", "root", "generation_settings", "permission") or
            isinstance(value, int) and key == "id"}
    return [plain(one) for one in found] if isinstance(found, list) else found
