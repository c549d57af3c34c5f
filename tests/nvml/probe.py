"""A process that runs the real pynvml on request: each line in is `<id> <code>`, each line out its JSON answer.

Every request runs in a thread of its own, so that one which hangs leaves the others answering. Run as a script; the
tests talk to it through `Probe`.
"""

import contextlib
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any, Self


class ProbeError(Exception):
    """What the code in the child raised: its type's name, and NVML's code if it had one."""

    def __init__(self, kind: str, value: int | None, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind
        self.value = value


class Probe:
    """The child, from the test's side. `h` in the code is the list of device handles after `start`."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=dict(env),
        )
        self._answers: dict[int, queue.Queue[dict[str, Any]]] = {}
        self._next = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def start(self) -> Self:
        """Initialises NVML and gets a handle per GPU."""
        self.ask("nvmlInit()")
        self.ask("h = [nvmlDeviceGetHandleByIndex(i) for i in range(nvmlDeviceGetCount())]")
        return self

    def send(self, code: str) -> int:
        """Starts running the code in the child; `result` waits for it."""
        self._next += 1
        self._answers[self._next] = queue.Queue()
        assert self._process.stdin is not None
        self._process.stdin.write(f"{self._next} {code}\n")
        return self._next

    def done(self, request: int) -> bool:
        return not self._answers[request].empty()

    def result(self, request: int, *, timeout_seconds: float = 30.0) -> Any:
        """The value of the expression; raises ProbeError for what the code raised."""
        answer = self._answers[request].get(timeout=timeout_seconds)
        if "error" in answer:
            raise ProbeError(*answer["error"])
        return answer["value"]

    def ask(self, code: str) -> Any:
        return self.result(self.send(code))

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            answer = json.loads(line)
            self._answers[answer["id"]].put(answer)


def _plain(value: object) -> object:
    """What JSON cannot say: bytes, and ctypes structures as dictionaries."""
    if isinstance(value, bytes):
        return value.decode()
    names = [name for name, *_ in getattr(value, "_fields_", [])] or list(vars(value))
    return {name: getattr(value, name) for name in names}


def _run(request: int, code: str, names: dict[str, Any], lock: threading.Lock) -> None:
    try:
        try:
            program = compile(code, "<probe>", "eval")
        except SyntaxError:
            exec(compile(code, "<probe>", "exec"), names)
            value = None
        else:
            value = eval(program, names)
        answer = json.dumps({"id": request, "value": value}, default=_plain)
    except Exception as error:  # noqa: BLE001 - whatever it is, the test judges it
        told = [type(error).__name__, getattr(error, "value", None), str(error)]
        answer = json.dumps({"id": request, "error": told})
    with lock:
        print(answer, flush=True)


def _serve() -> None:
    import pynvml

    names: dict[str, Any] = {**vars(pynvml), "pynvml": pynvml}
    lock = threading.Lock()
    for line in sys.stdin:
        request, code = line.split(" ", 1)
        arguments = (int(request), code.strip(), names, lock)
        threading.Thread(target=_run, args=arguments, daemon=True).start()


if __name__ == "__main__":
    _serve()
