"""The folder that `make cluster` gives a person."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.controlplane.workspace import ENV, WorkspaceError, workspace, write_env

if TYPE_CHECKING:
    from pathlib import Path


def test_it_begins_empty_and_goes_with_all_that_is_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "build" / "cluster"
    (folder / "keys").mkdir(parents=True)
    (folder / "keys" / "directive.key").touch()
    (folder / ENV).touch()
    with workspace(folder):
        assert [each.name for each in folder.iterdir()] == [ENV]
        (folder / "state").mkdir()
        (folder / "agent.log").touch()
    assert not folder.exists()


def test_somebody_elses_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(WorkspaceError, match="not empty and not ours"), workspace(tmp_path):
        raise AssertionError("it was taken")
    assert [each.name for each in tmp_path.iterdir()] == ["thesis.tex"]


def test_two_clusters_do_not_share_one(tmp_path: Path) -> None:
    with workspace(tmp_path / "w") as folder:
        (folder / "agent.log").touch()
        with pytest.raises(WorkspaceError, match="another cluster uses"), workspace(folder):
            raise AssertionError("it was taken")
        assert (folder / "agent.log").exists()


def test_a_shell_that_sources_it_knows_the_cluster(tmp_path: Path) -> None:
    programs = [tmp_path / "my venv" / "bin", tmp_path / "kubernetes"]
    with workspace(tmp_path / "w w") as folder:
        write_env(folder, kubeconfig=tmp_path / "kube config", programs=programs)
        shown = subprocess.run(
            ["sh", "-c", '. "$0/env" && echo "$KUBECONFIG" && echo "$PATH"', str(folder)],
            env={"PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    kubeconfig, path = shown.splitlines()
    assert kubeconfig == str(tmp_path / "kube config")
    assert path == f"{programs[0]}:{programs[1]}:/usr/bin:/bin"
