"""Builds the stand-in's shared library once per source, compiler and set of missing symbols."""

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tests.nvml.build import compiler

NAME = "libdcmi.so"
FLAGS = (
    *("-std=c11", "-D_GNU_SOURCE", "-O1", "-Wall", "-Wextra", "-Werror"),
    *("-fPIC", "-fvisibility=hidden", "-shared", "-pthread", f"-Wl,-soname,{NAME}"),
)
_SOURCE = Path(__file__).with_name("standin.c")


def build(*, missing: Iterable[str] = ()) -> Path:
    """Returns the library; the symbols in `missing` are left out of its dynamic symbol table.

    Raises:
        RuntimeError: there is no compiler, or it fails.
    """
    command = compiler()
    if command is None:
        raise RuntimeError("the DCMI stand-in needs a C compiler (cc, or $CC)")
    names = sorted(set(missing))
    digest = hashlib.sha256(repr((command, FLAGS, names)).encode() + _SOURCE.read_bytes())
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    library = base / "fleetmedic" / "dcmi-standin" / digest.hexdigest()[:16] / NAME
    if not library.exists():
        _compile(command, names, library)
    return library


def _compile(command: str, missing: list[str], library: Path) -> None:
    """Compiles in a folder of its own, then renames: builders that race each leave a whole file."""
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made, script = Path(folder) / NAME, Path(folder) / "symbols.map"
        local = "".join(f"{name};" for name in missing)
        script.write_text(f"{{ global: dcmi_*; local: {local} *; }};\n")
        line = [command, *FLAGS, f"-Wl,--version-script={script}", "-o", str(made), str(_SOURCE)]
        run = subprocess.run(line, capture_output=True, text=True, check=False)
        if run.returncode != 0:
            raise RuntimeError(f"the DCMI stand-in does not compile:\n{run.stderr}")
        made.rename(library)
