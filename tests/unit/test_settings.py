"""Settings: which origin wins, and what a person is told about a value that cannot be used."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from agent.config import AgentSettings, node_name
from aggregator.config import AggregatorSettings
from contract.settings import SettingsError, add_flags, load

PREFIX = "APP_"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    sample_seconds: Annotated[float, Meta(ge=0.05, le=60, description="how often")] = 1.0
    buffer: Annotated[int, Meta(ge=10, le=1000, description="100% of it")] = 50
    level: Annotated[Literal["low", "high"], Meta(description="how loud")] = "low"
    enabled: Annotated[bool, Meta(description="whether")] = True
    listen: Annotated[str, Meta(description="where")] = ""


def settings(
    *flags: str,
    file: str | bytes | None = None,
    folder: Path | None = None,
    checks: Mapping[str, Callable[[Any], object]] | None = None,
    env: Mapping[str, str] | None = None,
) -> Settings:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_flags(parser, Settings, PREFIX)
    arguments = list(flags)
    if file is not None:
        assert folder is not None
        path = folder / "app.yaml"
        path.write_bytes(file.encode() if isinstance(file, str) else file)
        arguments += ["--config", str(path)]
    return load(
        Settings,
        arguments=parser.parse_args(arguments),
        environment={PREFIX + name: value for name, value in (env or {}).items()},
        env_prefix=PREFIX,
        checks=checks,
    )


def test_defaults() -> None:
    assert settings() == Settings()


def test_file_then_environment_then_flags(tmp_path: Path) -> None:
    file = "sample_seconds: 2\nbuffer: 20\nlevel: high\n"
    found = settings(
        "--level", "low", file=file, folder=tmp_path, env={"BUFFER": "30", "LEVEL": "high"}
    )
    assert found == Settings(sample_seconds=2.0, buffer=30, level="low")


def test_the_file_may_be_named_by_the_environment(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("buffer: 77")
    assert settings(env={"CONFIG": str(tmp_path / "a.yaml")}).buffer == 77


@pytest.mark.parametrize("content", ["", "# only a comment\n", "---\n", "{}"])
def test_an_empty_file_says_nothing(tmp_path: Path, content: str) -> None:
    assert settings(file=content, folder=tmp_path) == Settings()


def test_a_switch_needs_no_value() -> None:
    assert settings("--enabled", env={"ENABLED": "false"}).enabled is True
    assert settings("--enabled", "false").enabled is False
    assert settings(env={"ENABLED": "0"}).enabled is False


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("sample_seconds", "0", "(allowed: >= 0.05 and <= 60)"),
        ("sample_seconds", "61", "(allowed: >= 0.05 and <= 60)"),
        ("sample_seconds", "nan", "(allowed: >= 0.05 and <= 60)"),
        ("sample_seconds", "soon", "expected float"),
        ("buffer", "9", "(allowed: >= 10 and <= 1000)"),
        ("buffer", "12.5", "expected int"),
        ("level", "medium", "expected one of low, high"),
        ("enabled", "maybe", "expected bool"),
    ],
)
def test_a_bad_value_names_setting_origin_value_and_range(
    tmp_path: Path, name: str, value: str, says: str
) -> None:
    flag = f"--{name.replace('_', '-')}"
    file = tmp_path / "app.yaml"
    tries: dict[str, Callable[[], Settings]] = {
        f"flag {flag}": lambda: settings(flag, value),
        f"environment {PREFIX}{name.upper()}": lambda: settings(env={name.upper(): value}),
        str(file): lambda: settings(file=f"{name}: '{value}'", folder=tmp_path),
    }
    for origin, attempt in tries.items():
        with pytest.raises(SettingsError) as raised:
            attempt()
        message = str(raised.value)
        assert message.startswith(f"{origin}: {name} = '{value}' cannot be used: expected ")
        assert says in message
        assert "\n" not in message


def test_a_value_of_the_wrong_kind_in_the_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="listen = 9402 cannot be used: expected str, got int"):
        settings(file="listen: 9402", folder=tmp_path)
    with pytest.raises(SettingsError, match=r"buffer = \[1\] cannot be used: expected int"):
        settings(file="buffer: [1]", folder=tmp_path)


def test_a_bad_value_is_told_even_where_a_better_one_outranks_it(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="buffer = 1 "):
        settings("--buffer", "20", file="buffer: 1", folder=tmp_path)


def test_a_check_of_its_own_names_the_origin_too(tmp_path: Path) -> None:
    def refuse(value: str) -> None:
        raise ValueError(f"{value!r} is nowhere")

    attempts: list[Callable[[], Settings]] = [
        lambda: settings("--listen", "x", checks={"listen": refuse}),
        lambda: settings(env={"LISTEN": "x"}, checks={"listen": refuse}),
        lambda: settings(file="listen: x", folder=tmp_path, checks={"listen": refuse}),
    ]
    for attempt in attempts:
        with pytest.raises(SettingsError, match=r".+: listen cannot be used: 'x' is nowhere"):
            attempt()
    assert settings(checks={"listen": refuse}) == Settings()  # a default is ours


def test_an_unknown_key_suggests_the_near_name(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"app\.yaml: unknown setting 'sample_second'; did you"):
        settings(file="sample_second: 2", folder=tmp_path)
    with pytest.raises(SettingsError, match="'zzz'; known settings: sample_seconds, buffer, level"):
        settings(file="zzz: 2", folder=tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"- a\n- b\n", "expected 'setting: value' lines, got a list"),
        (b"just words", "got a str"),
        (b"buffer: [", "not valid YAML"),
        (b"buffer: \xff\xfe", "not valid YAML"),
        (b"a: !!python/object:os.system x", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_settings_file(tmp_path: Path, content: bytes, says: str) -> None:
    with pytest.raises(SettingsError) as raised:
        settings(file=content, folder=tmp_path)
    assert str(raised.value).startswith(str(tmp_path / "app.yaml"))
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.yaml: cannot be read: No such file"):
        settings("--config", str(tmp_path / "none.yaml"))
    with pytest.raises(SettingsError, match="cannot be read: Is a directory"):
        settings("--config", str(tmp_path))


@given(st.binary(max_size=60))
def test_no_file_is_more_than_an_error_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    try:
        settings(file=content, folder=tmp_path_factory.getbasetemp())
    except SettingsError as error:
        assert "\n" not in str(error)  # noqa: PT017 - either outcome is right


@given(st.text(max_size=12))
def test_any_text_is_a_value_in_its_range_or_is_refused(value: str) -> None:
    try:
        found = settings(env={"SAMPLE_SECONDS": value})
    except SettingsError:
        return
    assert 0.05 <= found.sample_seconds <= 60


@pytest.mark.parametrize("kind", [AgentSettings, AggregatorSettings])
def test_every_setting_of_ours_says_what_it_is_and_keeps_its_own_rules(
    kind: type[msgspec.Struct], capsys: pytest.CaptureFixture[str]
) -> None:
    defaults = {field.name: field.default for field in msgspec.structs.fields(kind)}
    assert kind(**msgspec.convert(defaults, dict[str, Any])) == msgspec.convert(defaults, kind)
    parser = argparse.ArgumentParser()
    add_flags(parser, kind, PREFIX)
    parser.print_help()
    shown = " ".join(capsys.readouterr().out.split())
    for field in msgspec.structs.fields(kind):
        assert f"--{field.name.replace('_', '-')}" in shown
        assert f"{PREFIX}{field.name.upper()}; default:" in shown
    for schema in msgspec.json.schema_components([kind])[1][kind.__name__]["properties"].values():
        assert schema.get("description")
        if schema.get("type") in ("number", "integer"):
            assert {"minimum", "maximum"} <= schema.keys()
            allowed = f"(allowed: >= {schema['minimum']:g} and <= {schema['maximum']:g})"
            assert f"{schema['description']} {allowed} [{PREFIX}" in shown
    assert f"[{PREFIX}CONFIG]" in shown


def test_the_nodes_name() -> None:
    assert node_name(AgentSettings(node="a"), "b") == "a"
    assert node_name(AgentSettings(), "b") == "b"
    assert node_name(AgentSettings(), None) != ""
