"""Requests at a server of this machine that drops, refuses, stalls and babbles: each is answered once, or counted."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from chat_server import ChatServer, Handler, chat_server, completion

from open_r1.errors import UserError
from open_r1.generation import openai_client, openai_stream
from open_r1.generation.openai_client import Reply, Server, read_reply
from open_r1.generation.openai_stream import RequestsFailed, listed_models, replies


@pytest.fixture(autouse=True)
def no_long_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_client, "FIRST_PAUSE", 0.002)
    monkeypatch.setattr(openai_client, "LONGEST_PAUSE", 0.01)


def echo(handler: Handler, body: dict[str, Any], before: int) -> None:
    handler.say(completion(f"seed {body['seed']}"))


def bodies(count: int) -> Iterator[dict[str, Any]]:
    for seed in range(count):
        yield {"model": "m", "messages": [{"role": "user", "content": "hello"}], "seed": seed}


def ask(state: ChatServer, count: int, **settings: Any) -> dict[int, Reply]:
    found: dict[int, Reply] = {}
    for place, reply in replies(Server(state.base_url, **settings), bodies(count), total=count):
        assert place not in found
        found[place] = reply
    return found


def test_every_request_is_answered_once_with_no_more_in_flight_than_allowed() -> None:
    seven = threading.Barrier(7)

    def together(handler: Handler, body: dict[str, Any], before: int) -> None:
        if body["seed"] < 7:
            seven.wait(timeout=30)
        time.sleep(0.01)
        echo(handler, body, before)

    with chat_server(together) as state:
        found = ask(state, 60, concurrency=7)
        assert {place: reply.text for place, reply in found.items()} == {n: f"seed {n}" for n in range(60)}
        assert state.most_in_flight == 7 and len(state.bodies) == 60


def test_more_requests_in_flight_than_one_client_has_connections() -> None:
    count = 3 * openai_stream.POOL + 8
    barrier = threading.Barrier(count)

    def together(handler: Handler, body: dict[str, Any], before: int) -> None:
        barrier.wait(timeout=30)
        echo(handler, body, before)

    with chat_server(together) as state:
        assert len(ask(state, count, concurrency=1000)) == count
        assert state.most_in_flight == count


def test_a_server_that_drops_half_of_its_connections() -> None:
    def half(handler: Handler, body: dict[str, Any], before: int) -> None:
        handler.drop() if (body["seed"] + before) % 2 else echo(handler, body, before)

    with chat_server(half) as state:
        found = ask(state, 80, retries=1)
        assert {place: reply.text for place, reply in found.items()} == {n: f"seed {n}" for n in range(80)}
        assert len(state.bodies) == 120


@pytest.mark.parametrize("code", [408, 429, 500, 503])
def test_what_passes_is_sent_again(code: int) -> None:
    def twice(handler: Handler, body: dict[str, Any], before: int) -> None:
        handler.say({"error": {"message": "busy"}}, code) if before < 2 else echo(handler, body, before)

    with chat_server(twice) as state:
        assert len(ask(state, 5, retries=2)) == 5
        with pytest.raises(RequestsFailed, match=rf"^2 of 2 requests failed after 1 retry \(last: HTTP {code}: "):
            state.seen.clear()
            ask(state, 2, retries=1)


@pytest.mark.parametrize(
    "babble",
    [b"no json {", b"[]", b'{"choices": []}', b'{"choices": null}', b'{"choices": [{"message": null}]}', b'"x"'],
)
def test_what_is_no_answer_is_sent_again(babble: bytes) -> None:
    def once(handler: Handler, body: dict[str, Any], before: int) -> None:
        handler.say(babble) if before == 0 else echo(handler, body, before)

    with chat_server(once) as state:
        assert len(ask(state, 4, retries=1)) == 4
        state.seen.clear()
        with pytest.raises(RequestsFailed, match="not an answer of the protocol"):
            ask(state, 4, retries=0)


def test_the_servers_own_wish_is_kept_to() -> None:
    times: list[float] = []

    def later(handler: Handler, body: dict[str, Any], before: int) -> None:
        times.append(time.monotonic())
        handler.say({}, 429, {"Retry-After": "0.3"}) if before == 0 else echo(handler, body, before)

    with chat_server(later) as state:
        ask(state, 1)
    assert times[1] - times[0] >= 0.3  # its pause is what was asked for, not ours of some milliseconds


def test_an_answer_that_takes_too_long_is_given_up_and_counted() -> None:
    leave = threading.Event()

    def stall(handler: Handler, body: dict[str, Any], before: int) -> None:
        if body["seed"] == 2:
            leave.wait(20)
        echo(handler, body, before)

    with chat_server(stall) as state:
        found = []
        with pytest.raises(RequestsFailed) as raised:
            for place, _ in replies(Server(state.base_url, timeout=0.4, retries=1), bodies(6), total=6):
                found.append(place)
        leave.set()
    assert sorted(found) == [0, 1, 3, 4, 5]
    line = "1 of 6 requests failed after 1 retry (last: no answer within 0.4 s); what was drawn is kept"
    assert str(raised.value).startswith(line) and raised.value.failed == 1


def test_an_answer_that_trickles_for_ever_is_given_up() -> None:
    def trickle(handler: Handler, body: dict[str, Any], before: int) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100000")
        handler.end_headers()
        for _ in range(200):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.02)

    with chat_server(trickle) as state, pytest.raises(RequestsFailed, match=r"no answer within 0\.3 s"):
        ask(state, 1, timeout=0.3, retries=0)


def test_one_request_that_the_server_refuses_does_not_stop_the_others() -> None:
    def too_long(handler: Handler, body: dict[str, Any], before: int) -> None:
        if body["seed"] == 1:
            return handler.say({"error": {"message": "the prompt is\ntoo long"}}, 400)
        echo(handler, body, before)

    with chat_server(too_long) as state:
        found = []
        with pytest.raises(RequestsFailed, match=r"refuses 1 of 4 requests .*HTTP 400: .*too long") as raised:
            for place, _ in replies(Server(state.base_url), bodies(4), total=4):
                found.append(place)
        assert sorted(found) == [0, 2, 3] and "\n" not in str(raised.value)
        assert list(raised.value.refused) == [1]
        assert len(state.bodies) == 4  # sending it again could not help


def test_prompts_side_by_side_that_are_too_long_do_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_long(handler: Handler, body: dict[str, Any], before: int) -> None:
        refused = body["seed"] < 2 * openai_stream.GIVE_UP
        handler.say({"error": "too long"}, 400) if refused else echo(handler, body, before)

    with chat_server(too_long) as state:
        with pytest.raises(RequestsFailed) as raised:
            ask(state, 3 * openai_stream.GIVE_UP, concurrency=4)
        assert len(raised.value.refused) == raised.value.failed == 2 * openai_stream.GIVE_UP
        both = str(RequestsFailed.together([raised.value, raised.value]))
        assert both.startswith("the server refuses 128 of 192 requests (last: HTTP 400")
        monkeypatch.setattr(openai_stream, "GIVE_UP_REFUSED", 40)
        with pytest.raises(UserError, match=r"40 requests in a row were refused .* no more are sent") as raised:
            ask(state, 3 * openai_stream.GIVE_UP, concurrency=4)
        assert not isinstance(raised.value, RequestsFailed)


def test_a_prompt_that_moderation_stops_is_not_taken_for_a_refused_key() -> None:
    def moderated(handler: Handler, body: dict[str, Any], before: int) -> None:
        handler.say({"error": {"message": "flagged"}}, 403) if body["seed"] == 0 else echo(handler, body, before)

    with chat_server(moderated) as state, pytest.raises(RequestsFailed, match=r"refuses 1 of 9 .*flagged"):
        ask(state, 9)


@pytest.mark.parametrize(("key", "sent"), [("k\n", "Bearer k"), (" ", "Bearer none")])
def test_a_line_break_after_the_key_is_not_sent(key: str, sent: str) -> None:
    with chat_server(echo) as state:
        ask(state, 1, api_key=key)
        assert {name.lower(): value for name, value in state.headers[0].items()}["authorization"] == sent


@pytest.mark.parametrize("key", ["sk-“secret”", "sk-secret\nA=1"])
def test_a_key_that_cannot_be_sent_is_said_and_not_shown(key: str) -> None:
    with chat_server(echo) as state, pytest.raises(UserError, match=r"the key for http.* copy it anew") as raised:
        ask(state, 1, api_key=key)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("babble", "kind", "said"),
    [
        (b"<html>Sign in</html>", "text/html", "text/html instead of JSON, .*Sign in"),
        (b'{"error": {"message": "overloaded"}}', "application/json", "the server says overloaded"),
    ],
)
def test_an_answer_that_is_none_is_said(babble: bytes, kind: str, said: str) -> None:
    def act(handler: Handler, body: dict[str, Any], before: int) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(babble)))
        handler.end_headers()
        handler.wfile.write(babble)

    with chat_server(act) as state, pytest.raises(RequestsFailed, match=said):
        ask(state, 1, retries=0)


@pytest.mark.parametrize(("code", "key", "message"), [(401, None, "requests without a key"), (403, "k", "the key")])
def test_a_refused_key_stops_at_once(code: int, key: str | None, message: str) -> None:
    def refuse(handler: Handler, body: dict[str, Any], before: int) -> None:
        handler.say({"error": {"message": "who are you"}}, code)

    with chat_server(refuse) as state:
        with pytest.raises(UserError, match=f"refuses {message} .*--api_key_env"):
            ask(state, 500, concurrency=2, api_key=key)
        assert len(state.bodies) < (10 if code == 401 else 40)


def test_an_unknown_model_stops_at_once_and_names_those_there_are() -> None:
    def unknown(handler: Handler, body: dict[str, Any], before: int) -> None:
        handler.say({"error": {"message": "no such model"}}, 404)

    with chat_server(unknown) as state:
        state.models = [{"id": "Qwen/Qwen3-8B"}, {"id": "my-lora"}]
        with pytest.raises(UserError, match=r"does not know the model m .*: it serves Qwen/Qwen3-8B, my-lora"):
            ask(state, 500, concurrency=2)
        assert len(state.bodies) < 10
        state.models = [{"id": "m"}]
        with pytest.raises(UserError, match=r"lists m and answers no chats .*: is the address right"):
            ask(state, 1)


def test_a_server_that_dies_is_not_asked_for_everything_that_is_left() -> None:
    def dying(handler: Handler, body: dict[str, Any], before: int) -> None:
        echo(handler, body, before) if body["seed"] < 20 else handler.drop()

    with chat_server(dying) as state:
        drawn = []
        with pytest.raises(
            UserError, match=r"32 requests in a row failed after 1 retries .* no more are sent"
        ) as raised:
            for place, _ in replies(Server(state.base_url, concurrency=4, retries=1), bodies(5000), total=5000):
                drawn.append(place)
        assert not isinstance(raised.value, RequestsFailed)
        assert sorted(drawn) == list(range(20)) and len(state.bodies) < 200


def test_leaving_early_cancels_what_is_in_flight() -> None:
    leave = threading.Event()

    def stall(handler: Handler, body: dict[str, Any], before: int) -> None:
        if body["seed"]:
            leave.wait(20)
        echo(handler, body, before)

    with chat_server(stall) as state:
        stream = replies(Server(state.base_url, concurrency=5), bodies(100), total=100)
        assert next(stream)[0] == 0
        stream.close()
        assert not [thread for thread in threading.enumerate() if thread.name == "openai-requests"]
        assert len(state.bodies) <= 6
        leave.set()


def test_a_slow_consumer_holds_the_requests_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_stream, "UNREAD", 10)
    with chat_server(echo) as state:
        stream = replies(Server(state.base_url, concurrency=3), bodies(60), total=60)
        next(stream)
        time.sleep(0.5)
        assert len(state.bodies) <= 10 + 3 + 1
        assert len(list(stream)) == 59


def test_what_is_sent_says_nothing_about_this_machine() -> None:
    with chat_server(echo) as state:
        ask(state, 1, api_key="secret")
        (headers,) = state.headers
        told = {name.lower(): value for name, value in headers.items()}
        assert told["authorization"] == "Bearer secret"
        assert not told.keys() & {"x-stainless-os", "x-stainless-arch", "x-stainless-runtime-version"}


def test_the_models_that_a_server_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_client, "PROBE_SECONDS", 0.3)
    with chat_server(echo) as state:
        server = Server(state.base_url)
        state.models = [{"id": "a", "max_model_len": 4096}, {"id": "b", "context_length": "7"}, {"id": "c"}]
        state.models += [{"id": "d", "context_length": "long"}, {"id": None}, "e"]
        assert listed_models(server) == {"a": 4096, "b": 7, "c": None, "d": None}
        state.models = None
        assert listed_models(server) == {}
    with pytest.raises(UserError, match=r"no server answers there \(connection failed: .*\); is it running"):
        listed_models(server)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (completion("4"), Reply("4", 3, "stop")),
        (completion(""), Reply("", 3, "stop")),
        (completion(None, tokens=None), Reply("", None, "stop")),
        (completion("4", reason="length"), Reply("4", 3, "length")),
        (completion("", reason="content_filter"), Reply("", 3, "length")),
        (completion("4", tokens="12"), Reply("4", 12, "stop")),
        (completion("4", tokens="many"), Reply("4", None, "stop")),
        (completion("Two\n</think>\n\n4"), Reply("<think>\nTwo\n</think>\n\n4", 3, "stop")),
        (completion("<think>Two</think>4"), Reply("<think>Two</think>4", 3, "stop")),
        (completion("4", reasoning_content="\nTwo twos.\n"), Reply("<think>\nTwo twos.\n</think>\n\n4", 3, "stop")),
        (completion("\n\n4", reasoning="Two twos."), Reply("<think>\nTwo twos.\n</think>\n\n4", 3, "stop")),
        (completion(None, reasoning_content="Two", reason="length"), Reply("<think>\nTwo", 3, "length")),
        (completion(None, reasoning_content="Two"), Reply("<think>\nTwo\n</think>\n\n", 3, "stop")),
    ],
)
def test_a_reply_is_read(answer: dict[str, Any], expected: Reply) -> None:
    assert read_reply(answer) == expected
