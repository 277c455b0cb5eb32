"""Databases of different encodings: text is converted, and what has no place in the other encoding stops apply."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdc.local import KafkaServer, PostgresServer
from tests.support.pipeline import FOLLOWER, Pipeline, run_sql


@pytest.fixture
def pipeline(
    leader_server: PostgresServer, follower_server: PostgresServer, kafka: KafkaServer, tmp_path: Path
) -> Iterator[Pipeline]:
    """A group whose leader is UTF-8 and whose follower is LATIN1."""
    name = f"encoding_{uuid.uuid4().hex[:8]}"
    for server, encoding in ((leader_server, "UTF8"), (follower_server, "LATIN1")):
        run_sql(server.dsn(), f"CREATE DATABASE {name} TEMPLATE template0 LOCALE 'C' ENCODING '{encoding}'")
    followers = {FOLLOWER: follower_server.dsn(name)}
    with Pipeline(tmp_path, leader_server.dsn(name), followers, kafka.bootstrap_servers) as pipeline:
        for server in (leader_server, follower_server):
            pipeline.on_close(server.drop_database, name)
        yield pipeline


def test_text_is_converted_or_refused(pipeline: Pipeline):
    # Given such a group that runs.
    pipeline.execute('CREATE TABLE "Gerät" (id int PRIMARY KEY, "größe" text)', "INSERT INTO \"Gerät\" VALUES (0, 'ä')")
    pipeline.init().bootstrap().start()

    # When text has a place in both encodings, then it arrives.
    pipeline.execute(
        "INSERT INTO \"Gerät\" SELECT i, 'é' || i FROM generate_series(1, 300) i",
        'UPDATE "Gerät" SET "größe" = \'ÿ\' WHERE id % 2 = 0',
        "INSERT INTO \"Gerät\" VALUES (1000, 'ß')",
    )
    pipeline.catch_up()
    pipeline.assert_equal("public.")

    # When it has not, then apply stops there and does not say the text.
    pipeline.execute("INSERT INTO \"Gerät\" VALUES (2000, '漢字')")
    assert pipeline.ends(f"apply {FOLLOWER}") == 4
    said = pipeline.log_of(f"apply {FOLLOWER}").splitlines()[-1]
    assert "insert on public.Gerät" in said
    assert "untranslatable character (22P05)" in said
    assert "漢" not in said
