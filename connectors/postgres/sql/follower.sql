-- Bookkeeping on a follower. Everything here can be run again.
-- For whoever runs it at psql: a follower's database is read-only by default.
SET default_transaction_read_only = off;
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
ALTER TABLE cdc.bootstrap ADD COLUMN IF NOT EXISTS run text NOT NULL DEFAULT '';
ALTER TABLE cdc.bootstrap ADD COLUMN IF NOT EXISTS schema_choice text NOT NULL DEFAULT 'copy';
COMMENT ON TABLE cdc.bootstrap IS 'Says that this database was empty when the copy began, and whether it ended.';
COMMENT ON COLUMN cdc.bootstrap.run IS 'Which copy it is: a later one has another snapshot of the leader.';

CREATE TABLE IF NOT EXISTS cdc.bootstrap_part (
    run text NOT NULL,
    part text NOT NULL,
    rows bigint NOT NULL DEFAULT 0,
    done_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (run, part)
);
COMMENT ON TABLE cdc.bootstrap_part IS
    'What a copy that has not ended has done, committed together with its rows: it is not done twice.';

CREATE TABLE IF NOT EXISTS cdc.copied_ahead (
    log text NOT NULL,
    schema_name text NOT NULL,
    table_name text NOT NULL,
    epoch bigint NOT NULL,
    from_lsn pg_lsn NOT NULL,
    PRIMARY KEY (log, schema_name, table_name)
);
COMMENT ON TABLE cdc.copied_ahead IS
    'Tables whose rows are newer than the position: the applier leaves out what was committed before that.';

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
    'What operators decided about this follower: skip (it has diverged since), overwrite (allowed by the configuration), '
    'copy (of tables, anew).';

CREATE TABLE IF NOT EXISTS cdc.blocked (
    log text PRIMARY KEY,
    since timestamptz NOT NULL DEFAULT clock_timestamp(),
    problem text
);
COMMENT ON TABLE cdc.blocked IS 'Why the applier cannot go on; NULL again with the next transaction that it commits.';

CREATE TABLE IF NOT EXISTS cdc.epoch_end (
    log text NOT NULL,
    epoch bigint NOT NULL,
    end_lsn pg_lsn NOT NULL,
    PRIMARY KEY (log, epoch)
);
COMMENT ON TABLE cdc.epoch_end IS
    'How far an epoch that is over was carried over: what its leader committed after that is not in the log.';

GRANT USAGE ON SCHEMA cdc TO PUBLIC;
GRANT SELECT ON cdc.position, cdc.bootstrap, cdc.copied_ahead, cdc.decision, cdc.blocked, cdc.epoch_end TO PUBLIC;

CREATE OR REPLACE FUNCTION cdc.refuse_write() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'table %.% is read-only: this database is a follower', TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'read_only_sql_transaction',
              HINT = 'Write to the leader.';
END
$$;
COMMENT ON FUNCTION cdc.refuse_write() IS
    'Fires for everybody but sessions with session_replication_role = replica, which a normal role may not set.';

CREATE OR REPLACE FUNCTION cdc.wait_for(token text, timeout interval DEFAULT '10 s') RETURNS boolean
LANGUAGE plpgsql VOLATILE STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    parts text[] := regexp_match(token, '^(?:(\d{1,18})/)?([0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8})$');
    wanted_epoch bigint := parts[1]::bigint;
    wanted_lsn pg_lsn := parts[2]::pg_lsn;
    deadline timestamptz := clock_timestamp() + timeout;
    pause double precision := 0.002;
    follows text;
    at_epoch bigint;
    at_lsn pg_lsn;
    ended_at pg_lsn;
BEGIN
    IF parts IS NULL THEN
        RAISE EXCEPTION 'neither a token (EPOCH/LSN) nor an LSN'
            USING ERRCODE = 'invalid_parameter_value', HINT = 'The command cdc token prints one.';
    END IF;
    -- In READ COMMITTED each statement in here sees what is committed when it begins, and so does the one that follows
    -- this function. Elsewhere the whole transaction has one snapshot, and waiting would show nothing new.
    IF current_setting('transaction_isolation') IN ('repeatable read', 'serializable') THEN
        RAISE EXCEPTION 'cdc.wait_for would see nothing new in a % transaction', current_setting('transaction_isolation')
            USING ERRCODE = 'active_sql_transaction', HINT = 'Call it in READ COMMITTED, before that one begins.';
    END IF;
    IF (SELECT count(*) FROM cdc.position) <> 1 THEN
        RAISE EXCEPTION 'this database follows no log, or more than one'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    LOOP
        SELECT log, epoch, end_lsn INTO follows, at_epoch, at_lsn FROM cdc.position;
        wanted_epoch := coalesce(parts[1]::bigint, at_epoch);
        IF at_epoch = wanted_epoch AND at_lsn >= wanted_lsn THEN
            RETURN true;
        END IF;
        IF at_epoch > wanted_epoch THEN
            SELECT end_lsn INTO ended_at FROM cdc.epoch_end e WHERE e.log = follows AND e.epoch = wanted_epoch;
            IF ended_at >= wanted_lsn THEN
                RETURN true;
            END IF;
            RAISE EXCEPTION 'epoch % is over, and % of it is not known to have been carried over', wanted_epoch, wanted_lsn
                USING ERRCODE = 'CDC01', HINT = 'Look on the leader whether the write is there, and take a new token.';
        END IF;
        IF has_column_privilege(to_regclass('cdc.identity')::oid, 'epoch', 'SELECT') THEN
            PERFORM FROM cdc.identity i WHERE i.topic = follows AND i.epoch = wanted_epoch;
            IF FOUND THEN
                RETURN true;  -- This node leads that epoch: it shows all that was written here.
            END IF;
        END IF;
        IF clock_timestamp() >= deadline THEN
            RETURN false;
        END IF;
        PERFORM pg_sleep(least(pause, extract(epoch FROM deadline - clock_timestamp())));
        pause := least(pause * 1.5, 0.1);
    END LOOP;
END
$$;
COMMENT ON FUNCTION cdc.wait_for(text, interval) IS
    'Waits until this database shows all that the leader had committed at a token; false when the time is over.';

CREATE OR REPLACE FUNCTION cdc.wait_for(lsn pg_lsn, timeout interval DEFAULT '10 s') RETURNS boolean
LANGUAGE sql VOLATILE STRICT SET search_path = pg_catalog, pg_temp AS $$ SELECT cdc.wait_for(lsn::text, timeout) $$;
COMMENT ON FUNCTION cdc.wait_for(pg_lsn, interval) IS
    'The same by an LSN of the node that leads now. Across a promotion only a token tells one leader''s from another''s.';
