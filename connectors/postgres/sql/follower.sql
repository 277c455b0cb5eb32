-- Bookkeeping on a follower. Everything here can be run again.
CREATE SCHEMA IF NOT EXISTS cdc;

CREATE TABLE IF NOT EXISTS cdc.position (
    log text PRIMARY KEY,
    epoch bigint NOT NULL,
    commit_lsn pg_lsn NOT NULL,
    end_lsn pg_lsn NOT NULL,
    committed_at timestamptz NOT NULL,
    next_offset bigint NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    leader text NOT NULL DEFAULT ''
);
ALTER TABLE cdc.position ADD COLUMN IF NOT EXISTS leader text NOT NULL DEFAULT '';
COMMENT ON TABLE cdc.position IS
    'The newest leader transaction in this database, stored in the same transaction as its rows.';
COMMENT ON COLUMN cdc.position.committed_at IS 'When the leader committed it (the leader''s clock).';
COMMENT ON COLUMN cdc.position.next_offset IS 'Kafka offset to read next: a hint that is checked.';

COMMENT ON COLUMN cdc.position.leader IS 'Which node led then; this node itself: it is to lead, and takes no changes.';

CREATE TABLE IF NOT EXISTS cdc.sequence (
    log text NOT NULL,
    schema_name text NOT NULL,
    sequence_name text NOT NULL,
    last_value bigint NOT NULL,
    PRIMARY KEY (log, schema_name, sequence_name)
);
COMMENT ON TABLE cdc.sequence IS 'The leader''s sequences as the log last told them; a promotion goes on from there.';

CREATE TABLE IF NOT EXISTS cdc.fence (
    log text PRIMARY KEY,
    promotion text NOT NULL,
    fenced_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    fence_lsn pg_lsn
);
COMMENT ON TABLE cdc.fence IS 'A promotion has closed this leader for writes; gone when it follows, or leads on.';

CREATE TABLE IF NOT EXISTS cdc.promotion (
    promotion text PRIMARY KEY,
    log text NOT NULL,
    epoch bigint NOT NULL,
    old_leader text NOT NULL,
    mode text NOT NULL,
    started_by text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    ended_at timestamptz,
    outcome text,
    report jsonb NOT NULL DEFAULT '{}'
);
COMMENT ON TABLE cdc.promotion IS 'Promotions of this node: how far each came, for whoever continues it.';

CREATE TABLE IF NOT EXISTS cdc.relation (
    log text NOT NULL,
    fingerprint text NOT NULL,
    description jsonb NOT NULL,
    PRIMARY KEY (log, fingerprint)
);
COMMENT ON TABLE cdc.relation IS 'Shapes of the leader''s tables that the log has described so far.';

CREATE TABLE IF NOT EXISTS cdc.bootstrap (
    log text PRIMARY KEY,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz
);
COMMENT ON TABLE cdc.bootstrap IS 'Says that this database was empty when the copy began, and whether it ended.';

CREATE TABLE IF NOT EXISTS cdc.decision (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    log text NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    action text NOT NULL,
    reason text NOT NULL,
    os_user text NOT NULL,
    role text NOT NULL DEFAULT session_user,
    epoch bigint NOT NULL,
    commit_lsn pg_lsn NOT NULL,
    tables text[] NOT NULL,
    events bigint NOT NULL,
    file text
);
COMMENT ON TABLE cdc.decision IS
    'What operators decided about this follower: skip (it has diverged since), overwrite (allowed by the configuration).';

CREATE TABLE IF NOT EXISTS cdc.blocked (
    log text PRIMARY KEY,
    since timestamptz NOT NULL DEFAULT clock_timestamp(),
    problem text
);
COMMENT ON TABLE cdc.blocked IS 'Why the applier cannot go on; NULL again with the next transaction that it commits.';

GRANT USAGE ON SCHEMA cdc TO PUBLIC;
GRANT SELECT ON cdc.position, cdc.bootstrap, cdc.decision, cdc.blocked TO PUBLIC;

CREATE OR REPLACE FUNCTION cdc.refuse_write() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'table %.% is read-only: this database is a follower', TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'read_only_sql_transaction',
              HINT = 'Write to the leader.';
END
$$;
COMMENT ON FUNCTION cdc.refuse_write() IS
    'Fires for everybody but sessions with session_replication_role = replica, which a normal role may not set.';
