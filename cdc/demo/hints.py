"""What to try with a group that was left running."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cdc.demo.servers import FOLLOWERS, LEADER, NODES, Servers
from cdc.local.group import Group

_INSERT = "\"INSERT INTO coupons VALUES ('MINE', 5, 'none')\""
_SELECT = "\"SELECT * FROM coupons WHERE code = 'MINE'\""


def print_hints(group: Group, servers: Servers, *, to_stderr: bool) -> None:
    """DSNs hold the passwords of these servers, which live until Ctrl-C."""
    cdc, psql = _cdc(), servers.postgres[LEADER].bin_dir / "psql"
    follower = FOLLOWERS[0]
    lines = [
        "",
        "Everything is left running until Ctrl-C.",
        "",
        f"configuration   {group.config}",
        f"logs            {group.config.parent}/*.log",
        f"Kafka           {servers.kafka.bootstrap_servers}, topic {group.topic}",
        *(f"{name:<15} {servers.dsn(name)}" for name in NODES),
        "",
        "In another terminal:",
        f"  export CDC_CONFIG={group.config}",
        f"  {cdc} lag",
        f"  {cdc} tail",
        "",
        "  # write to the leader, read it on a follower",
        f"  {psql} '{servers.dsn(LEADER)}' -c {_INSERT}",
        f"  {psql} '{servers.dsn(follower)}' -c {_SELECT}",
        "",
        "  # a follower refuses it, also when its role turns default_transaction_read_only off",
        f"  {psql} '{servers.clerk_dsn(follower)}' -c 'SET default_transaction_read_only = off' -c {_INSERT}",
    ]
    for line in lines:
        click.echo(line, err=to_stderr)


def _cdc() -> str:
    """How to call ourselves from any folder."""
    command = Path(sys.executable).with_name("cdc")
    return str(command) if command.exists() else f"{sys.executable} -m cdc"
