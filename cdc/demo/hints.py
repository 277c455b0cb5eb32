"""What to try with a group that was left running."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from cdc.demo.servers import FOLLOWERS, NODES, Servers
from cdc.local.group import Group

_INSERT = "\"INSERT INTO coupons VALUES ('MINE', 5, 'none')\""
_SELECT = "\"SELECT * FROM coupons WHERE code = 'MINE'\""


def print_hints(group: Group, servers: Servers, leader: str, *, to_stderr: bool) -> None:
    """DSNs hold the passwords of these servers, which live until Ctrl-C."""
    follower = FOLLOWERS[-1]
    path = f"{Path(sys.executable).parent}:{servers.postgres[leader].bin_dir}:$PATH"
    lines = [
        "",
        "Everything is left running until Ctrl-C.",
        "",
        f"configuration   {group.config}",
        f"logs            {group.config.parent}/*.log",
        f"Kafka           {servers.kafka.bootstrap_servers}, topic {group.topic}",
        *(f"{name:<15} {servers.dsn(name)}" for name in NODES),
        "",
        "To try in another terminal:",
        "",
        f"  export CDC_CONFIG={group.config} PATH={path}",
        "  cdc lag",
        "  cdc tail",
        "",
        "  # what is written to the leader is there on a follower",
        f"  psql {servers.dsn(leader)} -c {_INSERT}",
        f"  psql {servers.dsn(follower)} -c {_SELECT}",
        "",
        "  # a follower refuses writes, also when a role turns default_transaction_read_only off",
        f"  psql {servers.clerk_dsn(follower)} -c 'SET default_transaction_read_only = off' -c {_INSERT}",
        "",
        "  # kill a daemon, write, start it again, see the lag come and go",
        "  pkill -9 -f 'cdc apply --follower ap-south'",
        "  cdc apply --follower ap-south",
        "",
    ]
    for line in lines:
        click.echo(line, err=to_stderr)
