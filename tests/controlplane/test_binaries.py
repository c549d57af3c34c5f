"""Where the binaries come from, without building any."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.controlplane import binaries
from tests.controlplane.gotool import required_go

if TYPE_CHECKING:
    from pathlib import Path


def programs(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).touch(mode=0o755)
    return folder


def test_the_environment_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = programs(tmp_path, "etcd", "kube-apiserver")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(folder))
    assert binaries.find_or_build() == folder
    assert list(binaries.missing(folder)) == [
        "kube-controller-manager",
        "kube-scheduler",
        "kwok",
        "kubectl",
    ]
    with pytest.raises(binaries.Unavailable, match="no kwok, needed for nodes and pods"):
        binaries.program(folder, "kwok")


def test_a_folder_without_an_api_server_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(programs(tmp_path, "etcd")))
    with pytest.raises(binaries.Unavailable, match="has no kube-apiserver: put them there"):
        binaries.find_or_build()


def test_the_cache_serves_when_it_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = binaries.cache_folder()
    assert folder.is_relative_to(tmp_path / "fleetmedic" / "controlplane")
    programs(folder, "etcd", "kube-apiserver")
    assert binaries.cached() is None
    programs(folder, *binaries.PROGRAMS)
    assert binaries.find_or_build() == folder


def test_without_go_and_without_an_index_one_line_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(binaries.Unavailable, match="install Go 1") as caught:
        binaries.find_or_build()
    assert "\n" not in str(caught.value)


def test_the_go_line_is_read() -> None:
    assert required_go(binaries.MODULE / "go.mod") >= (1, 26)
