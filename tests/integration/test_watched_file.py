"""A file that changes while we run, changed the ways that people and Kubernetes change one."""

import os
import threading
from pathlib import Path

import pytest

from agent.sources.watched_file import WatchedFile


class Watch:
    """A watched file and a clock that the test turns."""

    def __init__(self, path: Path) -> None:
        self.now = 1000.0
        self.file = WatchedFile(
            str(path), every_seconds=5, gone_seconds=60, clock=lambda: self.now, deadline_seconds=5
        )

    async def after(self, seconds: float) -> bytes | None:
        self.now += seconds
        return await self.file.changed()


def write(path: Path, content: str) -> None:
    path.write_text(content)


def remove(path: Path) -> None:
    path.rmdir() if path.is_dir() else path.unlink()


def become_folder(path: Path) -> None:
    path.mkdir()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "overrides.yaml"


@pytest.fixture
def watch(path: Path) -> Watch:
    return Watch(path)


async def test_a_change_is_told_once(watch: Watch, path: Path) -> None:
    write(path, "one")
    assert await watch.after(0) == b"one"
    assert await watch.after(5) is None
    write(path, "two")
    assert await watch.after(5) == b"two"
    assert await watch.after(5) is None


async def test_it_is_looked_at_every_few_seconds_only(watch: Watch, path: Path) -> None:
    assert await watch.after(0) is None
    write(path, "one")
    assert await watch.after(4.9) is None
    assert await watch.after(0.1) == b"one"


async def test_a_change_of_the_same_length_at_the_same_time_is_one(
    watch: Watch, path: Path
) -> None:
    for content in (b"info", b"none"):
        write(path, content.decode())
        os.utime(path, ns=(0, 0))
        assert await watch.after(5) == content


async def test_the_swap_of_a_config_map_is_seen(tmp_path: Path) -> None:
    """The kubelet writes a new folder, and points ``..data`` at it in one rename."""
    for version in ("one", "two"):
        (tmp_path / f"..{version}").mkdir()
        (tmp_path / f"..{version}" / "overrides.yaml").write_text(version)
    (tmp_path / "..data").symlink_to("..one")
    (tmp_path / "overrides.yaml").symlink_to("..data/overrides.yaml")
    watch = Watch(tmp_path / "overrides.yaml")
    assert await watch.after(0) == b"one"
    (tmp_path / "..data_tmp").symlink_to("..two")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    assert await watch.after(5) == b"two"


async def test_a_file_that_never_was_is_no_news(watch: Watch) -> None:
    assert [await watch.after(30) for _ in range(10)] == [None] * 10
    assert watch.file.error == ""


@pytest.mark.parametrize("gone", ["removed", "emptied"])
async def test_what_is_gone_for_a_minute_is_taken_back(watch: Watch, path: Path, gone: str) -> None:
    write(path, "one")
    await watch.after(0)
    remove(path) if gone == "removed" else write(path, "")
    assert [await watch.after(5) for _ in range(12)] == [None] * 12
    assert await watch.after(5) == b""
    assert await watch.after(5) is None
    write(path, "one")
    assert await watch.after(5) == b"one"


async def test_what_comes_back_in_time_was_never_gone(watch: Watch, path: Path) -> None:
    write(path, "one")
    await watch.after(0)
    for _ in range(5):
        remove(path)
        assert await watch.after(40) is None
        write(path, "one")
        assert await watch.after(40) is None


async def test_of_a_file_that_is_too_long_one_byte_too_many_is_read(path: Path) -> None:
    write(path, "x" * 1000)
    assert await WatchedFile(str(path), most_bytes=100).changed() == b"x" * 101


async def test_what_cannot_be_read_is_told_and_changes_nothing(watch: Watch, path: Path) -> None:
    write(path, "one")
    await watch.after(0)
    remove(path)
    os.mkfifo(path)
    assert await watch.after(100) is None
    assert watch.file.error.endswith("cannot be read: it is no regular file")
    remove(path)
    become_folder(path)
    assert await watch.after(100) is None
    assert "cannot be read" in watch.file.error
    remove(path)
    write(path, "one")
    assert await watch.after(100) is None
    assert watch.file.error == ""


async def test_a_dead_mount_holds_nobody_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(path, "one")
    alive = threading.Event()
    opened = os.open

    def waiting(*arguments: object) -> int:
        assert alive.wait(10)
        return opened(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("agent.sources.watched_file.os.open", waiting)
    watch = Watch(path)
    watch.file = WatchedFile(str(path), every_seconds=0, deadline_seconds=0.05)
    assert await watch.file.changed() is None
    assert await watch.file.changed() is None
    assert "no answer for 0.05 s" in watch.file.error
    alive.set()
    while (content := await watch.file.changed()) is None:
        pass
    assert content == b"one"
    assert watch.file.error == ""
    watch.file.close()
