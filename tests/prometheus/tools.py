"""Finds prometheus, promtool, alertmanager and amtool; unpacks Debian's packages when they are missing.

Nothing is installed and no service is started: the packages are unpacked into a cache folder.
"""

import fcntl
import shutil
import subprocess
import tempfile
from functools import cache
from os import environ
from pathlib import Path

import pytest

PACKAGES = {
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "prometheus-alertmanager": "prometheus-alertmanager",
    "amtool": "prometheus-alertmanager",
}
"""Program → Debian's package that has it."""

NEEDS_INSTALLED = {
    "prometheus-alertmanager": Path("/usr/share/prometheus/alertmanager/default.tmpl")
}
"""Program → a file that it wants at this very place: unpacked somewhere else it does not start."""

REMEDY = "install Debian's packages `prometheus` and `prometheus-alertmanager`, or put both on PATH"
DOWNLOAD_SECONDS = 60


class Unavailable(Exception):  # noqa: N818 - a state of affairs
    """A program is not here and cannot be had; the text says what to do."""


def find(program: str) -> str:
    """The path of one program.

    Raises:
        Unavailable: it is not here and cannot be had.
    """
    found = _find(program)
    if isinstance(found, Unavailable):
        raise found
    return found


@cache
def _find(program: str) -> str | Unavailable:
    """As ``find``; remembers a failure too, so that a machine without network waits once."""
    try:
        return _find_or_unpack(program)
    except Unavailable as error:
        return error


def _find_or_unpack(program: str) -> str:
    cached = cache_folder() / PACKAGES[program] / "usr" / "bin" / program
    if found := shutil.which(program):
        return found
    if not cached.is_file():
        _unpack(PACKAGES[program])
    if not cached.is_file():
        raise Unavailable(f"Debian's {PACKAGES[program]} has no {program}: {REMEDY}")
    wanted = NEEDS_INSTALLED.get(program)
    if wanted is not None and not wanted.exists():
        raise Unavailable(f"{program} does not start without {wanted}: {REMEDY}")
    return str(cached)


def need(program: str) -> str:
    """The path of one program; skips the test, with one line, where there is none."""
    try:
        return find(program)
    except Unavailable as error:
        pytest.skip(str(error))


def run(
    program: str, *arguments: str | Path, timeout: float = 60, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run one of the tools to its end; the caller looks at the result."""
    return subprocess.run(
        [need(program), *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def cache_folder() -> Path:
    """Where unpacked packages are kept between runs."""
    base = environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "fleetmedic" / "prometheus"


def _unpack(package: str) -> None:
    """Download and unpack one package, once, however many processes want it."""
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise Unavailable(f"{package} is not on PATH and this is not Debian: {REMEDY}")
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (folder / package).is_dir():
            return
        with tempfile.TemporaryDirectory(dir=folder) as work:
            _do("apt-get", "download", package, cwd=work)
            (archive,) = Path(work).glob("*.deb")
            _do("dpkg", "-x", archive.name, "unpacked", cwd=work)
            (Path(work) / "unpacked").rename(folder / package)


def _do(*command: str, cwd: str) -> None:
    try:
        subprocess.run(
            command, cwd=cwd, check=True, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS
        )
    except subprocess.SubprocessError as error:
        said = str(getattr(error, "stderr", "") or error).strip().splitlines()
        raise Unavailable(f"{' '.join(command)} failed ({said[-1]}): {REMEDY}") from error
