"""What Prometheus scrapes is exactly what happened, and holds nothing that a client wrote."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient

from serving.batching import Batcher
from serving.http import Edge
from serving.live import Live
from serving.settings import Settings
from tests.serving.edges import (
    BLUE,
    GREEN,
    RED,
    Figures,
    batch_of,
    client_of,
    error_of,
    figures_of,
    held_by,
    png,
)
from tests.serving.world import World

# a sample's labels come in the order of their names: (route, status), (label, name, version), (label, name)


def scraped(client: TestClient) -> Figures:
    response = client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    return figures_of(response.text)


def test_before_any_request_there_is_the_model_and_nothing_else(tiny: Live) -> None:
    assert tiny.current is not None
    found = scraped(client_of(tiny))
    identity = ("cpu", tiny.current.artifact.digest, "colours", "CPUExecutionProvider", "1")
    assert found == {
        "thaw_model": {identity: 1},
        "thaw_model_generation": {(): 1},
        "thaw_swaps_total": {("loaded",): 1, ("failed",): 0},
        "thaw_pictures_admitted": {(): 0},
        "thaw_buffered_bytes": {(): 0},
        "thaw_batch_size_bucket": dict.fromkeys([(f"{size}.0",) for size in (1, 2, 4, 8, 16, 32)] + [("+Inf",)], 0),
        "thaw_batch_size_count": {(): 0},
        "thaw_batch_size_sum": {(): 0},
    }


def test_a_models_labels_have_names(tiny: Live) -> None:
    assert tiny.current is not None
    (line,) = [line for line in client_of(tiny).get("/metrics").text.splitlines() if line.startswith("thaw_model{")]
    for told in ('name="colours"', 'version="1"', f'digest="{tiny.current.artifact.digest}"', 'device="cpu"',
                 'provider="CPUExecutionProvider"'):  # fmt: skip
        assert told in line


def test_known_requests_give_exactly_these_figures(tiny: Live) -> None:
    client = client_of(tiny)
    for body in (png(RED), png(RED), png(GREEN), b"no picture", png(RED)[:40], b""):
        client.post("/v1/predict", content=body)
    client.post("/v1/predict?top_k=0", content=png(RED))
    client.post("/v1/predict/batch", files=batch_of(png(RED), b"no picture", png(BLUE), b""))
    client.post("/v1/predict/batch", files=batch_of(png(RED), field="pictures"))
    for path in ("/v1/model", "/livez", "/livez", "/readyz", "/nowhere", "/v1/predict"):
        client.get(path)
    client.get("/metrics")
    found = scraped(client)
    assert found["thaw_requests_total"] == {
        ("/v1/predict", "200"): 3, ("/v1/predict", "415"): 1, ("/v1/predict", "422"): 1, ("/v1/predict", "400"): 2,
        ("/v1/predict/batch", "200"): 1, ("/v1/predict/batch", "400"): 1,
        ("/v1/model", "200"): 1, ("/livez", "200"): 2, ("/readyz", "200"): 1, ("/metrics", "200"): 1,
        ("other", "404"): 1, ("other", "405"): 1,
    }  # fmt: skip
    assert found["thaw_rejections_total"] == {
        ("unsupported_format",): 1 + 2, ("undecodable",): 1, ("invalid_request",): 2 + 1,
        ("not_found",): 1, ("method_not_allowed",): 1,
    }  # fmt: skip
    assert found["thaw_predictions_total"] == {
        ("red", "colours", "1"): 3, ("green", "colours", "1"): 1, ("blue", "colours", "1"): 1,
    }  # fmt: skip
    assert found["thaw_probability_count"] == {("red", "colours"): 3, ("green", "colours"): 1, ("blue", "colours"): 1}
    # read: a body that was complete and held a picture field; the other phases: a picture that was decoded
    assert found["thaw_phase_seconds_count"] == {("read",): 6, ("decode",): 5, ("queue",): 5, ("infer",): 5}
    assert all(0 < seconds < 10 for seconds in found["thaw_phase_seconds_sum"].values())
    assert found["thaw_batch_size_count"] == {(): 5}
    assert found["thaw_pictures_admitted"] == found["thaw_buffered_bytes"] == {(): 0}


def test_the_probability_is_that_of_the_decided_class(tiny: Live) -> None:
    client = client_of(tiny)
    answers = [client.post("/v1/predict", content=png(colour)).json() for colour in (RED, (120, 100, 90), RED)]
    assert {answer["label"] for answer in answers} == {"red"}
    found = scraped(client)
    total = sum(answer["probability"] for answer in answers)
    assert found["thaw_probability_sum"][("red", "colours")] == pytest.approx(total)


def test_pictures_that_ran_together_are_told_by_the_size_of_their_batch(tiny: Live) -> None:
    slow, go = held_by(tiny)
    assert slow.current is not None
    batcher = Batcher(slow.current.predictor.answer, in_flight=1)
    slow.current = replace(slow.current, batcher=batcher)
    edge = Edge(slow, Settings())
    client = TestClient(edge.app())
    senders = [threading.Thread(target=client.post, args=("/v1/predict",), kwargs={"content": png(RED)})]
    senders += [
        threading.Thread(target=client.post, args=("/v1/predict/batch",), kwargs={"files": batch_of(*[png(RED)] * 5)})
    ]
    for sender, waiting in zip(senders, (0, 5), strict=True):
        sender.start()
        deadline = time.monotonic() + 20
        while (len(batcher._waiting), batcher._running) != (waiting, 1):
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert scraped(client)["thaw_pictures_admitted"] == {(): 6}
    go.set()
    for sender in senders:
        sender.join(20)
    found = scraped(client)
    assert found["thaw_batch_size_bucket"][("1.0",)] == 1
    assert found["thaw_batch_size_bucket"][("4.0",)] == 1
    assert found["thaw_batch_size_bucket"][("8.0",)] == 6
    assert found["thaw_batch_size_sum"] == {(): 1 + 5 * 5}


def test_before_the_first_champion_there_is_no_model() -> None:
    client = client_of(Live(Path("unused")))
    assert client.post("/v1/predict", content=png(RED)).status_code == 503
    found = scraped(client)
    assert "thaw_model" not in found
    assert found["thaw_model_generation"] == {(): 0}
    assert found["thaw_swaps_total"] == {("loaded",): 0, ("failed",): 0}
    assert found["thaw_rejections_total"] == {("no_champion",): 1}
    assert found["thaw_requests_total"] == {("/v1/predict", "503"): 1}


def test_a_swap_and_a_failed_one_show(world: World) -> None:
    live = world.live()
    client = client_of(live)
    seen = []
    for version in (1, 2, 3):
        world.publish()
        if version == 3:
            world.damage(3)
        world.promote(version)
        live.refresh()
        assert client.post("/v1/predict", content=png(BLUE)).status_code == 200
        found = scraped(client)
        (identity,) = found["thaw_model"]
        seen.append((identity[-1], found["thaw_model_generation"][()], list(found["thaw_swaps_total"].values())))
    live.stop()
    assert seen == [("1", 1, [1, 0]), ("2", 2, [2, 0]), ("2", 2, [2, 1])]
    predictions = scraped(client)["thaw_predictions_total"]
    assert {key[1:]: count for key, count in predictions.items()} == {("colours", "1"): 1, ("colours", "2"): 2}


def test_figures_need_the_token_where_one_is_set(tiny: Live) -> None:
    client = client_of(tiny, api_token=SecretStr("a-long-secret"))
    for headers in ({}, {"Authorization": "Bearer a-wrong-token"}):
        response = client.get("/metrics", headers=headers)
        assert error_of(response) == (401, "unauthorized")
        assert "thaw_" not in response.text
    found = figures_of(client.get("/metrics", headers={"Authorization": "Bearer a-long-secret"}).text)
    assert found["thaw_requests_total"] == {("/metrics", "401"): 2}
    assert found["thaw_rejections_total"] == {("unauthorized",): 2}


def test_figures_hold_nothing_that_a_client_wrote(tiny: Live) -> None:
    client = client_of(tiny, api_token=SecretStr("a-long-secret"))
    headers = {"Authorization": "Bearer a-long-secret", "X-Request-Id": "marked", "User-Agent": "marked"}
    for token in ("a-long-secret", "marked"):
        asked = headers | {"Authorization": f"Bearer {token}"}
        client.post("/v1/predict?marked=marked", files={"image": ("marked.png", png(RED))}, headers=asked)
        client.post("/v1/predict", files={"marked": ("marked.png", b"marked")}, headers=asked)
        client.post("/v1/predict?top_k=marked", content=b"marked", headers=asked)
        client.post("/v1/predict/batch", files=[("images", ("marked.png", b"marked"))], headers=asked)
        client.request("MARKED", "/v1/model", headers=asked)
        client.get("/marked/marked?marked", headers=asked)
    text = client.get("/metrics", headers=headers).text
    assert "marked" not in text.lower()
    assert "secret" not in text
    assert len(figures_of(text)["thaw_requests_total"]) > 5, "the control: they were counted"
