"""What the figure about the extender sends is what kube-scheduler sends, and its load ends when it is told to."""

import asyncio
import socket
from collections import Counter
from collections.abc import Iterator

import msgspec
import pytest

from aggregator.intake import Intake, IntakeServer, trust_claim
from aggregator.stats import AggregatorStats
from bench import extender
from bench.extender import FEW, SHAPES, requests_over
from bench.extender_load import node_names
from contract import report_pb2 as pb

NODES = 3


@pytest.fixture
def silent() -> Iterator[int]:
    """A port where connections are taken and nothing is ever said."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


@pytest.fixture
def closed() -> Iterator[int]:
    """A port that nobody else can have, and that nobody listens on."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fleet of three that reports often, without a time to settle."""
    monkeypatch.setattr(extender, "NODES", NODES)
    monkeypatch.setattr(extender, "REPORTS_PER_SECOND", 30.0)
    monkeypatch.setattr(extender, "SETTLE_SECONDS", 0.0)


def test_each_request_names_every_node_once_and_says_its_own_length() -> None:
    names = node_names(FEW)
    requests = requests_over(names)
    assert len(requests) == len(SHAPES)
    for request in requests:
        head, _, body = request.partition(b"\r\n\r\n")
        assert f"Content-Length: {len(body)}".encode() in head
        asked = msgspec.json.decode(body)
        assert sorted(asked["NodeNames"]) == names
        assert asked["Nodes"] is None


def test_pods_of_every_shape_are_asked_about() -> None:
    asked = [
        msgspec.json.decode(each.partition(b"\r\n\r\n")[2]) for each in requests_over(["node"])
    ]
    gpus = [
        int(each["Pod"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
        for each in asked
    ]
    assert gpus == list(SHAPES)


@pytest.mark.parametrize("port", ["silent", "closed"])
async def test_a_load_that_cannot_open_its_streams_says_so_and_ends_with_its_stdin(
    port: str, request: pytest.FixtureRequest, capfd: pytest.CaptureFixture[str]
) -> None:
    number: int = request.getfixturevalue(port)
    async with extender._child("reports", str(number), str(NODES), "30", core=0) as load:
        assert await extender._line(load) == "0"
        assert await extender._line(load) == "0", "once more"
        assert load.stdin is not None
        load.stdin.close()
        await load.wait()
    assert load.returncode == 0
    assert "0 of 3 streams are open\n" in capfd.readouterr().err


async def test_where_not_all_streams_open_in_time_the_figure_fails_in_words(
    silent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extender, "OPEN_SECONDS", 0)
    with pytest.raises(TimeoutError, match="0 of 3 streams opened within 0 s: the machine"):
        async with extender._reports(silent):
            raise AssertionError("nothing to measure")


async def test_a_load_that_ends_by_itself_is_not_waited_for(
    silent: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extender, "REPORTS_PER_SECOND", 0.0)
    with pytest.raises(RuntimeError, match="ended"):
        async with extender._reports(silent):
            raise AssertionError("nothing to measure")


async def test_once_all_streams_are_open_the_reports_of_each_second_are_counted() -> None:
    heard: Counter[str] = Counter()
    twice_more = asyncio.Event()

    def accept(report: pb.NodeReport) -> None:
        heard[report.node] += 1
        if heard[report.node] == 3:
            twice_more.set()

    intake = Intake(
        accept=accept,
        gone=lambda node: None,
        knows=lambda node: True,
        authenticate=trust_claim,
        stats=AggregatorStats(),
    )
    async with (
        IntakeServer(intake, "127.0.0.1:0") as server,
        extender._reports(server.port) as rates,
    ):
        assert sorted(heard) == node_names(NODES)
        heard.clear()
        twice_more.clear()
        await twice_more.wait()
    assert sum(rates) > 0
