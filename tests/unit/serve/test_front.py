import http.client
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionUserMessageParam

from tests.unit.serve.front import Running, StandIn, serving

HELLO: list[ChatCompletionUserMessageParam] = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def running() -> Iterator[Running[StandIn]]:
    with serving(StandIn()) as running:
        yield running


# What clients get


def test_chat(running: Running[StandIn]) -> None:
    answer = running.client().chat.completions.create(model="tiny", messages=HELLO)
    assert answer.choices[0].message.content == running.engine.text
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage
    size = len(running.engine.text.encode())
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len("<user>Hello"), size)


def test_a_streamed_chat_has_whole_characters_only(running: Running[StandIn]) -> None:
    stream = running.client().chat.completions.create(
        model="tiny", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(texts) == running.engine.text
    assert len(texts) > 30
    assert not any("\ufffd" in text for text in texts)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage
    assert chunks[-1].usage.completion_tokens == len(running.engine.text.encode())


def test_completions_streamed_and_not(running: Running[StandIn]) -> None:
    client = running.client()
    whole = client.completions.create(model="tiny", prompt="Hello", max_tokens=5)
    assert (whole.choices[0].text, whole.choices[0].finish_reason) == ("Grü\ufffd"[:3] + "\ufffd", "length")
    stream = client.completions.create(model="tiny", prompt="Hello", max_tokens=100, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == running.engine.text
    of_tokens = client.completions.create(model="tiny", prompt=[72, 105])
    assert of_tokens.usage
    assert of_tokens.usage.prompt_tokens == 2


@pytest.mark.parametrize("prompt", [[72, 256], [10**12], [-1], [72, -5], []])
def test_tokens_that_the_model_does_not_have_are_refused(running: Running[StandIn], prompt: list[int]) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        running.client().completions.create(model="tiny", prompt=prompt)
    assert "prompt" in str(caught.value) or "the model has no token" in str(caught.value)
    assert running.engine.asked == []


@pytest.mark.parametrize("stream", [False, True])
def test_nothing_of_a_stop_sequence_is_sent(running: Running[StandIn], stream: bool) -> None:
    asked: Any = {"model": "tiny", "prompt": "x", "max_tokens": 100, "stop": ["und nie", "und noch"]}
    if stream:
        chunks = list(running.client().completions.create(**asked, stream=True))
        text, finish = "".join(chunk.choices[0].text for chunk in chunks), chunks[-1].choices[0].finish_reason
    else:
        choice = running.client().completions.create(**asked).choices[0]
        text, finish = choice.text, choice.finish_reason
    assert (text, finish) == ("Grüße aus München 🥨, ", "stop")
    # The engine need not go on. The batcher forgets a request before it cancels it.
    running.wait(lambda: bool(running.engine.cancelled))
    assert running.batcher.running == 0


def test_logprobs(running: Running[StandIn]) -> None:
    running.engine.text = "abc"
    chat = running.client().chat.completions.create(model="tiny", messages=HELLO, logprobs=True)
    assert chat.choices[0].logprobs
    assert [(each.token, each.logprob) for each in chat.choices[0].logprobs.content or ()] == [
        ("a", -0.5),
        ("b", -0.5),
        ("c", -0.5),
    ]
    completion = running.client().completions.create(model="tiny", prompt="x", logprobs=1)
    assert completion.choices[0].logprobs
    assert completion.choices[0].logprobs.token_logprobs == [-0.5] * 3
    assert completion.choices[0].logprobs.text_offset == [0, 1, 2]


def test_what_is_asked_reaches_the_engine(running: Running[StandIn]) -> None:
    running.client().completions.create(model="tiny", prompt="x", max_tokens=3, temperature=0.3, top_p=0.5, seed=7)
    found = running.engine.asked[-1]
    assert (found.max_tokens, found.temperature, found.top_p, found.seed) == (3, 0.3, 0.5, 7)


def test_the_models(running: Running[StandIn]) -> None:
    assert [model.id for model in running.client().models.list()] == ["tiny"]
    assert running.client().models.retrieve("tiny").id == "tiny"
    with pytest.raises(openai.NotFoundError, match="only the model tiny"):
        running.client().models.retrieve("other")


def test_the_paths_of_openvino_model_server(running: Running[StandIn]) -> None:
    status, answer = running.post("/v3/chat/completions", {"model": "tiny", "messages": HELLO})
    assert (status, answer["choices"][0]["message"]["content"]) == (200, running.engine.text)
    assert urllib.request.urlopen(f"{running.url}/v2/health/ready").status == 200


# What is wrong with a request


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/v1/chat/completions", b"{", 400, "JSON"),
        ("/v1/chat/completions", {"messages": []}, 400, "messages"),
        ("/v1/chat/completions", {"messages": HELLO, "n": 2}, 400, "n is not supported"),
        ("/v1/chat/completions", {"messages": HELLO, "tools": [{"type": "function"}]}, 400, "tools is not supported"),
        ("/v1/chat/completions", {"messages": HELLO, "temperature": 9}, 400, "temperature"),
        ("/v1/chat/completions", {"messages": HELLO, "max_tokens": 600}, 400, "512 tokens"),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            400,
            "only parts of type text",
        ),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "robot", "content": "x"}]},
            400,
            "refuses these messages: no role",
        ),
        ("/v1/completions", {"prompt": "x" * 512}, 400, "the prompt has 512"),
        ("/v1/completions", {"prompt": ""}, 400, "empty"),
        ("/v1/completions", {"prompt": ["a", "b"]}, 400, "prompt"),
        ("/v1/completions", {"prompt": "x", "best_of": 3}, 400, "best_of is not supported"),
        ("/v1/completions", b" " * ((16 << 20) + 1), 413, "bytes"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(
    running: Running[StandIn], path: str, body: Any, status: int, words: str
) -> None:
    found, answer = running.post(path, body)
    assert found == status
    assert words in answer["error"]["message"]
    assert running.engine.steps == 0


def test_what_asks_for_nothing_is_no_error(running: Running[StandIn]) -> None:
    neutral = {"n": 1, "tools": [], "presence_penalty": 0, "response_format": {"type": "text"}, "user": "me"}
    assert running.post("/v1/chat/completions", {"messages": HELLO, **neutral})[0] == 200


def test_a_model_without_a_chat_template_says_so() -> None:
    with serving(StandIn(chats=False)) as running:
        status, answer = running.post("/v1/chat/completions", {"messages": HELLO})
    assert status == 400
    assert "use /v1/completions" in answer["error"]["message"]


# Load


def test_many_clients_share_the_engine() -> None:
    with serving(StandIn(gate=threading.Event())) as running, ThreadPoolExecutor(32) as pool:

        def ask(number: int) -> str:
            answer = running.client().completions.create(model="tiny", prompt=f"{number}", max_tokens=100)
            return answer.choices[0].text

        texts = pool.map(ask, range(64))
        running.release(32)
        assert set(texts) == {running.engine.text}
        assert running.engine.most_at_once == 4
        assert (running.batcher.running, running.batcher.waiting) == (0, 0)


def test_a_full_queue_answers_429() -> None:
    gate = threading.Event()
    with serving(StandIn(gate=gate), parallel=1, waiting=1) as running, ThreadPoolExecutor(2) as pool:

        def ask() -> str:
            return running.client().completions.create(model="tiny", prompt="x", max_tokens=20).choices[0].text

        first = pool.submit(ask)
        running.wait(lambda: running.batcher.running == 1)
        second = pool.submit(ask)
        running.wait(lambda: running.batcher.waiting == 1)
        try:
            with pytest.raises(openai.RateLimitError, match="wait already"):
                ask()
        finally:
            gate.set()
        assert first.result() == second.result()
        assert running.metric("edgemodel_serve_requests_total", endpoint="completions", code="429") == 1


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_is_no_longer_worked_for(stream: bool) -> None:
    with (
        serving(StandIn(text="word " * 80, pace=0.01)) as running,
        running.begin("/v1/completions", {"prompt": "x", "max_tokens": 400, "stream": stream}) as client,
    ):
        running.wait(lambda: running.engine.steps > 5)
        client.close()
        running.wait(lambda: running.engine.cancelled == [1])
        assert running.batcher.running == 0
        assert running.engine.steps < 300
        running.wait(lambda: running.metric("edgemodel_serve_requests_total", endpoint="completions", code="499") == 1)


def test_what_was_begun_is_answered_before_the_end() -> None:
    with serving(StandIn(pace=0.02)) as running, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(running.client().completions.create, model="tiny", prompt="x", max_tokens=40)
        running.wait(lambda: running.batcher.running == 1)
        running.server.should_exit = True
        assert len(answer.result().choices[0].text) > 30
        running.wait(lambda: running.engine.closed)


def test_clients_that_keep_their_connections_are_asked_to_leave() -> None:
    """One request after the other, while the server is told to go: none fails, and the last answer says so."""
    with serving(StandIn(text="a")) as running:
        connection = http.client.HTTPConnection("127.0.0.1", running.port)
        idle = http.client.HTTPConnection("127.0.0.1", running.port)
        idle.request("GET", "/health")
        idle.getresponse().read()
        for number in range(50):
            if number == 20:
                running.server.handle_exit(signal.SIGTERM, None)
            connection.request("POST", "/v1/completions", '{"prompt": "x"}')
            answer = connection.getresponse()
            assert answer.status == 200
            answer.read()
            if answer.getheader("Connection") == "close":
                break
        assert number >= 20
        idle.request("GET", "/health")
        assert idle.getresponse().getheader("Connection") == "close"
        running.wait(lambda: running.engine.closed)


def test_a_connection_outlives_the_pauses_of_clients_and_proxies() -> None:
    """Who closes first at the end of a pause must be the client: what it sends to a closed connection is lost."""
    with (
        serving(StandIn(text="a")) as running,
        closing(http.client.HTTPConnection("127.0.0.1", running.port)) as connection,
    ):
        connection.connect()
        kept = connection.sock
        for pause in (5.5, 0):
            connection.request("GET", "/health")
            assert connection.getresponse().read()
            time.sleep(pause)
        assert connection.sock is kept


def test_an_engine_that_fails_ends_its_requests_and_the_server() -> None:
    with serving(StandIn(gate=threading.Event(), fails_at=5)) as running, ThreadPoolExecutor(3) as pool:
        answers = pool.map(lambda _: running.post("/v1/completions", {"prompt": "x", "max_tokens": 40}), range(3))
        running.release(3)
        assert {status for status, _ in answers} == {503}
        assert str(running.batcher.failure) == "out of order"
        running.wait(lambda: running.server.should_exit)
        running.wait(lambda: running.engine.closed)


def test_metrics(running: Running[StandIn]) -> None:
    before = threading.active_count()
    running.client().chat.completions.create(model="tiny", messages=HELLO)
    list(running.client().chat.completions.create(model="tiny", messages=HELLO, stream=True))
    running.post("/v1/chat/completions", {})
    text = urllib.request.urlopen(f"{running.url}/metrics").read().decode()
    size = len(running.engine.text.encode())
    for line in (
        'edgemodel_serve_requests_total{code="200",endpoint="chat"} 2.0',
        'edgemodel_serve_requests_total{code="400",endpoint="chat"} 1.0',
        f"edgemodel_serve_tokens_total {2.0 * size}",
        f"edgemodel_serve_prompt_tokens_total {2.0 * len('<user>Hello')}",
        "edgemodel_serve_time_to_first_token_seconds_count 2.0",
        "edgemodel_serve_tokens_per_second_count 2.0",
        "edgemodel_serve_waiting 0.0",
        "edgemodel_serve_running 0.0",
    ):
        assert line in text
    time.sleep(0.1)
    assert threading.active_count() <= before + 1, "no thread a request"
