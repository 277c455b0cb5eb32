"""The configuration: one file (`cdc.toml`), environment over it, checked once, at the root only.

`CDC_KAFKA__BOOTSTRAP_SERVERS=...` overrides `[kafka] bootstrap_servers`: the prefix `CDC_`, then the
names of the table and of the key, joined by two underscores. What is said here of each key is what
ops/reference/configuration.md says (`cdc/cli/reference.py`).
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any

from psycopg import ProgrammingError, conninfo
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from cdc.errors import ConfigError

DEFAULT_FILE = "cdc.toml"

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,39}$")]
"""Names of groups and nodes become names of slots, topics and locks."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class KafkaSettings(_Section):
    bootstrap_servers: str
    """Brokers to begin with, `HOST:PORT`, several with commas; the client finds the others."""
    replication_factor: int = Field(default=1, ge=1)
    """Replicas of the topic that `cdc init` makes. A topic that is there stays as it is. 3 is usual; with 1 the loss of
    a broker's disk is the loss of the log."""
    min_insync_replicas: int = Field(default=1, ge=1)
    """`min.insync.replicas` of the topic that `cdc init` makes: how many replicas hold a record before it counts as
    durable. 2 of 3 is usual."""
    retention_hours: int = Field(default=7 * 24, ge=1)
    """How long a follower may be away and still find its place in the log: `retention.ms` of the topic that `cdc init`
    makes. Of a topic that is there `cdc check` and capture say when it keeps less."""
    max_record_bytes: int = Field(default=1_000_000, ge=1_000)
    """`max.message.bytes` of the topic that `cdc init` makes. Capture goes by what the topic has, and sends a larger
    change in parts."""
    client: dict[str, str] = Field(default_factory=dict)
    """Passed to librdkafka as it is: `security.protocol`, `sasl.username`, `ssl.ca.location` and so on. What would lose
    or double records (`acks`, `enable.idempotence`, `auto.offset.reset` and others) is refused with another value than
    ours."""


class NodeSettings(_Section):
    dsn: SecretStr
    """How to connect, in whatever form libpq takes: `postgresql://user@host:port/database` or `host=... dbname=...`.
    Without a password `PGPASSWORD`, `PGPASSFILE` and `~/.pgpass` are asked."""

    @field_validator("dsn")
    @classmethod
    def _connection_string(cls, dsn: SecretStr) -> SecretStr:
        try:
            conninfo.conninfo_to_dict(dsn.get_secret_value())
        except ProgrammingError:
            raise ValueError("not a connection string of PostgreSQL (postgresql://user@host/db)") from None
        return dsn


def _table_patterns(tables: list[str]) -> list[str]:
    for pattern in tables:
        schema, dot, table = pattern.partition(".")
        if not (schema and dot and table):
            raise ValueError("each pattern is written schema.table, for instance public.*")
    return tables


class CaptureSettings(_Section):
    tables: list[str] = Field(min_length=1)
    """What `cdc init` publishes: patterns `schema.table`, each part with `*`, `?` and `[...]`, in the names as
    PostgreSQL stores them. System schemas and the schema `cdc` never match. After a change run `cdc init`
    again."""
    heartbeat_seconds: float = Field(default=1.0, gt=0)
    """How often capture writes a heartbeat into the leader's WAL. Lag is measured by them, an idle leader's slot moves
    on with them, and they are as many transactions in the log."""
    max_in_flight_bytes: int = Field(default=32 * 2**20, ge=2**20)
    """Bytes of records handed to Kafka and not acknowledged yet; with more, capture reads no more from the leader."""

    @field_validator("tables")
    @classmethod
    def _patterns(cls, tables: list[str]) -> list[str]:
        return _table_patterns(tables)


class HookSettings(_Section):
    """Commands of the operator's own that a promotion runs, each for two minutes at most, with arguments as a shell
    would split them; no shell runs them. What they say goes to stderr. Their environment names the new leader:
    CDC_GROUP, CDC_LEADER, CDC_EPOCH, CDC_LEADER_HOST, CDC_LEADER_PORT, CDC_LEADER_DBNAME, CDC_LEADER_USER. What its dsn
    leaves out is as libpq fills it in (a dsn with `service` must name them itself). A promotion that was killed or
    failed is continued by the same command, which may run a hook again that has run: it must be repeatable."""

    before_open: str | None = None
    """Runs before a promoted follower takes writes. When it fails the promotion stops there, and can go on."""
    after_promote: str | None = None
    """Runs at the end. When it fails the report says so."""


class ApplySettings(_Section):
    overwrite: list[str] = Field(default_factory=list)
    """Tables, as patterns `schema.table`, whose rows are overwritten where they differ from the leader's, instead of
    stopping: an INSERT of a row that is there updates it, an UPDATE of one that is not inserts it when the whole row is
    known, a DELETE of one that is not is ignored."""

    @field_validator("overwrite")
    @classmethod
    def _patterns(cls, tables: list[str]) -> list[str]:
        return _table_patterns(tables)


class Settings(BaseSettings):
    """One group of databases. See the README for an example."""

    model_config = SettingsConfigDict(
        env_prefix="CDC_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )

    group: Name
    """Its name. The topic is `GROUP.log`, slot and publication are `cdc_GROUP` (with `_` for `-`): it
    stays."""
    leader: Name
    """The node where a fresh group starts; the log knows who leads after that."""
    kafka: KafkaSettings
    nodes: dict[Name, NodeSettings] = Field(min_length=1)
    capture: CaptureSettings
    apply: ApplySettings = ApplySettings()
    hooks: HookSettings = HookSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment comes before the file, which is given as initial values."""
        return env_settings, init_settings

    @model_validator(mode="after")
    def _leader_is_a_node(self) -> Settings:
        if self.leader not in self.nodes:
            raise ValueError(f"leader {self.leader} is not one of the nodes: {', '.join(self.nodes)}")
        return self

    @property
    def topic(self) -> str:
        return f"{self.group}.log"

    @property
    def slot(self) -> str:
        """Also the name of the publication. Slots may hold lower case letters, digits and underscores."""
        return f"cdc_{self.group.replace('-', '_')}"

    def dsn_of(self, node: str) -> str:
        """Raises ConfigError when there is no such node."""
        if node not in self.nodes:
            raise ConfigError(f"no node {node} in the configuration", f"name one of: {', '.join(self.nodes)}")
        return self.nodes[node].dsn.get_secret_value()


def load(path: str | None) -> Settings:
    """From `path`, or `CDC_CONFIG`, or ./cdc.toml. Raises ConfigError: one line for all that is wrong."""
    file = Path(path or os.environ.get("CDC_CONFIG") or DEFAULT_FILE)
    try:
        data: dict[str, Any] = tomllib.loads(file.read_text())
    except FileNotFoundError:
        raise ConfigError(
            "no configuration file", "write it (see the README), or name it by --config or CDC_CONFIG", str(file)
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot be read ({type(error).__name__})", "make it readable", str(file)) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"not TOML: {error}", "correct the file", str(file)) from None
    try:
        return Settings(**data)
    except SettingsError as error:
        # Its text names the key at the top, and nothing of the value.
        name = next((key for key in Settings.model_fields if f'"{key}"' in str(error)), "")
        raise ConfigError(
            f"in the environment CDC_{name.upper()} or a variable below it is not JSON",
            "write lists and tables as JSON, such as CDC_CAPTURE__TABLES='[\"public.*\"]'",
        ) from None
    except ValidationError as error:
        raise ConfigError("; ".join(map(_complaint, error.errors())), "correct the configuration", str(file)) from None


def _complaint(error: Any) -> str:
    place = ".".join(str(part) for part in error["loc"] if part != "[key]") or "settings"
    if error["type"] == "extra_forbidden":
        return f"{place}: unknown key"
    if error["type"] == "missing":
        return f"{place}: missing"
    return f"{place}: {str(error['msg']).removeprefix('Value error, ')}"
