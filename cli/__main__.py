"""The operator's command line: ``fleetmedic explain NODE`` and what follows from it."""

import argparse
import os
import sys
from collections.abc import Callable

from cli.plain import clean
from cli.settings import ENV_PREFIX, MAX_NOTE, RUNGS, CliSettings
from contract.settings import EXIT_BAD_SETTINGS, SettingsError, add_flags, load

EXIT_REFUSED = 1

MAX_TOP = 100
"""Nodes that the aggregator tells of at once."""

EPILOG = """\
Questions go to the aggregator: at --server URL (FLEETMEDIC_SERVER), else through
the Kubernetes API with your kubeconfig. Orders go to the Kubernetes API, with
your own rights. Exit status: 0 done, 1 refused or nothing found, 2 not understood.

examples:
  fleetmedic incidents                           what is open, worst first
  fleetmedic explain gpu-07                      why it stands so, how to stop it
  fleetmedic plan gpu-07                         what a drain would do now
  fleetmedic why team-a/train-0                  why this node, and which else
  fleetmedic hold gpu-07 --note "ticket 4711"    decide nothing more about it
  fleetmedic approve gpu-07 reboot-node          agree to one step
  fleetmedic stop "power work until noon"        stop every write in the cluster
"""

# Name → one line, what it does in more words, an example.
TEXTS = {
    "incidents": (
        "list the open incidents, worst first",
        "A line per node: device and code of its worst finding, phase, what would mend it, age, and what comes next.",
        "fleetmedic incidents --all --json",
    ),
    "explain": (
        "why a node stands as it does, what comes next, and how to stop it",
        "In this order: its state and by whom, on what evidence, what was done, what comes next and when, how to stop it.",
        "fleetmedic explain gpu-07",
    ),
    "plan": (
        "what a drain of a node would do now, pod by pod; does nothing",
        "Reads the node's pods, their jobs and their disruption budgets, and prints a verdict with its reason for each.",
        "fleetmedic plan gpu-07 --device gpu:0000:3b:00.0",
    ),
    "why": (
        "why a pod goes to a node, which others there are, and what would change that",
        "For a pod that waits or runs: what it asks for, the best nodes, each term of their scores, and what is not known.",
        "fleetmedic why team-a/train-0",
    ),
    "hold": (
        "decide nothing more about a node",
        "Freezes the node's incident: taint, cordon and pods stay as they are, nothing new is begun.",
        'fleetmedic hold gpu-07 --note "vendor on site until 14:00"',
    ),
    "resume": (
        "take a hold off (also: unhold)",
        "Fleetmedic goes on from where the incident stands.",
        "fleetmedic resume gpu-07",
    ),
    "approve": (
        "agree to one step of the repair, for this incident",
        "For steps that --needs-approval of the aggregator makes wait for a person.",
        "fleetmedic approve gpu-07 reboot-node",
    ),
    "cancel": (
        "stop, take off what is Fleetmedic's, close, and leave the same faults alone for a while",
        "For when Fleetmedic is wrong. The node serves again with its fault; other people's cordons stay.",
        'fleetmedic cancel gpu-07 --note "sensor is lying, ticket 4711"',
    ),
    "release": (
        "say that a node is mended: check it now, and let pods back if all is well",
        "For after a repair by hand.",
        'fleetmedic release gpu-07 --note "board replaced"',
    ),
    "note": (
        "leave a word for the others in a node's incident",
        "Replaces the note that is there.",
        'fleetmedic note gpu-07 "spare part arrives on Monday"',
    ),
    "stop": (
        "stop every write in the whole cluster within a second",
        "The kill switch: no taint, no cordon, no eviction, no repair, no release, until `fleetmedic go`.",
        'fleetmedic stop "switch maintenance until noon"',
    ),
    "go": (
        "let Fleetmedic act again after a stop",
        "Takes the kill switch back.",
        "fleetmedic go",
    ),
}

READS = ("incidents", "explain", "plan", "why")
OF_A_NODE = ("explain", "plan", "hold", "resume", "approve", "cancel", "release", "note")
WITH_NOTE = ("hold", "resume", "approve", "cancel", "release")


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(
        prog="fleetmedic",
        description="Ask Fleetmedic why, and tell it what to do.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (text, more, example) in TEXTS.items():
        command = commands.add_parser(
            name,
            help=text,
            aliases=["unhold"] if name == "resume" else [],
            description=f"{text[0].upper()}{text[1:]}.\n\n{more}",
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(command=name)
        if name in OF_A_NODE:
            command.add_argument("node", metavar="NODE", help="name of the Node")
        if name == "why":
            command.add_argument("pod", metavar="POD", help="name of the Pod, or NAMESPACE/POD")
            command.add_argument(
                "-n",
                "--pod-namespace",
                metavar="NAMESPACE",
                default="",
                help="where the pod is; not needed where only one pod has this name",
            )
            command.add_argument(
                "--top", metavar="N", type=_top, default=5, help="how many nodes to show (5)"
            )
        if name == "approve":
            command.add_argument(
                "rung", metavar="STEP", choices=RUNGS, help=f"one of: {', '.join(RUNGS)}"
            )
        if name in ("note", "stop"):
            word = {"note": "TEXT", "stop": "REASON"}[name]
            command.add_argument("text", metavar=word, type=_text, help="in words, for the others")
        if name in WITH_NOTE:
            command.add_argument(
                "--note",
                metavar="TEXT",
                type=_text,
                help="a word for the others, kept in the incident",
            )
        if name == "plan":
            command.add_argument(
                "--device",
                metavar="SUBJECT",
                action="append",
                default=[],
                help="only pods that hold this device, as findings write it; may be given several times",
            )
        if name == "incidents":
            command.add_argument("--all", action="store_true", help="closed ones too")
        if name in READS:
            command.add_argument("--json", action="store_true", help="for programs")
        add_flags(command, CliSettings, ENV_PREFIX)
    return top


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Returns:
        0 done, 1 refused or nothing found, 2 not understood.
    """
    arguments = parser().parse_args(argv)
    try:
        settings = load(
            CliSettings, arguments=arguments, environment=os.environ, env_prefix=ENV_PREFIX
        )
    except SettingsError as error:
        return _failed(str(error), EXIT_BAD_SETTINGS)
    try:
        from cli.connection import Refused
    except ModuleNotFoundError as error:
        return _failed(
            f"{error.name} is not installed: pip install 'fleetmedic[cli]'", EXIT_BAD_SETTINGS
        )
    try:
        return _run(arguments, settings)
    except Refused as error:
        return _failed(str(error), EXIT_REFUSED)
    except BrokenPipeError:  # the reader has seen enough: `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130


def _run(arguments: argparse.Namespace, settings: CliSettings) -> int:
    # Imported late: --help and mistakes answer at once.
    from cli import acts, reads
    from cli.connection import cluster
    from cli.terminal import Terminal

    out = Terminal()
    if arguments.command in READS:
        ask = reads.aggregator(settings)
        if arguments.command == "incidents":
            return reads.incidents(ask, out, everything=arguments.all, as_json=arguments.json)
        if arguments.command == "why":
            from cli.why import why

            return why(
                ask,
                out,
                pod=arguments.pod,
                namespace=arguments.pod_namespace,
                top=arguments.top,
                as_json=arguments.json,
            )
        node, as_json = arguments.node, arguments.json
        if arguments.command == "explain":
            return reads.explain(ask, out, node=node, as_json=as_json)
        return reads.plan(ask, out, node=node, devices=arguments.device, as_json=as_json)
    api = cluster(settings)
    simple: dict[str, Callable[..., int]] = {
        "hold": acts.hold,
        "resume": acts.resume,
        "cancel": acts.cancel,
        "release": acts.release,
    }
    if act := simple.get(arguments.command):
        return act(api, out, node=arguments.node, note=arguments.note)
    if arguments.command == "approve":
        return acts.approve(api, out, node=arguments.node, rung=arguments.rung, note=arguments.note)
    if arguments.command == "note":
        return acts.note(api, out, node=arguments.node, text=arguments.text)
    if arguments.command == "stop":
        return acts.stop(api, out, namespace=settings.namespace, reason=arguments.text)
    return acts.go(api, out, namespace=settings.namespace)


def _text(raw: str) -> str:
    """Some words, as one line.

    Raises:
        argparse.ArgumentTypeError: there are none, or too many.
    """
    text = " ".join(raw.split())
    if not text:
        raise argparse.ArgumentTypeError("it is empty; say why, in a few words")
    if len(text) > MAX_NOTE:
        raise argparse.ArgumentTypeError(f"it has {len(text)} characters; at most {MAX_NOTE}")
    return text


def _top(raw: str) -> int:
    """How many nodes to show.

    Raises:
        argparse.ArgumentTypeError: that is no such number.
    """
    if raw.isascii() and raw.isdigit() and 1 <= int(raw[:9]) <= MAX_TOP:
        return int(raw)
    raise argparse.ArgumentTypeError(f"{raw!r} is not from 1 to {MAX_TOP}")


def _failed(message: str, status: int) -> int:
    print(f"fleetmedic: {clean(message)}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
