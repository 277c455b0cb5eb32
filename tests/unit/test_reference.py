"""The references are made from the program, are fresh, and say something of everything."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import click
import pytest
from pydantic import SecretStr

from cdc.cli import reference
from cdc.cli.main import every_command
from cdc.cli.reference import DOCUMENTS, EXAMPLE, Key
from cdc.config import load
from cdc.errors import ConfigError

REFERENCE = Path(__file__).parents[2] / "ops" / "reference"
KEYS = reference.keys()
COMMANDS = list(every_command().values())
EXAMPLE_CLIENT = tomllib.loads(EXAMPLE)["kafka"]["client"]
NODE = "eu-west"
"""Of the example, and not its leader."""
OTHER_VALUES: dict[str, object] = {
    "leader": NODE,
    "nodes.NAME.dsn": "host=elsewhere",
    "capture.tables": ["a.b"],
    "apply.overwrite": ["a.b"],
    "kafka.client": {"a": "b"},
}
"""Where neither a number nor any word will do."""


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delenv("CDC_CONFIG", raising=False)
    file = tmp_path / "cdc.toml"
    file.write_text(EXAMPLE)
    return str(file)


def value_of(settings: object, key: Key, node: str) -> object:
    """What loaded settings hold under a key of the reference."""
    for part in key.name.replace("NAME", node).split("."):
        settings = settings[part] if isinstance(settings, dict) else getattr(settings, part)
    return settings.get_secret_value() if isinstance(settings, SecretStr) else settings


@pytest.mark.parametrize("name", DOCUMENTS)
def test_it_is_fresh(name: str):
    told = (REFERENCE / f"{name}.md").read_text()
    assert told == DOCUMENTS[name](), f"run: python -m cdc.cli.reference {name} > ops/reference/{name}.md"


class TestConfiguration:
    def test_the_example_is_loaded_and_has_every_key(self, example: str):
        settings, written = load(example), tomllib.loads(EXAMPLE)
        for key in KEYS:
            assert value_of(settings, key, NODE) == value_of(written, key, NODE)

    def test_every_key_says_what_it_means(self):
        assert [key.name for key in KEYS if not key.means.endswith(".")] == []

    @pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
    def test_the_environment_variable_is_the_one_that_is_told(
        self, example: str, monkeypatch: pytest.MonkeyPatch, key: Key
    ):
        value = OTHER_VALUES.get(key.name, 1_234_567 if "number" in key.allowed else "word")
        text = json.dumps(value) if isinstance(value, list | dict) else str(value)
        monkeypatch.setenv(key.environment.replace("NAME", NODE.upper()), text)
        found = value_of(load(example), key, NODE)
        assert found == ({**EXAMPLE_CLIENT, **value} if isinstance(value, dict) else value)

    @pytest.mark.parametrize("key", [key for key in KEYS if "number" in key.allowed], ids=lambda key: key.name)
    def test_a_number_below_what_is_told_is_refused(self, example: str, monkeypatch: pytest.MonkeyPatch, key: Key):
        monkeypatch.setenv(key.environment, "0")
        with pytest.raises(ConfigError, match=key.name):
            load(example)


class TestCommands:
    @pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
    def test_each_says_what_it_does_and_how_it_exits(self, command: click.Command):
        assert command.help
        assert "Exit " in command.help
        assert [option.name for option in reference.options(command) if not option.help] == []
