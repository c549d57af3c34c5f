"""What both processes share at their edge: how they stop, how they log, their version, how they read an address."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Coroutine
from importlib import metadata
from typing import Any, Literal

import structlog


def version() -> str:
    """The installed version; a checkout that was never installed says so."""
    try:
        return metadata.version("fleetmedic")
    except metadata.PackageNotFoundError:
        return "unreleased"


def configure_logging(level: str, form: Literal["text", "json"]) -> None:
    """Log to stderr, as text for people or JSON for machines. Called once, by ``__main__``."""
    # gRPC writes what its peers do to stderr in a form of its own; it reads this when it is first imported.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    renderer: structlog.typing.Processor
    if form == "json":
        renderer = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            pad_event_to=24,
            exception_formatter=structlog.dev.plain_traceback,  # the default prints local variables
        )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([structlog.processors.format_exc_info] if form == "json" else []),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
    )


async def run_until_signal(work: Coroutine[Any, Any, None]) -> None:
    """Run ``work`` until it ends or SIGTERM or SIGINT comes; then cancel it and wait for its clean-up."""
    task = asyncio.create_task(work, name="work")
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await task
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def split_address(text: str) -> tuple[str, int]:
    """``"0.0.0.0:9402"`` → ``("0.0.0.0", 9402)``.

    Raises:
        ValueError: naming the text and the form wanted.
    """
    host, separator, port = text.rpartition(":")
    if not separator or not port.isdigit() or int(port) > 65_535:
        raise ValueError(f"{text!r} is not address:port, like 0.0.0.0:9402 or [::]:9402")
    return host.strip("[]"), int(port)
