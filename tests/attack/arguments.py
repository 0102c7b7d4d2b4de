"""Requests that no program should send: each answer is a sentence, and the app goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx

from tests.attack.application import Application, answer, arguments, example, file_data, visitor
from tests.attack.outcome import Outcome

HUGE = b"9" * 5000
LONG = "x" * 20_000


def bodies(clip: dict[str, Any], model: str) -> Iterator[tuple[str, Any]]:
    """Name -> arguments, or a raw body."""
    good = arguments(clip, model=model, frames=1, futures=1)
    for name, value in (
        ("a file of the system", file_data("/etc/passwd")), ("a folder", file_data("/etc")), ("a bare path", clip["path"]),
        ("a link", file_data("http://127.0.0.1:1/a.mp4")), ("a path that is a list", {**clip, "path": [1]}),
        ("no path", {"meta": {"_type": "gradio.FileData"}}), ("a number", 7), ("a list", [clip]), ("nothing", None),
        ("a path with NUL", file_data(clip["path"] + "\0")), ("a path of 20,000 letters", file_data(LONG)),
        ("a path that climbs", file_data(clip["path"] + "/../../../etc/passwd")), ("an empty object", {}),
    ):  # fmt: skip
        yield f"clip: {name}", [value, *good[1:]]
    odd: tuple[Any, ...] = (
        None, [], {}, "", "x", LONG, -1, 1e308, 10**30, True, [[]], {"a": {}}, "\u202e\x00\x1b[31m", 0.5, "1", [None],
    )  # fmt: skip
    for k, name in enumerate(NAMES):
        for value in odd:
            yield f"{name}: {value!r:.30}", [*good[: k + 1], value, *good[k + 2 :]]
    for count in (0, 1, 2, 14, 16, 40):
        yield f"{count} arguments", (good * 3)[:count]
    text = json.dumps({"data": good}).encode()
    yield "a number of 5,000 digits", text.replace(b'"data": [', b'"seed": ' + HUGE + b', "data": [')
    yield "an argument of 5,000 digits", text.replace(b", 1, 1.0, 1, 1,", b", " + HUGE + b", 1.0, 1, 1,")
    yield "NaN", text.replace(b"1.0", b"NaN")
    yield "no JSON", b"{"
    yield "another type", b"[]"
    yield "no data", b"{}"
    yield "data that is a text", b'{"data": "x"}'
    yield "nested lists", b'{"data": ' + b"[" * 50_000 + b"]" * 50_000 + b"}"
    yield "bytes", bytes(range(256))
    yield "an unknown field", json.dumps({"data": good, "fn_index": 10**6, "session_hash": LONG}).encode()


NAMES = (
    "model", "frames", "temperature", "seed", "futures", "prompt_frames", "top_k", "top_p", "stride", "fit", "fps",
    "labels", "between", "action",
)  # fmt: skip


def sentence_of(status: int, text: str) -> str:
    """The message of an answer, "" where there is none."""
    if "event: complete" in text or (status == 200 and text.startswith('{"data":')):
        return "It worked."
    body = text.partition("data:")[2] if status == 200 else text
    try:
        value = json.loads(body)
    except ValueError:
        return body.strip()
    if isinstance(value, dict):
        value = value.get("error") or value.get("detail")
    if isinstance(value, list):  # FastAPI's own
        value = " ".join(str(item.get("msg", "")) for item in value if isinstance(item, dict))
    return value if isinstance(value, str) else ""


def is_fine(status: int, text: str) -> bool:
    sentence = sentence_of(status, text)
    secret = any(word in text for word in ("Traceback", "/etc/passwd:", "site-packages", "stt-app-"))
    return (status < 500 or status in (503, 507)) and " " in sentence and not (secret and "complete" not in text)


def api_arguments(app: Application | str, model: str = "digits-stt", every: int = 1) -> Outcome:
    """every: takes each n-th case only."""
    url = app if isinstance(app, str) else app.url
    outcome, clip = Outcome(), example(url)
    with visitor() as client:
        for name, values in list(bodies(clip, model))[::every]:
            try:
                status, text = answer(client, url, values)
            except httpx.HTTPError as error:
                status, text = 599, type(error).__name__
            outcome.check(is_fine(status, text), f"{name}: {status} {sentence_of(status, text)[:90]!r}")
        for name, request in unusual_requests(client, url):
            try:
                response = client.send(request)
                status, text = response.status_code, response.text
            except httpx.HTTPError as error:
                status, text = 599, type(error).__name__
            outcome.check(is_fine(status, text), f"{name}: {status} {text[:90]!r}")
        outcome.check("complete" in answer(client, url, arguments(clip, model=model, frames=1))[1], "a good one fails")
    if isinstance(app, Application):
        outcome.check("Traceback" not in app.text(), f"{app.text().count('Traceback')} tracebacks in the log")
    return outcome


def unusual_requests(client: httpx.Client, url: str) -> Iterator[tuple[str, httpx.Request]]:
    def build(route: str, body: Any = None) -> httpx.Request:
        if body is None:
            return client.build_request("GET", f"{url}gradio_api/{route}")
        headers = {"content-type": "application/json"}
        return client.build_request("POST", f"{url}gradio_api/{route}", content=json.dumps(body), headers=headers)

    yield "an unknown endpoint", build("call/nothing", {"data": []})
    yield "an unknown endpoint by names", build("call/v2/nothing", {})
    yield "wrong names", build("call/v2/predict", {"clap": 1})
    yield "an unknown event", build(f"call/predict/{'0' * 32}")
    yield "a queue without session", build("queue/join", {"data": []})
    yield "a stream of nobody", build("queue/data?session_hash=nobody")
    for number in (10**6, -1, "x", None, [], 2.5, 10**400):
        yield f"function {str(number)[:9]}", build("queue/join", {"data": [], "fn_index": number, "session_hash": "s"})
    for function in client.get(f"{url}config").json()["dependencies"]:
        if function["queue"] is False and function["backend_fn"]:
            for data in ([], [{}] * len(function["inputs"]), ["x"] * len(function["inputs"])):
                body = {"data": data, "fn_index": function["id"], "session_hash": "s"}
                yield f"page function {function['id']} of {str(data)[:20]}", build(f"run/{function['id']}", body)
