"""The aggregator's command line: ``python -m aggregator run``."""

import argparse
import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from aggregator.cluster import ClusterEdge
from aggregator.config import ENV_PREFIX, AggregatorSettings, rungs
from aggregator.feeds.kueue_quota import parse_slots
from aggregator.policy.devices.values import parse_back_ends
from aggregator.policy.ladder import REPAIRS
from contract.process import configure_logging, run_until_signal, split_address
from contract.settings import EXIT_BAD_SETTINGS, SettingsError, add_flags, load

EPILOG = """\
Settings come from --config FILE, then the environment, then flags; the last one wins.

examples:
  python -m aggregator run                                 observe: decide and record, write nothing
  python -m aggregator run --kubeconfig FILE --dry-run     a real cluster, still writing nothing
  python -m aggregator run --kubeconfig FILE               a real cluster, for real
"""


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="fleetmedic-aggregator",
        description="Pictures the fleet, quarantines and releases nodes, feeds the scheduler, serves the page.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    text = "take reports, decide, act and serve until told to stop"
    command = commands.add_parser("run", help=text, description=text.capitalize() + ".")
    add_flags(command, AggregatorSettings, ENV_PREFIX)
    text = "make the pair of keys that signs what agents are told to do"
    keygen = commands.add_parser("keygen", help=text, description=text.capitalize() + ".")
    keygen.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder for the two files"
    )
    return top


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 done, 1 failed, 2 a setting cannot be used.
    """
    arguments = parser().parse_args(argv)
    if arguments.command == "keygen":
        return keygen(arguments.out)
    try:
        settings = load(
            AggregatorSettings,
            arguments=arguments,
            environment=os.environ,
            env_prefix=ENV_PREFIX,
            checks=CHECKS,
        )
        check(settings)
    except SettingsError as error:
        print(f"fleetmedic-aggregator: {error}", file=sys.stderr)
        return EXIT_BAD_SETTINGS
    configure_logging(settings.log_level, settings.log_format)
    # Imported late: --help and mistakes answer at once.
    from aggregator.runtime import Aggregator, make_edge

    async def work() -> None:
        await Aggregator(settings, edge_for(settings, make_edge), alone=True).run()

    try:
        asyncio.run(run_until_signal(work()))
    except SettingsError as error:
        print(f"fleetmedic-aggregator: {error}", file=sys.stderr)
        return EXIT_BAD_SETTINGS
    except OSError as error:
        print(f"fleetmedic-aggregator: {error}", file=sys.stderr)
        return 1
    return 0


def keygen(folder: Path) -> int:
    """Make the keys and say what each is for."""
    from contract.signing import generate

    try:
        private, public = generate(folder)
    except SettingsError as error:
        print(f"fleetmedic-aggregator: {error}", file=sys.stderr)
        return EXIT_BAD_SETTINGS
    print(f"{private}: keep it secret; the aggregator's --directive-key-file")
    print(f"{public}: every agent's --directive-public-key-file")
    return 0


def check(settings: AggregatorSettings) -> None:
    """What no single setting can say.

    Raises:
        SettingsError: naming the settings and the remedy.
    """
    if bool(settings.tls_cert_file) != bool(settings.tls_key_file):
        raise SettingsError("tls_cert_file and tls_key_file go together: give both or neither")
    repairs = sorted(rungs(settings.act) & REPAIRS)
    if (repairs or settings.diagnose) and not settings.directive_key_file:
        asked = ", ".join(repairs) or "diagnose"
        raise SettingsError(
            f"{asked} needs directive_key_file: agents carry out only what is signed "
            "(fleetmedic-aggregator keygen --out DIR makes a key)"
        )
    needs_drain = {"reset-device": {"drain", "drain-device"}, "reboot-node": {"drain"}}
    for rung, drains in needs_drain.items():
        if rung in rungs(settings.act) and not drains & rungs(settings.act):
            raise SettingsError(
                f"act has {rung} without {' or '.join(sorted(drains))}: it is never done under running pods, "
                "so it would never be done"
            )
    if strangers := sorted(rungs(settings.needs_approval) - rungs(settings.act)):
        raise SettingsError(
            f"needs_approval names {', '.join(strangers)}, which is not in act: it would never be asked for"
        )
    settings.policy()  # reads the ladder
    check_feeds(settings)
    times = (
        settings.lease_duration_seconds,
        settings.lease_renew_deadline_seconds,
        settings.lease_retry_seconds,
    )
    if not times[0] > times[1] > times[2]:
        raise SettingsError(
            "lease_duration_seconds > lease_renew_deadline_seconds > lease_retry_seconds must hold, "
            f"got {times[0]:g}, {times[1]:g}, {times[2]:g}"
        )


def check_feeds(settings: AggregatorSettings) -> None:
    """What schedulers are told: whether its settings can go together.

    Raises:
        SettingsError: naming the settings and the remedy.
    """
    from aggregator.feeding import score_terms, threshold_settings  # late, for numpy

    served = bool(settings.custom_metrics_listen)
    files = (settings.custom_metrics_cert_file, settings.custom_metrics_key_file)
    if served and not all(files):
        raise SettingsError(
            "custom_metrics_listen needs custom_metrics_cert_file and custom_metrics_key_file: "
            "Kubernetes asks an APIService by TLS only"
        )
    try:
        score_terms(settings)
    except ValueError as error:
        raise SettingsError(f"score_terms: {error}") from error
    try:
        threshold_settings(settings)
    except ValueError as error:
        raise SettingsError(
            f"koordinator_hot_percent, koordinator_calm_percent: {error}"
        ) from error


def edge_for(
    settings: AggregatorSettings, make_edge: Callable[[AggregatorSettings], ClusterEdge]
) -> ClusterEdge:
    """The cluster edge that the settings ask for.

    Raises:
        SettingsError: they ask for a cluster, and there is none.
    """
    must = settings.cluster == "kubernetes"
    edge = make_edge(msgspec.structs.replace(settings, cluster="auto") if must else settings)
    if edge.mode == "observe" and must:
        raise SettingsError(
            "cluster = 'kubernetes' cannot be used: this is no pod of a cluster; "
            "name a cluster with kubeconfig (--kubeconfig FILE), or use --cluster observe"
        )
    if edge.mode == "observe" and settings.agent_auth == "kubernetes":
        raise SettingsError(
            "agent_auth = 'kubernetes' cannot be used: there is no cluster to review tokens; "
            "name one with kubeconfig (--kubeconfig FILE), or use --agent-auth none"
        )
    if edge.mode == "observe" and settings.reader_auth == "kubernetes":
        raise SettingsError(
            "reader_auth = 'kubernetes' cannot be used: there is no cluster to ask who may read; "
            "name one with kubeconfig (--kubeconfig FILE), or use --reader-auth none"
        )
    return edge


def _check_file(path: str) -> None:
    if path and not Path(path).is_file():
        raise ValueError(f"no file {path!r}")


def _check_url(text: str) -> None:
    if not text:
        return
    parts = urlsplit(text)
    local = parts.hostname in ("127.0.0.1", "localhost", "::1")
    if parts.scheme != "https" and not (parts.scheme == "http" and local):
        raise ValueError(f"{text!r} is no https URL; plain http is for this machine only")


def _check_optional_address(text: str) -> None:
    if text:
        split_address(text)


def _check_account(text: str) -> None:
    namespace, _, account = text.partition("/")
    if not namespace or not account or "/" in account:
        raise ValueError(f"{text!r} is not namespace/name")


CHECKS: dict[str, Callable[[Any], object]] = {
    "http_listen": split_address,
    "grpc_listen": split_address,
    "kubeconfig": _check_file,
    "act": rungs,
    "needs_approval": rungs,
    "kueue_quota": parse_slots,
    "device_quarantine": parse_back_ends,
    "scheduler_listen": _check_optional_address,
    "custom_metrics_listen": _check_optional_address,
    "custom_metrics_cert_file": _check_file,
    "custom_metrics_key_file": _check_file,
    "custom_metrics_client_ca_file": _check_file,
    "koordinator_scheduler_config": _check_account,
    "ladder_file": _check_file,
    "drain_rules_file": _check_file,
    "directive_key_file": _check_file,
    "webhook_url": _check_url,
    "webhook_token_file": _check_file,
    "tls_cert_file": _check_file,
    "tls_key_file": _check_file,
    "agent_service_account": _check_account,
}
"""By setting, what else its value must pass."""


if __name__ == "__main__":
    sys.exit(main())
