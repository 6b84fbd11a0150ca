"""Requests that no honest client sends, each with the statuses that are right for it."""

import base64
import io
import struct
import zlib

from PIL import Image

from tests.serve.served import data_url, picture, user

TEXT, CHAT = "/v1/completions", "/v1/chat/completions"
DEEP = b'{"a":' * 100_000
HUGE = 10**400
# What is wrong for each field, whatever the path: everything but what is listed as right.
VALUES = {"text": "x", "empty": "", "list": [], "object": {}, "true": True, "negative": -1, "fraction": 1.5,
          "huge": HUGE, "nested": [[[[]]]], "texts": ["x", 1], "pair": {"a": {"b": []}}}
RIGHT = {"max_tokens": set(), "temperature": {"fraction"}, "top_p": set(), "seed": set(), "n": set(),
         "stop": {"text", "list"}, "stream": {"true"}, "stream_options": set(), "top_logprobs": set(),
         "return_tokens_as_token_ids": {"true"}, "max_completion_tokens": set()}


def fields():
    """A request for each field of a chat and each value of a wrong type: name, path, body."""
    for name, right in RIGHT.items():
        for kind, value in VALUES.items():
            if kind not in right:
                yield f"{name}={kind}", CHAT, {"messages": user("hello"), "max_tokens": 2, name: value}
    for name in ("logprobs", "prompt", "echo", "add_special_tokens"):
        for kind, value in VALUES.items():
            if (name, kind) not in {("prompt", "text"), ("prompt", "empty"), ("echo", "true"),
                                    ("add_special_tokens", "true")}:
                yield f"text {name}={kind}", TEXT, {"prompt": "hello", "max_tokens": 2, name: value}
    for kind, value in VALUES.items():
        yield f"messages={kind}", CHAT, {"messages": value}
        yield f"message={kind}", CHAT, {"messages": [value]}
        yield f"role={kind}", CHAT, {"messages": [{"role": value, "content": "x"}]}
        if kind not in ("text", "empty", "list"):
            yield f"content={kind}", CHAT, {"messages": user(value)}
        yield f"chunk={kind}", CHAT, {"messages": user([value])}
        yield f"image_url={kind}", CHAT, {"messages": user([{"type": "image_url", "image_url": value}])}
        yield f"url={kind}", CHAT, {"messages": user([{"type": "image_url", "image_url": {"url": value}}])}
        yield f"tokens={kind}", "/detokenize", {"tokens": value} if kind != "list" else {"tokens": [None]}


def changing():
    """Fields that would change numbers and are not supported."""
    for name, value in {"frequency_penalty": 0.5, "presence_penalty": 1, "repetition_penalty": 1.1, "top_k": 5,
                        "min_p": 0.1, "logit_bias": {"5": 10}, "best_of": 2, "suffix": "x", "tools": [{}],
                        "response_format": {"type": "json_object"}, "min_tokens": 3, "ignore_eos": True,
                        "stop_token_ids": [5], "bad_words": ["x"], "use_beam_search": True, "guided_json": {},
                        "skip_special_tokens": False, "truncate_prompt_tokens": 5}.items():
        yield name, TEXT, {"prompt": "hello", "max_tokens": 2, name: value}


def bodies():
    """Bodies that are no request: name, path, bytes."""
    good = b'{"prompt": "hello", "max_tokens": 2%s}'
    yield from ((name, TEXT, body) for name, body in {
        "empty": b"", "no JSON": b"hello", "cut": b'{"prompt": "hel', "list": b"[]", "number": b"1", "null": b"null",
        "text": b'"x"', "NaN": good % b', "temperature": NaN', "Infinity": good % b', "temperature": Infinity',
        "1e999": good % b', "temperature": 1e999', "minus 1e999": good % b', "top_p": -1e999',
        "many digits": good % (b', "seed": ' + b"9" * 5000),
        "deep objects": DEEP, "deep lists": b"[" * 100_000, "deep and closed": b"[" * 5000 + b"]" * 5000,
        "not UTF-8": b'{"prompt": "\xff\xfe"}', "UTF-16": '{"prompt": "x"}'.encode("utf-16-le")[:-1],
        "null byte": b"\0", "trailing": b'{"prompt": "x"} {}', "key twice": b'{"prompt": "a", "prompt": "b"}',
        "comment": b'{"prompt": "x" /* no */}', "single quotes": b"{'prompt': 'x'}", "form": b"prompt=hello",
        "zip": zlib.compress(b'{"prompt": "x"}'),
        "deep field": b'{"prompt": "x", "stop": ' + b"[" * 900 + b"]" * 900 + b"}"}.items())


def ids():
    """Ids and prompts out of bounds."""
    yield from ((name, TEXT, {"max_tokens": 1, "prompt": prompt}) for name, prompt in {
        "id too large": [1, 10**9], "id negative": [-1], "id huge": [HUGE], "id true": [True], "id fraction": [1.0],
        "id in a list": [[1, 2**64]], "empty ids": [[]], "one empty": [[1], []], "mixed": [1, "x"], "null": [None],
        "too many": ["x"] * 1000, "long": [1] * 100_000, "exactly full": [1] * 512, "long text": "a b " * 5000,
        "very long text": "x" * 2_000_000, "surrogate": "a\ud800b", "low surrogate": "\udc00"}.items())
    yield "no prompt", TEXT, {}
    yield "empty without BOS", TEXT, {"prompt": "", "add_special_tokens": False}
    yield "huge answer of many", TEXT, {"prompt": ["x"] * 128, "max_tokens": 2**62, "n": 16}
    yield "logprobs", TEXT, {"prompt": "x", "logprobs": 21}
    yield "n", TEXT, {"prompt": "x", "n": 17}
    yield "stops", TEXT, {"prompt": "x", "stop": ["a"] * 17}
    yield "long stop", TEXT, {"prompt": "x", "stop": "a" * 1001}
    yield "empty stop", TEXT, {"prompt": "x", "stop": ["a", ""]}
    yield "max_tokens 0 of a chat", CHAT, {"messages": user("x"), "max_tokens": 0}
    yield "top_p 0", TEXT, {"prompt": "x", "top_p": 0}
    yield "top_logprobs alone", CHAT, {"messages": user("x"), "top_logprobs": 2}
    yield "stream_options alone", CHAT, {"messages": user("x"), "stream_options": {"include_usage": True}}
    yield "no answer asked", CHAT, {"messages": [*user("x"), {"role": "assistant", "content": "y"}]}
    yield "tool", CHAT, {"messages": [{"role": "tool", "content": "y", "tool_call_id": "1"}]}
    yield "many messages", CHAT, {"messages": user("x") * 5000}
    yield "long chat", CHAT, {"messages": user("word " * 50_000)}
    yield "tokenize nothing", "/tokenize", {}
    yield "tokenize two things", "/tokenize", {"prompt": "x", "messages": user("x")}
    yield "stop of half a character", TEXT, {"prompt": "x", "stop": "\udfff"}
    yield "model of half a character", TEXT, {"prompt": "x", "model": "\udfff"}
    yield "half a character in a message", CHAT, {"messages": user("a\ud83d"), "max_tokens": 1}
    yield "half a character as a key", TEXT, {"prompt": "x", "max_tokens": 1, "\ud83d": 1}
    yield "tokenize a list", "/tokenize", {"prompt": ["x"]}
    yield "detokenize nothing", "/detokenize", {}
    yield "detokenize out of range", "/detokenize", {"tokens": [5, 10**6]}


def png(width, height, data=b""):
    """A PNG file of a size that its header claims, with pixels of ours or none."""
    def part(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    return (b"\x89PNG\r\n\x1a\n" + part(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
            + part(b"IDAT", data) + part(b"IEND", b""))


def url(data, kind="png"):
    return f"data:image/{kind};base64," + base64.b64encode(data).decode()


def images():
    """Files that are no pictures, traps, and pictures in the wrong place: name, messages."""
    gif = io.BytesIO()
    Image.new("P", (8, 8)).save(gif, "GIF")
    good = data_url(Image.new("RGB", (32, 32), "red"))
    for name, address in {
            "http": "http://127.0.0.1:1/a.png", "https": "https://example.org/a.png", "file": "file:///etc/passwd",
            "path": "/etc/passwd", "ftp": "ftp://x/a.png", "no comma": "data:image/png;base64", "empty": "",
            "empty data": "data:image/png;base64,", "no base64": "data:image/png,abc", "svg": url(b"<svg/>", "svg+xml"),
            "text": "data:text/plain;base64,aGVsbG8=",
            "pdf type": good.replace("image/png", "application/pdf"), "bad base64": "data:image/png;base64,!!!!",
            "bad padding": "data:image/png;base64,abc", "not ASCII": "data:image/png;base64,ä",
            "space": good[:40] + " " + good[40:], "newline": good[:40] + "\n" + good[40:], "cut short": good[:-40],
            "zeros": url(b"\0" * 1000),
            "bomb by size": url(png(60_000, 60_000)),
            "bomb by data": url(png(30_000, 30_000, zlib.compress(b"\0" * 10**7))),
            "no pixels": url(png(0, 5)), "no data": url(png(50, 50)), "huge header": url(png(2**31 - 1, 2**31 - 1)),
            "pdf": url(b"%PDF-1.4\n"), "eps": url(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "eps"),
            "zip": url(b"PK\3\4" + b"\0" * 50), "cut gif": url(gif.getvalue()[:20], "gif"),
            "cut jpeg": url(b"\xff\xd8\xff\xe0" + b"\0" * 40, "jpeg"),
            "many parameters": "data:image/png" + ";a=b" * 10_000,
            "webp": url(b"RIFF\x10\0\0\0WEBPVP8 ", "webp")}.items():
        yield name, user([{"type": "image_url", "image_url": {"url": address}}])
    yield "too many bytes", user([{"type": "image_url", "image_url": {"url": url(b"\x89PNG" + b"\0" * (17 << 20))}}])
    yield "as a text", user([{"type": "image_url", "image_url": "http://example.org/a.png"}])
    yield "too many", user([picture((16, 16))] * 65)
    yield "too many for the context", user([picture((96, 96))] * 60)
    yield "of the system", [{"role": "system", "content": [picture()]}, *user("x")]
    yield "other chunk", user([{"type": "video_url", "video_url": {"url": good}}])
    yield "audio", user([{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}])
    yield "chunk of two kinds", user([{"type": "image", "image": good}])


HOST = b"Host: 127.0.0.1\r\n"


def raw():
    """Bytes on the wire, with the statuses that may come back; none means that the connection is closed."""
    post = b"POST /v1/completions HTTP/1.1\r\n" + HOST
    return {
        "no HTTP": (b"hello\r\n\r\n", {400}), "TLS": (b"\x16\x03\x01\x02\x00\x01\x00" + b"\0" * 100, {400}),
        "null bytes": (b"\0" * 100 + b"\r\n\r\n", {400}), "HTTP/0.9": (b"GET /health\r\n\r\n", {400}),
        "HTTP/9.9": (b"GET /health HTTP/9.9\r\n" + HOST + b"\r\n", {400, 200, 505}),
        "h2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", {400, 421}),
        "no host": (b"GET /health HTTP/1.1\r\n\r\n", {400}), "no host in 1.0": (b"GET /health HTTP/1.0\r\n\r\n", {421}),
        "two hosts": (b"GET /health HTTP/1.1\r\n" + HOST + HOST + b"\r\n", {400}),
        "other host": (b"GET /health HTTP/1.1\r\nHost: evil.example\r\n\r\n", {421}),
        "host with a tail": (b"GET /health HTTP/1.1\r\nHost: 127.0.0.1.evil.example\r\n\r\n", {421}),
        "host as a user": (b"GET /health HTTP/1.1\r\nHost: 127.0.0.1@evil.example\r\n\r\n", {421}),
        "host with bytes": (b"GET /health HTTP/1.1\r\nHost: \xff\xfe\r\n\r\n", {400, 421}),
        "other origin": (b"GET /v1/models HTTP/1.1\r\n" + HOST + b"Origin: https://evil.example\r\n\r\n", {403}),
        "null origin": (b"GET /v1/models HTTP/1.1\r\n" + HOST + b"Origin: null\r\n\r\n", {403}),
        "preflight": (b"OPTIONS /tokenize HTTP/1.1\r\n" + HOST + b"Origin: https://evil.example\r\n\r\n", {403}),
        "long header": (b"GET /health HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 300_000 + b"\r\n\r\n", {400, 431}),
        "header of one read": (b"GET /health HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 40_000 + b"\r\n\r\n", {400, 431}),
        "many headers": (b"GET /health HTTP/1.1\r\n" + HOST + b"X: a\r\n" * 2000 + b"\r\n", {400, 431}),
        "long path": (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", {400, 404, 431}),
        "header without a colon": (b"GET /health HTTP/1.1\r\n" + HOST + b"nonsense\r\n\r\n", {400}),
        "folded header": (b"GET /health HTTP/1.1\r\n" + HOST + b"X: a\r\n b\r\n\r\n", {200, 400}),
        "path up": (b"GET /../../etc/passwd HTTP/1.1\r\n" + HOST + b"\r\n", {404}),
        "coded path up": (b"GET /v1/%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\n" + HOST + b"\r\n", {404}),
        "absolute of us": (b"GET http://127.0.0.1:8/v1/models HTTP/1.1\r\n" + HOST + b"\r\n", {200}),
        "absolute, host of another": (b"GET HTTP://localhost/health HTTP/1.1\r\nHost: evil.example\r\n\r\n", {200}),
        "absolute with a user": (b"GET http://localhost@evil.example/health HTTP/1.1\r\n" + HOST + b"\r\n", {421}),
        "null in path": (b"GET /v1/models%00 HTTP/1.1\r\n" + HOST + b"\r\n", {404}),
        "bad code in path": (b"GET /%zz%ff HTTP/1.1\r\n" + HOST + b"\r\n", {404}),
        "two slashes": (b"GET //v1/models HTTP/1.1\r\n" + HOST + b"\r\n", {404}),
        "last slash": (b"GET /v1/models/ HTTP/1.1\r\n" + HOST + b"\r\n", {404}),
        "absolute": (b"GET http://evil.example/v1/models HTTP/1.1\r\n" + HOST + b"\r\n", {404, 421}),
        "bytes in path": (b"GET /\xff\xfe HTTP/1.1\r\n" + HOST + b"\r\n", {400}),
        "CONNECT": (b"CONNECT evil.example:80 HTTP/1.1\r\n" + HOST + b"\r\n", {404, 405}),
        "TRACE": (b"TRACE /v1/models HTTP/1.1\r\n" + HOST + b"\r\n", {405}),
        "own method": (b"BREW /v1/models HTTP/1.1\r\n" + HOST + b"\r\n", {405}),
        "GET to POST": (b"GET /v1/completions HTTP/1.1\r\n" + HOST + b"\r\n", {405}),
        "length no number": (post + b"Content-Length: ten\r\n\r\n", {400}),
        "length negative": (post + b"Content-Length: -5\r\n\r\n", {400}),
        "length too large": (post + b"Content-Length: 99999999999\r\n\r\n", {413}),
        "length of many digits": (post + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n", {400, 413}),
        "two lengths": (post + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n{}", {400}),
        "length and chunks": (post + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", {400}),
        "no length": (post + b"\r\n", {400}),
        "unknown coding": (post + b"Transfer-Encoding: gzip\r\n\r\n", {400, 501}),
        "bad chunk": (post + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n", {400}),
        "chunk of many digits": (post + b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 30 + b"\r\nhello\r\n", {400}),
        "upgrade": (b"GET /v1/models HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
                    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n", {200, 400})}


def large():
    """Bodies that are small to send and large to keep: name, path, bytes, status."""
    many = 1_200_000
    yield "lists", TEXT, b'{"prompt": [' + b"[]," * many + b"[]]}", 413
    yield "objects", TEXT, b'{"prompt": [' + b"{}," * many + b"[]]}", 413
    yield "ids", TEXT, b'{"prompt": [' + b"1," * many + b"1]}", 413
    yield "nested", TEXT, b'{"prompt": ' + b"[" * many, 413
    yield "fields", TEXT, b"{" + b",".join(b'"%d":1' % number for number in range(many)) + b"}", 413
    yield "some fields", TEXT, b"{" + b",".join(b'"%d":1' % number for number in range(1000)) + b"}", 400
    yield "ids of one text", TEXT, b'{"prompt": [' + b"1," * 500_000 + b"1]}", 400
    yield "scores", TEXT, b'{"echo": true, "max_tokens": 0, "logprobs": 20, "prompt": [' + b",".join(
        [b"[" + b",".join([b"5"] * 500) + b"]"] * 128) + b"]}", 400
    yield "texts", TEXT, b'{"n": 16, "max_tokens": 500, "prompt": [' + b",".join([b'"x"'] * 128) + b"]}", 400
