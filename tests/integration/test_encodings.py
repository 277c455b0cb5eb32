"""Databases of different encodings: text is converted, and what has no place in the other encoding stops apply."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdc.local import KafkaServer, PostgresServer
from tests.support.pipeline import FOLLOWER, Pipeline, rows_of, run_sql


@pytest.fixture
def encodings() -> tuple[str, str]:
    """Of the leader and of the follower."""
    return "UTF8", "LATIN1"


@pytest.fixture
def pipeline(
    leader_server: PostgresServer,
    follower_server: PostgresServer,
    kafka: KafkaServer,
    tmp_path: Path,
    encodings: tuple[str, str],
) -> Iterator[Pipeline]:
    """A group of databases with these encodings."""
    name = f"encoding_{uuid.uuid4().hex[:8]}"
    for server, encoding in zip((leader_server, follower_server), encodings, strict=True):
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
    assert "untranslatable character (22P05" in said
    assert "漢" not in said


@pytest.mark.parametrize("encodings", [("SQL_ASCII", "UTF8"), ("SQL_ASCII", "SQL_ASCII")], ids="-".join)
def test_bytes_of_no_encoding_stop_capture(pipeline: Pipeline, encodings: tuple[str, str], postgres_version: int):
    # Given a leader that does not know the encoding of its text.
    pipeline.execute("CREATE TABLE t (id int PRIMARY KEY, v text)", "INSERT INTO t VALUES (0, 'plain')")
    pipeline.init().bootstrap().start()

    # When its text is UTF-8, then it arrives.
    pipeline.execute(
        "INSERT INTO t SELECT i, 'é🐘' FROM generate_series(1, 300) i",
        "UPDATE t SET v = v || id",
        settings="-c client_encoding=UTF8",
    )
    pipeline.catch_up()
    digest = "SELECT count(*), hashtext(string_agg(v, '' ORDER BY id)) FROM t"
    assert rows_of(pipeline.followers[FOLLOWER], digest) == rows_of(pipeline.leader, digest)

    # When it is not, then capture stops there, and says where and what to do, and not the text.
    pipeline.execute(r"INSERT INTO t VALUES (1000, E'secret \xe9')")
    assert pipeline.ends("capture") == 4
    said = pipeline.log_of("capture").splitlines()[-1]
    assert "text that is not UTF-8" in said
    assert "start a new group" in said
    assert "secret" not in pipeline.log_of("capture")
