import http.client
import json
import signal
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import openai
import pytest

from edgemodel.serve.__main__ import front_of
from edgemodel.serve.embedding_front import EmbeddingFront
from edgemodel.serve.text_front import TextFront
from tests.unit.serve.front import Embedder, Running, serving


@pytest.fixture
def running() -> Iterator[Running[Embedder]]:
    with serving(Embedder()) as running:
        yield running


def expected(text: str) -> list[float]:
    """As the stand-in has it: nothing that a float of 32 bits rounds."""
    data = text.encode()
    return [len(data), data[0] / 256, data[-1] / 256]


# What clients get


def test_the_official_client_which_asks_for_base64(running: Running[Embedder]) -> None:
    texts = ["Grüße", "a", "some words more"]
    answer = running.client().embeddings.create(model="tiny", input=texts)
    assert [(one.index, one.embedding) for one in answer.data] == list(enumerate(map(expected, texts)))
    assert answer.model == "tiny"
    size = sum(len(text.encode()) for text in texts)
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (size, size)


def test_numbers_as_json(running: Running[Embedder]) -> None:
    status, answer = running.post("/v3/embeddings", {"model": "tiny", "input": "one"})
    assert status == 200
    assert answer["data"] == [{"object": "embedding", "index": 0, "embedding": expected("one")}]


@pytest.mark.parametrize("given", [[72, 105], [[72, 105], [0]]])
def test_token_ids(running: Running[Embedder], given: Any) -> None:
    answer = running.client().embeddings.create(model="tiny", input=given)
    assert answer.data[0].embedding == expected("Hi")
    assert answer.usage.prompt_tokens in (2, 3)


def test_the_models_and_health(running: Running[Embedder]) -> None:
    assert [model.id for model in running.client().models.list()] == ["tiny"]
    for path in ("/health", "/v2/health/ready"):
        assert urllib.request.urlopen(f"{running.url}{path}").status == 200


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "JSON"),
        ({"model": "tiny"}, "input: Field required"),
        ({"input": ""}, "at least 1 character"),
        ({"input": []}, "at least 1 item"),
        ({"input": ["a", ""]}, "at least 1 character"),
        ({"input": ["a"] * 2049}, "at most 2048 items"),
        ({"input": [-1]}, "greater than or equal to 0"),
        ({"input": [[1, 256]]}, "the model has no token 256: its last is 255"),
        ({"input": ["a", "b" * 513]}, "the context is 512 tokens, and text 1 of the input has 513: embed it in parts"),
        ({"input": "a", "dimensions": 64}, "dimensions is not supported: leave it out"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
    ],
)
def test_a_wrong_request_is_told_what_is_wrong(running: Running[Embedder], body: Any, words: str) -> None:
    status, answer = running.post("/v1/embeddings", body)
    assert status == 400
    assert words in answer["error"]["message"]
    assert running.engine.batches == []


def test_a_model_that_embeds_does_not_chat(running: Running[Embedder]) -> None:
    with pytest.raises(openai.NotFoundError):
        running.client().completions.create(model="tiny", prompt="x")


# Load


def test_texts_go_in_batches_with_those_of_about_their_length(running: Running[Embedder]) -> None:
    texts = ["x" * length for length in (9, 1, 8, 2, 7, 3)]
    answer = running.client().embeddings.create(model="tiny", input=texts)
    assert [one.embedding[0] for one in answer.data] == [9, 1, 8, 2, 7, 3]
    assert running.engine.batches == [[1, 2, 3, 7], [8, 9]]


def test_nobody_waits_for_all_of_a_long_request() -> None:
    gate = threading.Event()
    with serving(Embedder(gate=gate), parallel=2) as running, ThreadPoolExecutor(2) as pool:
        ask = running.client().embeddings.create
        long = pool.submit(ask, model="tiny", input=["x"] * 200)
        running.wait(lambda: len(running.engine.batches) == 1)
        short = pool.submit(ask, model="tiny", input="yy")
        running.wait(lambda: running.batcher.waiting == 1)
        gate.set()
        assert len(long.result().data) == 200
        assert short.result().data[0].embedding == expected("yy")
        assert running.engine.batches[:3] == [[1, 1], [1, 2], [1, 1]]


def test_many_clients_share_the_engine() -> None:
    with serving(Embedder(gate=threading.Event())) as running, ThreadPoolExecutor(32) as pool:

        def ask(number: int) -> bool:
            texts = [f"{number}", f"{number} and more"]
            answer = running.client().embeddings.create(model="tiny", input=texts)
            return [one.embedding for one in answer.data] == [expected(text) for text in texts]

        right = pool.map(ask, range(64))
        running.release(32)
        assert all(right)
        assert max(map(len, running.engine.batches)) == 4
        assert (running.batcher.running, running.batcher.waiting) == (0, 0)


def test_a_full_queue_answers_429() -> None:
    gate = threading.Event()
    with serving(Embedder(gate=gate), parallel=1, waiting=1) as running, ThreadPoolExecutor(2) as pool:

        def ask() -> list[float]:
            return running.client().embeddings.create(model="tiny", input="x").data[0].embedding

        first = pool.submit(ask)
        running.wait(lambda: running.batcher.running == 1)
        second = pool.submit(ask)
        running.wait(lambda: running.batcher.waiting == 1)
        with pytest.raises(openai.RateLimitError, match="wait already"):
            ask()
        gate.set()
        assert first.result() == second.result() == expected("x")
        assert running.metric("edgemodel_serve_requests_total", endpoint="embeddings", code="429") == 1


def test_a_client_that_leaves_is_no_longer_worked_for() -> None:
    with (
        serving(Embedder(pace=0.01), parallel=1) as running,
        running.begin("/v1/embeddings", {"input": ["x"] * 1000}) as client,
    ):
        running.wait(lambda: len(running.engine.batches) > 5)
        client.close()
        running.wait(lambda: running.batcher.running == 0)
        assert len(running.engine.batches) < 800
        running.wait(lambda: running.metric("edgemodel_serve_requests_total", endpoint="embeddings", code="499") == 1)


def test_a_client_that_leaves_while_it_waits_is_forgotten() -> None:
    gate = threading.Event()
    with serving(Embedder(gate=gate), parallel=1) as running, ThreadPoolExecutor(1) as pool:
        first = pool.submit(running.client().embeddings.create, model="tiny", input="x")
        running.wait(lambda: running.batcher.running == 1)
        with running.begin("/v1/embeddings", {"input": "y"}) as client:
            running.wait(lambda: running.batcher.waiting == 1)
            client.close()
            running.wait(lambda: running.batcher.waiting == 0)
        gate.set()
        assert first.result().data[0].embedding == expected("x")
        assert running.engine.batches == [[1]]


def test_what_was_begun_is_answered_before_the_end() -> None:
    with serving(Embedder(pace=0.02), parallel=1) as running, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(running.client().embeddings.create, model="tiny", input=["x"] * 40)
        running.wait(lambda: running.batcher.running == 1)
        running.server.should_exit = True
        assert len(answer.result().data) == 40
        running.wait(lambda: running.engine.closed)


def test_on_sigterm_a_client_is_asked_to_leave(running: Running[Embedder]) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", running.port)) as kept:
        kept.request("GET", "/health")
        kept.getresponse().read()
        # While somebody is connected, the server stays for whoever comes.
        running.server.handle_exit(signal.SIGTERM, None)
        connection = http.client.HTTPConnection("127.0.0.1", running.port)
        connection.request("POST", "/v1/embeddings", json.dumps({"input": "x"}))
        answer = connection.getresponse()
        assert (answer.status, answer.getheader("Connection")) == (200, "close")
        answer.read()
    running.wait(lambda: running.engine.closed)


def test_an_engine_that_fails_ends_its_requests_and_the_server() -> None:
    engine = Embedder(gate=threading.Event(), fails_at=2)
    with serving(engine, parallel=1) as running, ThreadPoolExecutor(3) as pool:
        answers = pool.map(lambda _: running.post("/v1/embeddings", {"input": "x"})[0], range(3))
        running.release(3)
        assert sorted(answers) == [200, 503, 503]
        assert str(running.front.failure) == "out of order"
        running.wait(lambda: running.server.should_exit)
        running.wait(lambda: running.engine.closed)


def test_metrics(running: Running[Embedder]) -> None:
    running.client().embeddings.create(model="tiny", input=["four", "three"])
    running.post("/v1/embeddings", {})
    text = urllib.request.urlopen(f"{running.url}/metrics").read().decode()
    for line in (
        'edgemodel_serve_requests_total{code="200",endpoint="embeddings"} 1.0',
        'edgemodel_serve_requests_total{code="400",endpoint="embeddings"} 1.0',
        'edgemodel_serve_request_seconds_count{endpoint="embeddings"} 2.0',
        "edgemodel_serve_prompt_tokens_total 9.0",
        "edgemodel_serve_waiting 0.0",
        "edgemodel_serve_running 0.0",
    ):
        assert line in text
    assert "first_token" not in text


# Which front there is

POD = {"MODEL_DIR": "/models", "CONTEXT_LENGTH": "512"}


def test_the_task_chooses_the_front(monkeypatch: pytest.MonkeyPatch) -> None:
    for table in ("_TEXT_ENGINES", "_EMBEDDING_ENGINES"):
        monkeypatch.setattr(f"edgemodel.serve.engine.{table}", {"stand-in": "tests.unit.serve.front:Embedder"})

    def front(**environ: str) -> Any:
        return front_of("stand-in", POD | environ, lambda: None)

    assert isinstance(front(TASK="Embeddings"), EmbeddingFront)
    assert isinstance(front(TASK="TextGeneration"), TextFront)
    assert isinstance(front(), TextFront)
    with pytest.raises(ValueError, match="TASK Reranking"):
        front(TASK="Reranking")


def test_an_engine_that_does_not_embed_is_no_embedder() -> None:
    with pytest.raises(KeyError, match="mlx"):
        front_of("mlx", POD | {"TASK": "Embeddings"}, lambda: None)
