-- The role of cdc apply on a follower, for PostgreSQL 14 to 18. Run by a superuser in the follower's database, after
-- cdc bootstrap (which a superuser runs, or the owner of the database); again when tables have joined. Safe to repeat.
--
--   psql -X -d shop -v owner=shop_owner -f ops/roles/follower.sql
--
-- apply     the role of cdc apply, and of cdc lag on this node                           [cdc_apply]
-- owner     the role that makes tables here: it then need not run again when one joins   (may be left out)
--
-- It logs in, and gets no password here: \password cdc_apply
\set ON_ERROR_STOP on
\if :{?apply}
\else
    \set apply cdc_apply
\endif
SELECT current_setting('server_version_num')::int >= 150000 AS has_parameter_rights,
       to_regclass('cdc.position') IS NOT NULL AS is_follower \gset
\if :is_follower
\else
    \warn 'this database is no follower yet: run cdc bootstrap first'
    \quit
\endif
-- Its writes are those of the leader, for people at psql too.
SET default_transaction_read_only = off;

SET client_min_messages = warning;
BEGIN;
SELECT format('CREATE ROLE %I', :'apply')
WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = :'apply') \gexec
ALTER ROLE :"apply" LOGIN;

-- To write tables that are read-only for everybody else, and without firing their triggers.
\if :has_parameter_rights
    GRANT SET ON PARAMETER session_replication_role TO :"apply";
\else
    \warn 'PostgreSQL 14: only a superuser may set session_replication_role'
    ALTER ROLE :"apply" SUPERUSER;
\endif
-- To mark what it writes as replayed.
GRANT EXECUTE ON FUNCTION pg_catalog.pg_replication_origin_create, pg_catalog.pg_replication_origin_oid,
    pg_catalog.pg_replication_origin_session_setup, pg_catalog.pg_replication_origin_xact_setup TO :"apply";
-- Sets of changes come through temporary tables.
GRANT TEMPORARY ON DATABASE :"DBNAME" TO :"apply";

-- The position, and what the log has said of the tables.
GRANT USAGE ON SCHEMA cdc TO :"apply";
GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA cdc TO :"apply";

-- The replicated tables are those that bootstrap, or the applier itself, made read-only. TRIGGER is for a table that
-- joins later, which the applier makes read-only.
SELECT DISTINCT format('GRANT USAGE ON SCHEMA %I TO %I', nspname, :'apply')
FROM pg_catalog.pg_trigger JOIN pg_catalog.pg_class c ON c.oid = tgrelid
JOIN pg_catalog.pg_namespace n ON n.oid = relnamespace WHERE tgname = 'cdc_read_only' AND nspname <> 'cdc' \gexec
SELECT format('GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE, TRIGGER ON %I.%I TO %I', nspname, relname, :'apply')
FROM pg_catalog.pg_trigger JOIN pg_catalog.pg_class c ON c.oid = tgrelid
JOIN pg_catalog.pg_namespace n ON n.oid = relnamespace WHERE tgname = 'cdc_read_only' AND nspname <> 'cdc' \gexec
\if :{?owner}
    SELECT DISTINCT format('ALTER DEFAULT PRIVILEGES FOR ROLE %I IN SCHEMA %I '
        'GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE, TRIGGER ON TABLES TO %I', :'owner', nspname, :'apply')
    FROM pg_catalog.pg_trigger JOIN pg_catalog.pg_class c ON c.oid = tgrelid
    JOIN pg_catalog.pg_namespace n ON n.oid = relnamespace WHERE tgname = 'cdc_read_only' AND nspname <> 'cdc' \gexec
\endif
-- Policies that came with the leader's schema are not for its changes.
SELECT format('ALTER ROLE %I BYPASSRLS', :'apply')
WHERE EXISTS (SELECT FROM pg_catalog.pg_class WHERE relrowsecurity) \gexec
COMMIT;
