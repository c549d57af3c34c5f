"""The alert rules and the Alertmanager configuration, judged by Prometheus' own tools and servers."""

import asyncio
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml

from tests.prometheus import sample, server, tools

ROOT = Path(__file__).parents[2]
RULES = ROOT / "alerts" / "fleetmedic.rules.yaml"
ALERTMANAGER = ROOT / "alerts" / "alertmanager.yaml"
RULE_TESTS = sorted((ROOT / "alerts" / "tests").glob("*.yaml"))

METRIC = re.compile(r"\bfleetmedic_\w+")


def alerts() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load(RULES.read_text())["groups"]
    return list(group["rules"])


ALERTS = {each["alert"]: each for each in alerts()}


class TestRules:
    def test_promtool_accepts_them(self) -> None:
        said = tools.run("promtool", "check", "rules", RULES)
        assert said.returncode == 0, said.stdout + said.stderr

    @pytest.mark.parametrize("file", RULE_TESTS, ids=lambda file: file.stem)
    def test_they_fire_when_they_should(self, file: Path) -> None:
        said = tools.run("promtool", "test", "rules", file)
        assert said.returncode == 0, said.stdout + said.stderr

    @pytest.mark.parametrize("name", ALERTS)
    def test_each_has_a_firing_and_a_quiet_case(self, name: str) -> None:
        cases = [
            case
            for file in RULE_TESTS
            for test in yaml.safe_load(file.read_text())["tests"]
            for case in test["alert_rule_test"]
            if case["alertname"] == name
        ]
        assert any(case["exp_alerts"] for case in cases)
        assert any(not case["exp_alerts"] for case in cases)

    @pytest.mark.parametrize("name", ALERTS)
    def test_each_says_what_to_do(self, name: str) -> None:
        alert = ALERTS[name]
        assert alert["labels"]["severity"] in {"critical", "warning"}
        assert {"summary", "description", "runbook_url"} == alert["annotations"].keys()
        assert "{{" not in alert["annotations"]["summary"], "a summary groups; values go below it"
        page = ROOT / alert["annotations"]["runbook_url"]
        assert page.read_text().startswith(f"# {name}\n")

    @pytest.mark.parametrize("name", ALERTS)
    def test_each_is_listed_with_its_severity(self, name: str) -> None:
        listed = (ROOT / "docs" / "runbooks" / "README.md").read_text()
        severity = ALERTS[name]["labels"]["severity"]
        assert re.search(
            rf"^\| \[{name}\]\({name}\.md\) \| .+\. \| {severity} \|$", listed, re.MULTILINE
        )

    def test_the_words_that_a_restarted_extender_is_looked_for_by_are_logged(self) -> None:
        page = (ROOT / "docs" / "runbooks" / "FleetmedicExtenderRestarts.md").read_text()
        code = (ROOT / "aggregator" / "feeds" / "extender_process.py").read_text()
        for words in ("started anew", "it ended", "(exit code ", "it stood still"):
            assert words in page
            assert words in code

    @pytest.mark.parametrize("name", ALERTS)
    def test_each_asks_for_metrics_that_exist(self, name: str) -> None:
        served = b"\n".join(sample.pages(time.time()).values()).decode()
        known = set(re.findall(r"^([a-zA-Z_:]\w*)[{ ]", served, re.MULTILINE))
        assert set(METRIC.findall(ALERTS[name]["expr"])) <= known

    async def test_they_fire_on_what_our_exporters_really_serve(self, tmp_path: Path) -> None:
        pages = sample.pages(time.time())
        async with server.serving(pages) as address:
            targets = {f"{address}{path}": path for path in pages}
            async with server.prometheus(tmp_path, targets, RULES) as url:
                expected = {
                    ("FleetmedicFatalFinding", "gpu-b"),
                    ("FleetmedicNodeStuck", sample.SILENT),
                }
                assert await _firing(url, at_least=expected) == expected


async def _firing(url: str, at_least: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """The alerts that fire, by name and node, once those expected do."""
    async with asyncio.timeout(20):
        while True:
            found = {
                (each["labels"]["alertname"], each["labels"].get("node", ""))
                for each in (await server.get_json(f"{url}/api/v1/alerts"))["data"]["alerts"]
                if each["state"] == "firing"
            }
            if at_least <= found:
                return found
            await asyncio.sleep(0.1)


class TestAlertmanager:
    def test_amtool_accepts_it(self) -> None:
        said = tools.run("amtool", "check-config", ALERTMANAGER)
        assert said.returncode == 0, said.stdout + said.stderr

    @pytest.mark.parametrize(
        ("receiver", "labels"),
        [
            ("page", "alertname=FleetmedicFatalFinding severity=critical node=n1"),
            ("page", "alertname=FleetmedicFleetUnhealthy severity=critical"),
            ("page", "alertname=FleetmedicBlind severity=critical cause=no-leader"),
            ("hardware-queue", "alertname=FleetmedicNodeStuck severity=warning node=n1"),
            ("hardware-queue", "alertname=FleetmedicAgentSilent severity=warning node=n1"),
            ("hardware-queue", "alertname=FleetmedicFeedFailing severity=warning feed=devices"),
            ("hardware-queue", "alertname=FleetmedicExtenderRestarts severity=warning"),
            ("team", "alertname=JobIdle severity=warning namespace=team-vision"),
            ("hardware-queue", "alertname=Whatever severity=warning namespace=kube-system"),
        ],
    )
    def test_routes(self, receiver: str, labels: str) -> None:
        said = tools.run(
            "amtool",
            "config",
            "routes",
            "test",
            f"--config.file={ALERTMANAGER}",
            f"--verify.receivers={receiver}",
            *labels.split(),
        )
        assert said.returncode == 0, said.stdout + said.stderr

    async def test_no_receiver_can_be_a_live_host(self) -> None:
        hosts = re.findall(r"https?://([^/\s]+)", ALERTMANAGER.read_text())
        assert hosts
        assert all(host.endswith(".invalid") for host in hosts)

    async def test_what_is_held_back_by_what(self, tmp_path: Path) -> None:
        fatal = {"alertname": "FleetmedicFatalFinding", "severity": "critical", "node": "n1"}
        stuck = {"alertname": "FleetmedicNodeStuck", "severity": "warning"}
        async with server.alertmanager(tmp_path, ALERTMANAGER) as url:
            await _post(url, fatal, stuck | {"node": "n1"}, stuck | {"node": "n2"})
            assert await _held_back(url) == {("FleetmedicNodeStuck", "n1")}

            await _post(url, {"alertname": "FleetmedicFleetUnhealthy", "severity": "critical"})
            assert await _held_back(url) == {
                ("FleetmedicFatalFinding", "n1"),
                ("FleetmedicNodeStuck", "n1"),
                ("FleetmedicNodeStuck", "n2"),
            }

    async def test_without_a_leader_no_feed_is_complained_of(self, tmp_path: Path) -> None:
        feed = {"alertname": "FleetmedicFeedFailing", "severity": "warning", "cluster": "c1"}
        restarts = feed | {"alertname": "FleetmedicExtenderRestarts"}
        blind = {"alertname": "FleetmedicBlind", "severity": "critical", "cause": "no-leader"}
        async with server.alertmanager(tmp_path, ALERTMANAGER) as url:
            await _post(url, feed, restarts, blind | {"cluster": "c2"})
            assert await _held_back(url) == set()

            await _post(url, blind | {"cluster": "c1"})
            assert await _held_back(url) == {
                ("FleetmedicFeedFailing", ""),
                ("FleetmedicExtenderRestarts", ""),
            }


async def _post(url: str, *labels: dict[str, str]) -> None:
    now = datetime.now(UTC).isoformat()
    body = [{"labels": each, "startsAt": now} for each in labels]
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/api/v2/alerts", json=body) as answer,
    ):
        assert answer.status == 200, await answer.text()


async def _held_back(url: str) -> set[tuple[str, str]]:
    """What is inhibited, once every alert was judged by its group's first flush or on request."""
    found = await server.get_json(f"{url}/api/v2/alerts")
    return {
        (each["labels"]["alertname"], each["labels"].get("node", ""))
        for each in found
        if each["status"]["inhibitedBy"]
    }
