"""What ``python -m aggregator`` and the demo refuse: exit status 2 and one line that names the remedy."""

import asyncio
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

import demo.__main__ as demo
from contract.settings import SettingsError

OWN = ("FLEETMEDIC_", "KUBERNETES_", "DEMO_")


async def started(*arguments: str, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Exit status and stderr of a module that ends by itself."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *arguments),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={k: v for k, v in os.environ.items() if not k.startswith(OWN)} | dict(env or {}),
    )
    try:
        _, err = await asyncio.wait_for(process.communicate(), 30)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, err.decode()


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("http_listen", "nowhere", "address:port, like 0.0.0.0:9402"),
        ("grpc_listen", "host:port", "address:port, like 0.0.0.0:9402"),
        ("tls_cert_file", "/none.crt", "no file '/none.crt'"),
        ("tls_key_file", "/none.key", "no file '/none.key'"),
        ("kubeconfig", "/none.yaml", "no file '/none.yaml'"),
        ("agent_service_account", "agent", "is not namespace/name"),
    ],
)
async def test_a_bad_value_exits_2_and_says_where_it_came_from(
    tmp_path: Path, setting: str, value: str, says: str
) -> None:
    file = tmp_path / "aggregator.yaml"
    file.write_text(f"{setting}: {value}\n")
    variable, flag = f"FLEETMEDIC_AGGREGATOR_{setting.upper()}", f"--{setting.replace('_', '-')}"
    run = ("aggregator", "run")
    results = await asyncio.gather(
        started(*run, flag, value),
        started(*run, env={variable: value}),
        started(*run, "--config", str(file)),
    )
    for (status, err), origin in zip(results, (flag, variable, str(file)), strict=True):
        assert status == 2
        assert err.count("\n") == 1
        for part in (origin, setting, says):
            assert part in err


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (("--cluster", "kubernetes"), ("cluster = 'kubernetes'", "--kubeconfig FILE")),
        (("--agent-auth", "kubernetes"), ("agent_auth = 'kubernetes'", "--agent-auth none")),
        (("--reader-auth", "kubernetes"), ("reader_auth = 'kubernetes'", "--reader-auth none")),
        (
            ("--cluster", "observe", "--agent-auth", "kubernetes"),
            ("agent_auth = 'kubernetes'", "--agent-auth none"),
        ),
        (("--tls-cert-file", __file__), ("tls_cert_file and tls_key_file go together",)),
    ],
)
async def test_what_needs_more_than_there_is_exits_2_with_the_remedy(
    flags: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    listen = ("--http-listen", "127.0.0.1:0", "--grpc-listen", "127.0.0.1:0")
    status, err = await started("aggregator", "run", *listen, *flags)
    assert status == 2
    assert err.count("\n") == 1
    for part in parts:
        assert part in err


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "soon"])
def test_the_demo_lasts_a_finite_time(text: str) -> None:
    with pytest.raises(SettingsError, match=rf"DEMO_SECONDS: '{text}' .*a finite number > 0"):
        demo.demo_seconds(text)
    assert demo.demo_seconds("2.5") == 2.5
    assert demo.demo_seconds("") is None


@pytest.mark.parametrize("text", ["-1", "65536", "http", "1.5"])
def test_the_demo_takes_a_port(text: str) -> None:
    with pytest.raises(SettingsError, match=rf"DEMO_PORT: '{text}' .*>= 0 and <= 65535"):
        demo.demo_port(text)
    assert [demo.demo_port(each) for each in ("0", "65535", "")] == [0, 65_535, 8_080]


async def test_the_demo_exits_2_1_and_1() -> None:
    """A bad setting, a port that is taken, an agent that cannot start."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = str(server.getsockname()[1])
        bad, busy, ended = await asyncio.gather(
            started("demo", env={"DEMO_SECONDS": "nan"}),
            started("demo", env={"DEMO_PORT": taken, "DEMO_SECONDS": "20"}),
            started(
                "demo",
                env={
                    "DEMO_PORT": "0",
                    "DEMO_SECONDS": "20",
                    "FLEETMEDIC_AGENT_SAMPLE_SECONDS": "0",
                },
            ),
        )
    assert bad[0] == 2
    assert "DEMO_SECONDS" in bad[1]
    assert busy[0] == 1
    assert "set DEMO_PORT to use another port" in busy[1]
    assert ended[0] == 1
    assert "ended early, with exit status 2" in ended[1]
    assert "Traceback" not in busy[1] + ended[1]
