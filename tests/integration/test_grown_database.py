"""A leader with what databases have besides tables: bootstrap takes it along, and is not disturbed by it."""

from __future__ import annotations

import signal

import pytest

from tests.fixtures.pipeline import Pipelines
from tests.support.pipeline import FOLLOWER, rows_of, run_sql

DDL = """
CREATE TABLE ddl_note (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tag text);
CREATE FUNCTION note_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO public.ddl_note (tag) VALUES (tg_tag);
END $$;
CREATE EVENT TRIGGER note_ddl ON ddl_command_end EXECUTE FUNCTION note_ddl();
CREATE EVENT TRIGGER note_drop ON sql_drop EXECUTE FUNCTION note_ddl();

CREATE TABLE owned_row (id int PRIMARY KEY, who text);
ALTER TABLE owned_row ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY own ON owned_row USING (who = current_user);
INSERT INTO owned_row VALUES (1, 'x'), (2, 'y');

CREATE TABLE old_rule (id int PRIMARY KEY, n int);
INSERT INTO old_rule VALUES (1, -1);
ALTER TABLE old_rule ADD CONSTRAINT positive CHECK (n > 0) NOT VALID;
CREATE TABLE orphan (id int PRIMARY KEY, parent int);
INSERT INTO orphan VALUES (1, 99);
ALTER TABLE orphan ADD FOREIGN KEY (parent) REFERENCES old_rule NOT VALID;

CREATE TABLE hen (id int PRIMARY KEY, egg int);
CREATE TABLE egg (id int PRIMARY KEY, hen int REFERENCES hen);
ALTER TABLE hen ADD FOREIGN KEY (egg) REFERENCES egg;
INSERT INTO hen VALUES (1, NULL);
INSERT INTO egg VALUES (1, 1);
UPDATE hen SET egg = 1;

CREATE TABLE document (
    id int PRIMARY KEY, body jsonb, title text COLLATE "C", name text GENERATED ALWAYS AS (title) STORED
);
CREATE INDEX ON document USING gin (body);
CREATE UNIQUE INDEX ON document (lower(title)) WHERE id > 0;
CREATE STATISTICS document_facts ON id, title FROM document;
INSERT INTO document SELECT i, jsonb_build_object('i', i), 'T' || i FROM generate_series(1, 300) i;

CREATE FUNCTION documents() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM document; END;
CREATE VIEW document_list AS SELECT id, title FROM document;
CREATE MATERIALIZED VIEW document_count AS SELECT count(*) FROM document;
CREATE RULE no_delete AS ON DELETE TO document_list DO INSTEAD NOTHING;
CREATE UNLOGGED TABLE scratch (id int PRIMARY KEY);
CREATE SEQUENCE loose START 100;
CREATE PUBLICATION of_others FOR TABLE document;
CREATE SCHEMA private CREATE TABLE unpublished (id int PRIMARY KEY);
"""


def test_bootstrap_and_apply_go_on_beside_everything_else_in_a_database(
    pipelines: Pipelines, postgres_version: int, monkeypatch: pytest.MonkeyPatch
):
    # Given such a leader, and a first copy that was killed when all was there but the position.
    pipeline = pipelines.new(DDL, version=postgres_version).init()
    with monkeypatch.context() as patch:
        patch.setenv("CDC_FAILPOINT", "bootstrap.before_position")
        assert pipeline.group.run("bootstrap", "--follower", FOLLOWER).returncode == -signal.SIGKILL

    # When the copy is repeated, a column is added on both sides as apply would say, and the leader is written to.
    pipeline.bootstrap().start()
    follower, column = pipeline.followers[FOLLOWER], "ALTER TABLE hen ADD COLUMN name text"
    run_sql(follower, "SET default_transaction_read_only = off", "SET session_replication_role = replica", column)
    pipeline.execute(
        column,
        "INSERT INTO hen VALUES (2, 1, 'Berta')",
        "INSERT INTO owned_row VALUES (3, 'z')",
        "UPDATE owned_row SET who = 'nobody'",
        "DELETE FROM orphan",
        "UPDATE hen SET egg = NULL; DELETE FROM egg; DELETE FROM hen WHERE id = 1",
        "UPDATE document SET title = 'U' || id WHERE id % 2 = 0",
        "DELETE FROM document WHERE id % 3 = 0",
        "CREATE INDEX ON document (title)",
    )
    pipeline.catch_up()

    # Then the follower has the same rows, the schema with all that belongs to it, and nothing that is not published.
    published = rows_of(
        pipeline.leader, f"SELECT tablename FROM pg_publication_tables WHERE pubname = '{pipeline.group.slot}'"
    )
    assert len(published) == 7
    for (table,) in published:
        pipeline.assert_equal(f"public.{table}")
    assert rows_of(follower, "SELECT count(*) FROM document_list") == rows_of(follower, "SELECT documents()")
    assert rows_of(follower, "SELECT count(*) FROM pg_publication") == [(0,)]
    assert rows_of(follower, "SELECT count(*) FROM private.unpublished") == [(0,)]
