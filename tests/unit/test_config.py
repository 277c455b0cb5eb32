"""The configuration: one line for all that is wrong, secrets never shown."""

from pathlib import Path

import pytest

from cdc.config import load
from cdc.errors import ConfigError

GOOD = """
group = "shop"
leader = "us-east"
[kafka]
bootstrap_servers = "localhost:9092"
client = { "security.protocol" = "SASL_SSL" }
[nodes.us-east]
dsn = "postgresql://cdc:geheim@us/shop"
[nodes.eu-west]
dsn = "host=eu dbname=shop"
[capture]
tables = ["public.*"]
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("CDC_CONFIG", raising=False)

    def write(text: str) -> str:
        file = tmp_path / "cdc.toml"
        file.write_text(text)
        return str(file)

    return write


def test_a_good_file(write):
    settings = load(write(GOOD))
    assert (settings.topic, settings.slot, list(settings.nodes)) == ("shop.log", "cdc_shop", ["us-east", "eu-west"])
    assert settings.dsn_of("eu-west") == "host=eu dbname=shop"
    assert settings.kafka.client == {"security.protocol": "SASL_SSL"}
    assert "geheim" not in repr(settings)


def test_the_environment_comes_first(write, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CDC_KAFKA__BOOTSTRAP_SERVERS", "elsewhere:1")
    file = write(GOOD)
    assert load(file).kafka.bootstrap_servers == "elsewhere:1"
    monkeypatch.setenv("CDC_CONFIG", file)
    assert load(None).group == "shop"


def test_an_environment_variable_that_is_no_json(write, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CDC_NODES", "geheim")
    with pytest.raises(ConfigError, match=r"CDC_NODES.*not JSON") as caught:
        load(write(GOOD))
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("group =", "gruop ="), r"group: missing; gruop: unknown key"),
        (('"us-east"\n[kafka]', '"nowhere"\n[kafka]'), "leader nowhere is not one of the nodes"),
        (("bootstrap_servers", "bootstrap"), r"kafka\.bootstrap_servers: missing"),
        (("postgresql://cdc:geheim@us/shop", "host us"), r"nodes\.us-east\.dsn: not a connection string"),
        (('"public.*"', '"orders"'), r"capture\.tables: each pattern is written schema\.table"),
        (("group = ", "group  "), "not TOML"),
        (('"shop"\nleader', '"Shop!"\nleader'), "group: String should match pattern"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(write, change: tuple[str, str], complaint: str):
    text = GOOD.replace(*change)
    assert text != GOOD
    with pytest.raises(ConfigError, match=complaint) as caught:
        load(write(text))
    assert "\n" not in str(caught.value)
    assert "geheim" not in str(caught.value)


def test_no_file(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"no configuration file\. To do: write it"):
        load(str(tmp_path / "none.toml"))


def test_a_node_must_be_one(write):
    with pytest.raises(ConfigError, match=r"no node mars in the configuration\. To do: name one of: us-east, eu-west"):
        load(write(GOOD)).dsn_of("mars")
