"""What a hook is told: every variable that the documents name, and its words are shown."""

from __future__ import annotations

import getpass
import re
from pathlib import Path

import pytest

from cdc.cli.promote import hooks_of
from cdc.config import HookSettings, Settings, load

README = (Path(__file__).parents[2] / "README.md").read_text()
NAMED = re.findall(r"CDC_[A-Z_]*[A-Z]", HookSettings.__doc__ or "")
PRINT = "\n".join(["#!/bin/sh -u", *(f'echo "{name}=${name}"' for name in NAMED), ""])


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]):
    """What a hook finds that fails at a variable that is not set, by the dsn of the new leader."""
    hook = tmp_path / "hook"
    hook.write_text(PRINT)
    hook.chmod(0o755)
    for name in ("PGHOST", "PGHOSTADDR", "PGPORT", "PGDATABASE", "PGUSER", "PGSERVICE", *NAMED):
        monkeypatch.delenv(name, raising=False)

    def told(dsn: str) -> dict[str, str]:
        before = hooks_of(settings(tmp_path, dsn, hook)).before_open
        assert before is not None
        before("us-east", 2)
        out, err = capfd.readouterr()
        assert out == ""
        return dict(line.split("=", 1) for line in err.splitlines())

    return told


def settings(folder: Path, dsn: str, hook: Path) -> Settings:
    """README's own, with another dsn and a hook."""
    section = README.partition("\n## A group of your own\n")[2]
    text = section.partition("```toml\n")[2].partition("```")[0]
    file = folder / "cdc.toml"
    file.write_text(f'{text.replace("postgresql://cdc@us-east-db/shop", dsn)}\n[hooks]\nbefore_open = "{hook}"\n')
    return load(str(file))


def test_the_documents_name_the_same_variables():
    paragraph = README.partition("hooks tell a DNS")[2].partition("```toml")[0]
    assert set(re.findall(r"CDC_[A-Z_]*[A-Z]", paragraph)) == set(NAMED)


def test_what_the_readmes_dsn_leaves_out_is_told_too(told, monkeypatch: pytest.MonkeyPatch):
    dsn = "postgresql://cdc@us-east-db/shop"
    assert told(dsn) == {
        "CDC_GROUP": "shop", "CDC_LEADER": "us-east", "CDC_EPOCH": "2", "CDC_LEADER_HOST": "us-east-db",
        "CDC_LEADER_PORT": "5432", "CDC_LEADER_DBNAME": "shop", "CDC_LEADER_USER": "cdc",
    }  # fmt: skip
    monkeypatch.setenv("PGPORT", "6432")
    monkeypatch.setenv("PGUSER", "somebody")
    found = told(dsn)
    assert (found["CDC_LEADER_PORT"], found["CDC_LEADER_USER"]) == ("6432", "cdc")


@pytest.mark.parametrize(
    ("dsn", "host", "port", "database", "user"),
    [
        ("postgresql://", "localhost", "5432", getpass.getuser(), getpass.getuser()),
        ("user=cdc", "localhost", "5432", "cdc", "cdc"),
        ("hostaddr=10.0.0.1 port=7000 user=cdc", "10.0.0.1", "7000", "cdc", "cdc"),
        ("host=a,b port=1,2 dbname=shop user=cdc password=geheim", "a,b", "1,2", "shop", "cdc"),
    ],
)
def test_defaults_are_libpqs(told, dsn: str, host: str, port: str, database: str, user: str):
    found = told(dsn)
    assert [found[f"CDC_LEADER_{name}"] for name in ("HOST", "PORT", "DBNAME", "USER")] == [host, port, database, user]
    assert "geheim" not in str(found)
