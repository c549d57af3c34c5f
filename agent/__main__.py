"""The agent's command line: ``python -m agent run | snapshot | record | check | catalogue | simulate``."""

import argparse
import asyncio
import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from agent.config import ENV_PREFIX, AgentSettings, node_name
from contract.process import configure_logging, split_address
from contract.settings import EXIT_BAD_SETTINGS, SettingsError, add_flags, load

RECORD_SECONDS_MAX = 604_800.0

EPILOG = """\
Settings come from --config FILE, then the environment, then flags; the last one wins.

examples:
  python -m agent snapshot                       what this machine looks like, as JSON
  python -m agent run --http-listen :9402        metrics only, reporting to nobody
  python -m agent run --aggregator host:50051    the whole job
  python -m agent record --seconds 60 --output recording.jsonl
  python -m agent check --recording recording.jsonl
  dmesg > kernel.log; python -m agent check --kmsg kernel.log --json
  python -m agent catalogue | grep -i nvlink     what a code means and what would mend it
"""

CHECK_TEXT = """\
run the checks over recorded inputs and print one finding a line

What was raised once is printed, however old it is. The status is 0 when nothing is degraded or worse,
1 when something is, 2 when an input cannot be read. Lines are JSON with --json, and where stdout is no terminal."""


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="fleetmedic-agent",
        description="Reads this node's GPUs, RDMA ports, kernel log and host; checks, exports and reports them.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in (
        ("run", "sample, check, export and report until told to stop"),
        ("snapshot", "print this machine's snapshot and findings as JSON, and exit"),
        ("record", "write one snapshot a tick to a file, as JSON lines"),
        ("simulate", "run one agent per node of a scenario file, all reporting"),
    ):
        command = commands.add_parser(name, help=text, description=text.capitalize() + ".")
        add_flags(command, AgentSettings, ENV_PREFIX)
        if name == "record":
            command.add_argument(
                "--output", default="-", metavar="FILE", help="where to write; - is stdout"
            )
            command.add_argument(
                "--seconds",
                type=float,
                default=10.0,
                metavar="NUMBER",
                help=f"for how long (allowed: >= 0 and <= {RECORD_SECONDS_MAX:g}) [default: 10]",
            )
        if name == "simulate":
            command.add_argument("scenario", type=Path, help="scenario file (YAML)")
    check = commands.add_parser(
        "check",
        help="run the checks over recorded inputs and print one finding a line",
        description=CHECK_TEXT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    check.add_argument(
        "--kmsg", type=Path, metavar="FILE", help="a kernel log, as dmesg or /dev/kmsg give it"
    )
    check.add_argument(
        "--sysfs-root", type=Path, metavar="DIR", help="a sysfs tree, or a copy of one"
    )
    check.add_argument("--recording", type=Path, metavar="FILE", help="what `record` wrote")
    catalogue = commands.add_parser(
        "catalogue",
        help="print every code with its meaning, severity, action and source",
        description="Print every code with its meaning, severity, action and source, one a line.",
    )
    for command in (check, catalogue):
        command.add_argument("--json", action="store_true", help="print JSON lines")
    return top


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 done, 1 failed, 2 a setting cannot be used.
    """
    arguments = parser().parse_args(argv)
    if arguments.command in ("check", "catalogue"):
        return _offline(arguments)
    try:
        settings = load(
            AgentSettings,
            arguments=arguments,
            environment=os.environ,
            env_prefix=ENV_PREFIX,
            checks={"http_listen": _check_address, "aggregator": _check_address},
        )
        if arguments.command == "record":
            _check_seconds(arguments.seconds)
        if arguments.command == "run":
            _check_repairs(settings)
    except SettingsError as error:
        print(f"fleetmedic-agent: {error}", file=sys.stderr)
        return EXIT_BAD_SETTINGS
    configure_logging(settings.log_level, settings.log_format)
    node = node_name(settings, os.environ.get("NODE_NAME"))
    # Late, so that --help and mistakes answer at once.
    from agent import commands
    from agent.sources.replay import load_scenario

    if arguments.command == "run":
        return _finish(commands.run(settings, node))
    if arguments.command == "snapshot":
        return _finish(commands.snapshot(settings, node))
    if arguments.command == "record":
        return _finish(commands.record(settings, node, arguments.output, arguments.seconds))
    try:
        scenario = load_scenario(arguments.scenario.read_bytes())
    except (OSError, ValueError) as error:
        print(f"fleetmedic-agent: scenario {arguments.scenario}: {error}", file=sys.stderr)
        return EXIT_BAD_SETTINGS
    return _finish(commands.simulate(settings, scenario))


def _offline(arguments: argparse.Namespace) -> int:
    """The commands that need no settings."""
    from agent import offline
    from agent.catalogue.load import shipped

    if arguments.command == "catalogue":
        offline.print_catalogue(shipped(), sys.stdout, as_json=arguments.json)
        return 0
    inputs = {name: getattr(arguments, name) for name in ("kmsg", "sysfs_root", "recording")}
    if not any(inputs.values()):
        print(
            "fleetmedic-agent: nothing to check; give --kmsg, --sysfs-root or --recording",
            file=sys.stderr,
        )
        return EXIT_BAD_SETTINGS
    try:
        findings = asyncio.run(offline.check(**inputs, catalogue=shipped()))
    except offline.InputError as error:
        print(f"fleetmedic-agent: {error}", file=sys.stderr)
        return EXIT_BAD_SETTINGS
    as_json = arguments.json or not sys.stdout.isatty()
    return offline.print_findings(findings, sys.stdout, as_json=as_json)


def _finish(work: Coroutine[Any, Any, int]) -> int:
    """Run to the end; a port that is taken or a file that cannot be read is told in one line."""
    reason: BaseException
    try:
        return asyncio.run(work)
    except* OSError as group:
        reason = group
    while isinstance(reason, BaseExceptionGroup):
        reason = reason.exceptions[0]
    print(f"fleetmedic-agent: {reason}", file=sys.stderr)
    return 1


def _check_seconds(seconds: float) -> None:
    if not 0 <= seconds <= RECORD_SECONDS_MAX:  # also refuses nan
        raise SettingsError(
            f"flag --seconds: seconds = {seconds:g} cannot be used "
            f"(allowed: >= 0 and <= {RECORD_SECONDS_MAX:g})"
        )


def _check_repairs(settings: AgentSettings) -> None:
    """What no single setting can say. Nothing is loaded for it where no repair is asked for."""
    if settings.directive_public_key_file or settings.allow_repairs or settings.diagnostic_command:
        from agent.repairs.assembly import read

        read(settings)


def _check_address(text: str) -> None:
    if text:
        split_address(text)


if __name__ == "__main__":
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    sys.exit(status)
