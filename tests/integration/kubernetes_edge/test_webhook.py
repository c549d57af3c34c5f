"""The webhook hears of an incident with all its evidence, and a failure is told again by the next round."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from aggregator.cluster import EdgeError
from aggregator.policy.model import Notify
from aggregator.webhook import Webhook
from contract.vocabulary import Phase
from tests.integration.kubernetes_edge.intents import T0, incident


class Receiver:
    """A ticket system that answers as it is told to."""

    def __init__(self) -> None:
        self.status = 201
        self.text = ""
        self.headers: dict[str, str] = {}
        self.silent = False
        self.calls: list[tuple[dict[str, str], Any]] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        self.calls.append((dict(request.headers), await request.json()))
        if self.silent:
            await asyncio.Event().wait()
        return web.Response(status=self.status, text=self.text, headers=self.headers)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    one = Receiver()
    app = web.Application()
    app.router.add_post("/hook", one.handle)
    async with TestServer(app) as server:
        one.url = str(server.make_url("/hook"))
        yield one


def notify(**changes: Any) -> Notify:
    one = incident("gpu-17-abc", "gpu-17", phase=Phase.NEEDS_HUMAN, needs="swap GPU 3", **changes)
    return Notify(incident=one, reason="the ladder ends here")


async def test_it_hears_everything_with_a_key_that_makes_repeats_recognisable(
    receiver: Receiver,
) -> None:
    hook = Webhook(receiver.url)
    await hook(notify())
    await hook(notify())
    (headers, body), (again, _) = receiver.calls
    assert headers["Idempotency-Key"] == again["Idempotency-Key"] == "gpu-17-abc:needs-human"
    assert "Authorization" not in headers
    assert (body["incident"], body["node"], body["pool"]) == ("gpu-17-abc", "gpu-17", "h200")
    assert (body["phase"], body["needs"]) == ("needs-human", "swap GPU 3")
    assert body["reason"] == "the ladder ends here"
    (finding,) = body["status"]["findings"]
    assert "79, GPU has fallen off the bus" in finding["evidence"]
    assert body["status"]["timeline"][0]["text"] == "first seen"


async def test_a_second_need_in_the_same_incident_is_no_repeat(receiver: Receiver) -> None:
    """It was mended, failed its check, and a person is needed again: a receiver that drops repeats must not drop it."""
    hook = Webhook(receiver.url)
    for since in (T0, T0, T0 + 3_600):
        await hook(notify(phase_since_seconds=since))
    first, again, second = (headers["Idempotency-Key"] for headers, _ in receiver.calls)
    assert first == again != second


async def test_the_token_is_read_at_each_call(receiver: Receiver, tmp_path: Path) -> None:
    file = tmp_path / "token"
    hook = Webhook(receiver.url, token_file=file)
    for token in ("first", "second"):
        file.write_text(f"{token}\n")
        await hook(notify())
    sent = [headers["Authorization"] for headers, _ in receiver.calls]
    assert sent == ["Bearer first", "Bearer second"]


async def test_without_its_token_nothing_is_sent(receiver: Receiver, tmp_path: Path) -> None:
    file = tmp_path / "token"
    hook = Webhook(receiver.url, token_file=file)
    with pytest.raises(EdgeError, match=r"cannot be read from .*token: FileNotFoundError"):
        await hook(notify())
    for odd in ("", "two\nlines", "caf\N{LATIN SMALL LETTER E WITH ACUTE}"):
        file.write_text(odd)
        with pytest.raises(EdgeError, match="holds no bearer token") as raised:
            await hook(notify())
        assert not odd or odd not in str(raised.value)
    assert receiver.calls == []


async def test_a_refusal_is_an_error_and_repeats_little_of_the_answer(
    receiver: Receiver,
) -> None:
    receiver.status, receiver.text = 503, "x" * 100_000
    with pytest.raises(EdgeError, match=r"did not take gpu-17-abc: 503 x+") as raised:
        await Webhook(receiver.url)(notify())
    assert len(str(raised.value)) < 300


async def test_a_redirect_is_not_followed(receiver: Receiver) -> None:
    receiver.status, receiver.headers = 307, {"Location": receiver.url}
    with pytest.raises(EdgeError, match="307"):
        await Webhook(receiver.url)(notify())
    assert len(receiver.calls) == 1


async def test_silence_and_a_dead_address_are_errors_that_keep_the_url_to_themselves(
    receiver: Receiver,
) -> None:
    receiver.silent = True
    with pytest.raises(EdgeError, match="cannot be told of gpu-17-abc: TimeoutError"):
        await Webhook(receiver.url, timeout_seconds=0.2)(notify())
    for url in ("http://127.0.0.1:9/hook?key=hush", "http://[hush"):
        with pytest.raises(EdgeError, match="cannot be told") as raised:
            await Webhook(url)(notify())
        assert "hush" not in str(raised.value)


async def test_odd_texts_are_sent_as_they_are(receiver: Receiver) -> None:
    odd = msgspec.structs.replace(notify().incident, needs="\x00 \N{FIRE}")
    await Webhook(receiver.url)(Notify(incident=odd, reason="r"))
    assert receiver.calls[0][1]["needs"] == "\x00 \N{FIRE}"
