"""A server that answers chats with recorded replies, and judges answers by a fixed rule; for real clients.

A question that holds "(item N)" gets reply N, and any other one that depends on its text alone. A judge, which is a
request with a system message, gets a rating that depends on the whole conversation.
"""

import json
import re
import threading
import zlib
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

RATINGS = ("1", "3", "5.5", "7", "8.25", "10", "11", "0", "2.", "4")


def number_of(text: str) -> int:
    """A number that stands for a text."""
    return zlib.crc32(text.encode("utf-8", "surrogatepass"))


def judgement(conversation: str) -> str:
    """What the judge says: words and one rating that counts, sometimes with a second one or other words in brackets."""
    draw = number_of(conversation)
    rating = RATINGS[draw % len(RATINGS)]
    return ("The answer is compared with the reference.\nRating: [[{}]]", "[[good]] [[ 9 ]] [[-2]] [[{}]]",
            "[[{}]] or rather [[6]]", "Rating: [[[{}]]]")[draw // 16 % 4].format(rating)


def last_text(content) -> str:
    """The texts of a message, one after the other."""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def answer_to(request: dict, replies: list[str]) -> str:
    """The reply to a chat."""
    messages = request["messages"]
    text = last_text(messages[-1]["content"])
    if messages[0]["role"] == "system":
        return judgement(text)
    found = re.search(r"\(item (\d+)\)", text)
    return replies[int(found[1]) if found else number_of(text) % len(replies)]


@contextmanager
def serving(replies: list[str]):
    """Serve on a free port of this machine; give the address and the list of the requests that came."""
    seen: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *words):
            """Say nothing."""

        def send(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            self.send(b"")

        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            seen.append(request)
            choice = {"index": 0, "finish_reason": "stop",
                      "message": {"role": "assistant", "content": answer_to(request, replies)}}
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            reply = {"id": f"chatcmpl-{len(seen)}", "object": "chat.completion", "created": 0,
                     "model": request["model"], "choices": [choice], "usage": usage}
            self.send(json.dumps(reply).encode())

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", seen
    finally:
        server.shutdown()
        server.server_close()
