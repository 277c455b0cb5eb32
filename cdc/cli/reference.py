"""The references of configuration and commands, made from the settings and the commands themselves.

`python -m cdc.cli.reference configuration` prints ops/reference/configuration.md, `... commands` commands.md.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import click

from cdc.cli.main import cli, every_command
from cdc.config import Settings

EXAMPLE = """\
group = "shop"
leader = "us-east"

[kafka]
bootstrap_servers = "kafka-1:9093,kafka-2:9093,kafka-3:9093"
replication_factor = 3
min_insync_replicas = 2
retention_hours = 336
max_record_bytes = 1000000

[kafka.client]
"security.protocol" = "SASL_SSL"
"sasl.mechanism" = "SCRAM-SHA-512"
"sasl.username" = "cdc"
"sasl.password" = "secret"   # or in the environment; a file with passwords has mode 0600
"ssl.ca.location" = "/etc/cdc/kafka-ca.pem"

[nodes.us-east]
dsn = "postgresql://cdc@us-east-db/shop?sslmode=verify-full&sslrootcert=/etc/cdc/postgres-ca.pem"
[nodes.eu-west]
dsn = "host=eu-west-db dbname=shop user=cdc sslmode=verify-full sslrootcert=/etc/cdc/postgres-ca.pem"

[capture]
tables = ["public.*", "billing.invoice_[0-9]*"]
heartbeat_seconds = 1.0
max_in_flight_bytes = 33554432

[apply]
overwrite = ["public.last_seen"]

[hooks]
before_open = "/etc/cdc/take-address"
after_promote = "/etc/cdc/tell-pooler --quietly"
"""
"""A cdc.toml with every key."""

_CONFIGURATION = """\
# Configuration

Made by `python -m cdc.cli.reference configuration` from `cdc/config.py`: do not edit it here.

One file of TOML: the one that `--config FILE` names, else that of the environment variable `CDC_CONFIG`, else
`cdc.toml` in the working directory. All commands and daemons of a group read the same keys; dsns may differ, where
daemons run under other roles than operators (`security.md`). It is read once, at the start: a daemon takes a change
when it is started again. What is wrong is told in one line, with exit code 2, before anything is connected to; a key
that is not in these tables is wrong, so that no misspelt one goes unseen.

**Environment variables override the file**, key by key: lists and tables are written as JSON
(`CDC_CAPTURE__TABLES='["public.*"]'`), everything else as it is. Nodes and the settings of `kafka.client` that the
environment names come beside those of the file, in place of one of the same name. In `CDC_NODES__NAME__DSN` NAME is the
node in capital letters, hyphens kept; where a shell takes no hyphen, `CDC_NODES='{"eu-west": {"dsn": "..."}}'` says the
same. A file must exist all the same.

Passwords are never shown, and need not be in the file: libpq asks `PGPASSWORD`, `PGPASSFILE` and `~/.pgpass`; Kafka's
can come as `CDC_KAFKA__CLIENT='{"sasl.password": "..."}'`.
"""

_HEAD = "| key | environment | value | default | meaning |\n| --- | --- | --- | --- | --- |"

_COMMANDS = """\
# Commands

Made by `python -m cdc.cli.reference commands` from what `cdc COMMAND --help` says: do not edit it here.

Every error is one line on stderr that begins with `cdc: ` and says what, where and what to do; what was asked for goes
to stdout.
"""


@dataclass(frozen=True, slots=True)
class Key:
    """One key of the configuration; `name` with its tables before it, `allowed` in words."""

    name: str
    allowed: str
    default: str
    means: str

    @property
    def environment(self) -> str:
        return "CDC_" + "__".join(part.upper() for part in self.name.split("."))


def keys() -> list[Key]:
    """All of them, in the order of the settings."""
    schema = Settings.model_json_schema()
    return list(_keys(schema, schema["$defs"], ""))


def _keys(table: dict[str, Any], definitions: dict[str, Any], prefix: str) -> Iterator[Key]:
    for name, told in table["properties"].items():
        inner = told
        place = f"{prefix}{name}"
        if "patternProperties" in told:
            (inner,) = told["patternProperties"].values()
            place += ".NAME"
        if "$ref" in inner:
            yield from _keys(definitions[inner["$ref"].rpartition("/")[2]], definitions, f"{place}.")
        else:
            default = "required" if name in table.get("required", ()) else _default(told.get("default"))
            yield Key(place, _allowed(told), default, " ".join(told["description"].split()))


def _default(value: object) -> str:
    return "none" if value in (None, [], {}) else f"`{value}`"


def _allowed(told: dict[str, Any]) -> str:
    kinds = {"integer": "whole number", "number": "number", "array": "list of texts", "object": "table of texts"}
    parts = [kinds.get(told.get("type", ""), "text")]
    if "minimum" in told:
        parts.append(f"from {told['minimum']}")
    if "exclusiveMinimum" in told:
        parts.append(f"above {told['exclusiveMinimum']}")
    if told.get("minItems"):
        parts.append("one at least")
    if "pattern" in told:
        parts.append(f"`{told['pattern']}`")
    return ", ".join(parts)


def configuration() -> str:
    """ops/reference/configuration.md."""
    schema = Settings.model_json_schema()
    lines = [_CONFIGURATION]
    table = None
    for key in keys():
        section = key.name.rpartition(".")[0]
        if section != table:
            table = section
            lines += [*_section(schema, section), _HEAD]
        name = key.name.rpartition(".")[2]
        lines.append(f"| `{name}` | `{key.environment}` | {key.allowed} | {key.default} | {key.means} |")
    lines += ["", "## Example", "", "With every key; the short one of the README is enough to begin with.", ""]
    return "\n".join([*lines, "```toml", EXAMPLE + "```"]) + "\n"


def _section(schema: dict[str, Any], section: str) -> list[str]:
    if not section:
        name = schema["properties"]["group"]["pattern"]
        return ["## At the top", "", f"Names of groups and nodes fit `{name}`.", ""]
    told = schema["properties"][section.partition(".")[0]]
    definition = schema["$defs"][told["$ref"].rpartition("/")[2]] if "$ref" in told else told
    means = " ".join(definition.get("description", "").split())
    return ["", f"## `[{section}]`", "", *([means, ""] if means else [])]


def commands() -> str:
    """ops/reference/commands.md."""
    lines = [_COMMANDS, *_paragraphs(cli)]
    for name, command in every_command().items():
        lines += [f"## cdc {name}", "", f"    cdc {name}{_usage(command)}", "", *_paragraphs(command)]
        lines += ["| option | default | meaning |", "| --- | --- | --- |"]
        lines += [_option(option) for option in options(command)]
        lines.append("")
    return "\n".join(lines[:-1]) + "\n"


def options(command: click.Command) -> list[click.Option]:
    return [option for option in command.params if isinstance(option, click.Option)]


def _usage(command: click.Command) -> str:
    needed = [f" {_form(option)}" for option in options(command) if option.required]
    return "".join(needed) + " [OPTIONS]"


def _paragraphs(command: click.Command) -> Iterator[str]:
    """Of its help, each in one line and with an empty one behind it."""
    for paragraph in (command.help or "").split("\n\n"):
        yield from (" ".join(paragraph.split()), "")


def _option(option: click.Option) -> str:
    means, _, written = (option.help or "").partition(" [default: ")
    default = "required" if option.required else written.removesuffix("]")
    if option.show_default:
        default = f"`{option.default}`"
    return f"| `{_form(option).replace('|', chr(92) + '|')}` | {default} | {means}{_range(option.type)} |"


def _form(option: click.Option) -> str:
    kind = option.type
    value = "|".join(kind.choices) if isinstance(kind, click.Choice) else option.metavar or kind.name.split()[0].upper()
    return " ".join([", ".join(option.opts), *([] if option.is_flag else [value])])


def _range(kind: object) -> str:
    if not isinstance(kind, click.IntRange | click.FloatRange):
        return ""
    return f" From {kind.min:g}{f' to {kind.max:g}' if kind.max is not None else ''}."


DOCUMENTS = {"configuration": configuration, "commands": commands}
"""By the name of the file in ops/reference."""

if __name__ == "__main__":
    print(DOCUMENTS[sys.argv[1]](), end="")
