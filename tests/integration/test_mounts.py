"""Network and FUSE mounts, by a mount table that the test writes and file systems that hang when it says so."""

import asyncio
import errno
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.snapshot import Mount
from agent.sources import SourceFailingError
from agent.sources.mounts import (
    MAX_MOUNTS,
    MAX_OPEN,
    MountEntry,
    MountsSource,
    chosen,
    wanted_mounts,
)

TYPES = ["nfs", "nfs4", "fuse", "fuse.*", "cpfs*"]
POD = "/var/lib/kubelet/pods"


def line(place: str, fs_type: str = "nfs4", device: str = "0:45", **fields: str) -> str:
    """One line of a mount table."""
    options, superior, origin = (
        fields.get("options", "rw,relatime"),
        fields.get("superior", "rw,vers=4.2,hard"),
        fields.get("origin", "nas-a:/export/data"),
    )
    place, origin = (text.replace(" ", r"\040") for text in (place, origin))
    return f"812 29 {device} / {place} {options} shared:7 master:2 - {fs_type} {origin} {superior}"


LOCAL = [
    "22 1 259:2 / / rw,relatime shared:1 - ext4 /dev/nvme0n1p2 rw,errors=remount-ro",
    "23 22 0:21 / /proc rw,nosuid shared:2 - proc proc rw",
    "29 22 0:40 / /run/containerd/x rw - overlay overlay rw,lowerdir=/a - nfs,upperdir=/b",
    "",
    "not a line",
    "1 2 - nfs4",
]


class Machine:
    """A mount table, and what its file systems answer."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        (root / "1" / "root").mkdir(parents=True)
        self.asked: list[str] = []
        self.hanging: set[str] = set()
        self.errors: dict[str, int] = {}
        self.release = threading.Event()
        self._statvfs = os.statvfs
        monkeypatch.setattr(os, "statvfs", self._answer)

    def table(self, *lines: str) -> None:
        (self.root / "1" / "mountinfo").write_text("\n".join([*LOCAL, *lines]) + "\n")

    def source(self, **settings: float) -> MountsSource:
        given_ = {"deadline_seconds": 0.05, "period_seconds": 0.0, **settings}
        return MountsSource(types=TYPES, proc_root=str(self.root), **given_)

    def _answer(self, path: str) -> os.statvfs_result:
        place = path.removeprefix(f"{self.root}/1/root")
        self.asked.append(place)
        if place in self.hanging:
            self.release.wait(30)
        if place in self.errors:
            raise OSError(self.errors[place], os.strerror(self.errors[place]))
        return self._statvfs("/")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


async def mounts_where(
    source: MountsSource, holds: Callable[[dict[str, Mount]], bool]
) -> dict[str, Mount]:
    """The first reading of which it holds, by place."""
    seen: dict[str, Mount] = {}
    for _ in range(2_000):
        seen = {mount.mount_point: mount for mount in (await source.read()).mounts}
        if holds(seen):
            return seen
        await asyncio.sleep(0.005)
    raise AssertionError(seen)


async def test_what_a_tenants_pod_meets(machine: Machine) -> None:
    machine.table(
        line("/mnt/shared data"),
        line("/mnt/object", "fuse.ossfs", "0:46", origin="bucket"),
        line("/mnt/other", "xfs", "8:1"),
    )
    source = machine.source()
    seen = await mounts_where(source, lambda seen: len(seen) == 2)
    mount = seen["/mnt/shared data"]
    assert (mount.fs_type, mount.origin, mount.state) == ("nfs4", "nas-a:/export/data", "ok")
    assert mount.read_only is False
    assert mount.total_bytes is not None
    assert mount.available_bytes is not None
    assert 0 < mount.available_bytes <= mount.total_bytes
    assert seen["/mnt/object"].fs_type == "fuse.ossfs"
    await source.close()


async def test_one_dead_mount_costs_one_thread_and_hides_no_other(machine: Machine) -> None:
    machine.table(line("/mnt/dead"), line("/mnt/well", device="0:46"))
    machine.hanging.add("/mnt/dead")
    source = machine.source()
    seen = await mounts_where(
        source, lambda seen: len(seen) == 2 and seen["/mnt/dead"].state == "stuck"
    )
    assert seen["/mnt/dead"].reason.startswith("statfs gives no answer for ")
    assert seen["/mnt/dead"].total_bytes is None
    assert seen["/mnt/well"].state == "ok"
    started = asyncio.get_running_loop().time()
    for _ in range(20):
        await source.read()
    assert asyncio.get_running_loop().time() - started < 2, "nobody waits for what is stuck"
    assert machine.asked.count("/mnt/dead") == 1
    assert machine.asked.count("/mnt/well") > 2
    machine.release.set()
    await mounts_where(source, lambda seen: seen["/mnt/dead"].state == "ok")
    await source.close()


async def test_a_stale_handle_is_named(machine: Machine) -> None:
    machine.table(line("/mnt/a"))
    machine.errors["/mnt/a"] = errno.ESTALE
    source = machine.source()
    seen = await mounts_where(source, bool)
    assert (seen["/mnt/a"].state, seen["/mnt/a"].reason) == ("failing", os.strerror(errno.ESTALE))
    machine.errors.clear()
    await mounts_where(source, lambda seen: seen["/mnt/a"].state == "ok")
    await source.close()


async def test_a_volume_of_many_pods_is_asked_once(machine: Machine) -> None:
    pods = [f"{POD}/{n}/volumes/kubernetes.io~nfs/data" for n in range(10, 40)]
    machine.table(*map(line, pods))
    source = machine.source()
    assert list(await mounts_where(source, bool)) == [pods[0]]
    machine.table(*map(line, ["/a", *pods[1:]]))  # the pod that spoke for it is gone
    await mounts_where(source, lambda seen: list(seen) == ["/a"])
    machine.table(*map(line, ["/", "/a", *pods]))
    for _ in range(5):
        assert [mount.mount_point for mount in (await source.read()).mounts] == ["/a"]
    assert set(machine.asked) == {pods[0], "/a"}
    await source.close()


async def test_a_mount_that_is_gone_is_gone_also_when_it_still_hangs(machine: Machine) -> None:
    machine.table(line("/mnt/dead"), line("/mnt/well", device="0:46"))
    machine.hanging.add("/mnt/dead")
    source = machine.source()
    await mounts_where(source, lambda seen: len(seen) == 2)
    machine.table(line("/mnt/well", device="0:46"))
    await mounts_where(source, lambda seen: list(seen) == ["/mnt/well"])
    machine.table()
    await mounts_where(source, lambda seen: seen == {})
    machine.release.set()
    await source.close()


async def test_dead_mounts_cost_no_more_threads_than_allowed(machine: Machine) -> None:
    places = [f"/mnt/{n:02d}" for n in range(MAX_OPEN + 10)]
    machine.table(*(line(place, device=f"0:{n}") for n, place in enumerate(places)))
    machine.hanging.update(places)
    source = machine.source()
    await mounts_where(source, lambda seen: len(seen) == MAX_OPEN)
    for _ in range(20):
        await source.read()
    assert len(machine.asked) == MAX_OPEN
    machine.release.set()
    machine.hanging.clear()
    await mounts_where(
        source,
        lambda seen: len(seen) == len(places) and {each.state for each in seen.values()} == {"ok"},
    )
    await source.close()


async def test_too_many_mounts_are_told_of(machine: Machine) -> None:
    machine.table(*(line(f"/mnt/{n:03d}", device=f"0:{n}") for n in range(MAX_MOUNTS + 3)))
    source = machine.source()
    await mounts_where(source, lambda seen: len(seen) == MAX_MOUNTS)
    assert source.left_out == 3
    await source.close()


async def test_without_a_look_into_process_1_its_own_table_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine(tmp_path, monkeypatch)
    (tmp_path / "1" / "root").rmdir()
    (tmp_path / "self").mkdir()
    (tmp_path / "self" / "mountinfo").write_text(line("/mnt/own") + "\n")
    source = machine.source()
    assert list(await mounts_where(source, bool)) == ["/mnt/own"]
    assert set(machine.asked) == {"/mnt/own"}
    await source.close()


async def test_no_mount_table_is_failing(tmp_path: Path) -> None:
    source = MountsSource(types=TYPES, proc_root=str(tmp_path))
    for _ in range(2):
        with pytest.raises(SourceFailingError, match="mountinfo: No such file"):
            await source.read()
    await source.close()


async def test_no_mount_of_these_types_is_a_reading_of_none(machine: Machine) -> None:
    machine.table()
    source = machine.source()
    assert (await source.read()).mounts == ()
    await source.close()


async def test_this_machines_own_mounts_are_readable() -> None:
    source = MountsSource(types=["proc", "ext4", "overlay", "xfs", "tmpfs"])
    assert await mounts_where(source, lambda seen: any(m.state == "ok" for m in seen.values()))
    await source.close()


@pytest.mark.parametrize(
    ("options", "superior", "read_only"),
    [
        ("rw,relatime", "rw,vers=4.2", False),
        ("ro,relatime", "rw,vers=4.2", False),  # on purpose, in one pod
        ("rw,relatime", "ro,vers=4.2", True),
        ("rw", "rw,emergency_ro", True),
    ],
)
async def test_read_only_is_what_the_file_system_says(
    machine: Machine, options: str, superior: str, read_only: bool
) -> None:
    machine.table(line("/mnt/a", options=options, superior=superior))
    source = machine.source()
    seen = await mounts_where(source, bool)
    assert seen["/mnt/a"].read_only is read_only
    await source.close()


@given(st.text(max_size=200))
def test_no_mount_table_is_an_error(text: str) -> None:
    for entry in wanted_mounts(text, re.compile("")):
        assert entry.mount_point is not None
    for entry in wanted_mounts(f"1 2 0:1 / {text} rw - nfs4 {text} rw", re.compile("nfs4")):
        assert isinstance(entry.read_only, bool)


ENTRIES = st.lists(
    st.builds(
        MountEntry,
        mount_point=st.sampled_from(["/a", "/b", "/c/long", "/d"]),
        fs_type=st.just("nfs4"),
        origin=st.just("nas"),
        device=st.sampled_from(["0:1", "0:2", "0:3"]),
        read_only=st.just(False),
    ),
    max_size=12,
)


@given(ENTRIES, ENTRIES)
def test_a_file_system_keeps_the_mount_that_speaks_for_it(
    first: list[MountEntry], second: list[MountEntry]
) -> None:
    before, _ = chosen(first, {})
    after, left_out = chosen(second, before)
    assert set(after) == {entry.device for entry in second}
    assert left_out == 0
    places = {(entry.device, entry.mount_point) for entry in second}
    for device, entry in after.items():
        assert (device, entry.mount_point) in places
        if device in before and (device, before[device].mount_point) in places:
            assert entry.mount_point == before[device].mount_point
