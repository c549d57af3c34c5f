"""Evicts a Kueue Workload through Kueue, so that it goes back to its queue with its quota and not to nowhere.

Deleting the pods of an admitted job would leave its quota reserved, and its job controller would start them anew
past the queue. Kueue's own lever is ``spec.active``: set to false, Kueue suspends the job, waits for its pods to
end and gives the quota back; set to true again, the Workload stands in its queue. Between the two it must not be
forgotten, or the job never runs again. So the first write also puts a label on it, and whoever leads finishes what
carries the label: after a crash, after a change of leader, or when the drain that asked is over. A Workload that is
inactive without the label was put to rest by somebody else, and is left alone; so is one that holds no quota.
"""

import asyncio
import contextlib
from collections.abc import Callable
from contextlib import aclosing
from typing import Any
from urllib.parse import quote

import structlog

from aggregator.cluster import EdgeError
from aggregator.cluster.client import Api, Json
from aggregator.cluster.errors import ApiError, Conflict, NotFound, Unavailable
from aggregator.cluster.pen import Pen
from contract.vocabulary import ANNOTATION_PREFIX

LABEL = f"{ANNOTATION_PREFIX}/requeue"
"""On a Workload that we made inactive and owe its activity to."""
REASON = f"{ANNOTATION_PREFIX}/requeue-reason"
GROUP = "/apis/kueue.x-k8s.io"
VERSIONS = ("v1beta2", "v1beta1")
POLL_SECONDS = 1.0
LOOK_AGAIN_SECONDS = 30.0
PATIENCE_SECONDS = 300.0
"""For Kueue to give the quota back, which includes the grace periods of the job's pods."""
ATTEMPTS = 3
REASON_LENGTH = 256

log = structlog.get_logger()


class _Owed:
    """A Workload whose activity we owe."""

    def __init__(self, started: float) -> None:
        self.started = started
        self.written = False
        self.trouble = ""  # as last said aloud
        self.done: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Why it went wrong; empty: it waits in its queue."""


class Requeues:
    """One per edge. One owner: the event loop.

    Args:
        api: the way to the server, for reading.
        pen: writes for us.
        clock: monotonic seconds.
        patience_seconds: how long Kueue may take.
    """

    def __init__(
        self,
        api: Api,
        pen: Pen,
        *,
        clock: Callable[[], float],
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._api = api
        self._pen = pen
        self._clock = clock
        self._patience_seconds = patience_seconds
        self._owed: dict[str, _Owed] = {}
        self._look = False
        self._wake = asyncio.Event()
        self._asking = asyncio.Lock()

    async def evict(self, path: str, *, reason: str) -> None:
        """Have Kueue evict and requeue a Workload; returns when it is done, or there is nothing to do.

        Raises:
            Unavailable: Kueue did not act in time; the Workload is as active as before.
            ApiError: it could not be asked.
            EdgeError: we may not act any more.
        """
        async with self._asking:
            owed = self._owed.get(path) or await self._deactivate(path, reason)
        if owed is None:
            return
        if wrong := await asyncio.shield(owed.done):
            raise Unavailable(wrong)

    def look(self) -> None:
        """We lead now: find what an earlier leader left undone."""
        self._look = True
        self._wake.set()

    async def run(self) -> None:
        """Give back what is owed until cancelled."""
        while True:
            pause = POLL_SECONDS if self._owed else LOOK_AGAIN_SECONDS if self._look else None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()
            self._wake.clear()
            if self._look:
                await self._find()
            for path, owed in list(self._owed.items()):
                if owed.written:
                    await self._advance(path, owed)

    async def _deactivate(self, path: str, reason: str) -> _Owed | None:
        """What is owed from now on; ``None``: nothing."""
        for _ in range(ATTEMPTS):
            try:
                obj = await self._api.get(path)
            except NotFound:
                return None
            if not _active(obj):
                return self._owe(path, written=True) if _labelled(obj) else None
            if not _holds_quota(obj):
                return None
            owed = self._owe(path, written=False)
            try:
                await self._pen.patch(path, _marked(obj, reason))
            except Conflict:
                del self._owed[path]
                continue
            except (EdgeError, ApiError) as error:
                if isinstance(error, Unavailable):  # nobody knows whether it came through
                    owed.written = True
                else:
                    del self._owed[path]
                raise
            except asyncio.CancelledError:
                owed.written = True
                raise
            if self._pen.dry_run:
                del self._owed[path]
                return None
            owed.written = True
            return owed
        raise Conflict(f"others kept changing {path}, {ATTEMPTS} times in a row", status=409)

    def _owe(self, path: str, *, written: bool) -> _Owed:
        owed = self._owed.setdefault(path, _Owed(self._clock()))
        owed.written = written
        self._wake.set()  # from now on it is looked at, even if who asked is cancelled
        return owed

    async def _find(self) -> None:
        """What carries our label, in the newest version of Kueue's API that is served."""
        for version in VERSIONS:
            try:
                query = {"labelSelector": LABEL}
                pages = self._api.pages(f"{GROUP}/{version}/workloads", query=query)
                async with aclosing(pages):
                    async for page in pages:
                        for one in page.get("items") or ():
                            self._owe(_path(version, one), written=True)
            except NotFound:
                continue
            except ApiError as error:
                log.warning("cannot look for Workloads to requeue", error=str(error))
                return
            break
        self._look = False

    async def _advance(self, path: str, owed: _Owed) -> None:
        """One look at one Workload, and its activity back if Kueue is through, or takes too long."""
        try:
            obj = await self._api.get(path)
            if not _labelled(obj):
                self._paid(path, owed, "")  # never came through, or somebody else finished it
                return
            waited = self._clock() - owed.started
            late = waited >= self._patience_seconds
            if not _active(obj) and _holds_quota(obj) and not late:
                return
            wrong = ""
            if late and _holds_quota(obj) and not _condition(obj, "Evicted"):
                wrong = f"Kueue did not evict {path} within {waited:.0f} s; it is active again"
            await self._pen.patch(path, _unmarked(obj))
            self._paid(path, owed, wrong)
        except NotFound:
            self._paid(path, owed, "")
        except Conflict:
            pass  # changed meanwhile: the next look decides anew, after its pause
        except (ApiError, EdgeError) as error:
            if str(error) != owed.trouble:
                owed.trouble = str(error)
                log.warning("a Workload is still to be requeued", workload=path, error=str(error))

    def _paid(self, path: str, owed: _Owed, wrong: str) -> None:
        self._owed.pop(path, None)
        if not owed.done.done():
            owed.done.set_result(wrong)


def _marked(obj: Json, reason: str) -> Json:
    return {
        "metadata": {
            "resourceVersion": obj["metadata"]["resourceVersion"],
            "labels": {LABEL: "true"},
            "annotations": {REASON: reason[:REASON_LENGTH]},
        },
        "spec": {"active": False},
    }


def _unmarked(obj: Json) -> Json:
    return {
        "metadata": {
            "resourceVersion": obj["metadata"]["resourceVersion"],
            "labels": {LABEL: None},
            "annotations": {REASON: None},
        },
        "spec": {"active": True},
    }


def _path(version: str, obj: Json) -> str:
    metadata = obj["metadata"]
    namespace, name = (quote(metadata[key], safe="") for key in ("namespace", "name"))
    return f"{GROUP}/{version}/namespaces/{namespace}/workloads/{name}"


def _labelled(obj: Json) -> bool:
    return LABEL in (obj["metadata"].get("labels") or {})


def _active(obj: Json) -> bool:
    return (obj.get("spec") or {}).get("active") is not False


def _holds_quota(obj: Json) -> bool:
    return _condition(obj, "QuotaReserved")


def _condition(obj: Json, type_: str) -> bool:
    conditions: Any = (obj.get("status") or {}).get("conditions") or ()
    return any(one.get("type") == type_ and one.get("status") == "True" for one in conditions)
