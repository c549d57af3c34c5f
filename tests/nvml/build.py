"""Builds the stand-in's shared library once per source, compiler and set of missing symbols."""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

SONAME = "libnvidia-ml.so.1"
FLAGS = (
    *("-std=c11", "-D_GNU_SOURCE", "-O2", "-Wall", "-Wextra", "-Werror"),
    *("-fPIC", "-fvisibility=hidden", "-shared", "-pthread", f"-Wl,-soname,{SONAME}"),
)
_SOURCES = Path(__file__).parent
_SYMBOL = re.compile(r"nvml[A-Z]\w*")


def compiler() -> str | None:
    """The C compiler's path: `$CC`, else `cc`; None when there is none."""
    return shutil.which(os.environ.get("CC", "cc"))


def build(*, missing: Iterable[str] = ()) -> Path:
    """Returns the library; the symbols in `missing` are left out of its dynamic symbol table.

    Raises:
        RuntimeError: there is no compiler, a name is no NVML symbol, or the compiler fails.
    """
    names = sorted(set(missing))
    if wrong := [name for name in names if not _SYMBOL.fullmatch(name)]:
        raise RuntimeError(f"not NVML symbols: {wrong}")
    command = compiler()
    if command is None:
        raise RuntimeError("the NVML stand-in needs a C compiler (cc, or $CC)")
    sources = sorted(_SOURCES.glob("*.[ch]"))
    digest = hashlib.sha256(repr((command, FLAGS, names)).encode())
    for source in sources:
        digest.update(source.read_bytes())
    library = _cache() / digest.hexdigest()[:16] / SONAME
    if not library.exists():
        _compile(command, [source for source in sources if source.suffix == ".c"], names, library)
    return library


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "fleetmedic" / "nvml-standin"


def _compile(command: str, sources: list[Path], missing: list[str], library: Path) -> None:
    """Compiles in a folder of its own, then renames: builders that race each leave a whole file."""
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made = Path(folder) / SONAME
        script = Path(folder) / "symbols.map"
        local = "".join(f"{name};" for name in missing)
        script.write_text(f"{{ global: nvml*; local: {local} *; }};\n")
        run = subprocess.run(
            [
                command,
                *FLAGS,
                f"-Wl,--version-script={script}",
                "-o",
                str(made),
                *map(str, sources),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode != 0:
            raise RuntimeError(f"the NVML stand-in does not compile:\n{run.stderr}")
        made.rename(library)
