-- Roles of the leader, for PostgreSQL 14 to 18. Run by a superuser in the leader's database; safe to repeat.
--
--   psql -X -d shop -v owner=shop_owner -f ops/roles/leader.sql
--
-- capture   the role of cdc capture, cdc lag, and of the leader's end of cdc bootstrap   [cdc_capture]
-- admin     the role that runs cdc init                                                  [cdc_admin]
-- owner     the role that owns the published tables; run it once for each owner          (needed)
--
-- Both log in, and neither gets a password here: \password cdc_capture
\set ON_ERROR_STOP on
\if :{?owner}
\else
    \warn 'name the role that owns the published tables: -v owner=NAME'
    \quit
\endif
\if :{?capture}
\else
    \set capture cdc_capture
\endif
\if :{?admin}
\else
    \set admin cdc_admin
\endif

SET client_min_messages = warning;
BEGIN;
SELECT format('CREATE ROLE %I', name) FROM unnest(ARRAY[:'capture', :'admin']) AS name
WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = name) \gexec

-- To read the slot. What comes through it is not subject to privileges on tables.
ALTER ROLE :"capture" LOGIN REPLICATION;
-- To copy tables and dump their definitions for a new follower, those that join later included, and to read
-- cdc.identity. A leader whose followers are all there can do without: GRANT USAGE ON SCHEMA cdc, SELECT ON cdc.identity.
GRANT pg_read_all_data TO :"capture";
-- For cdc lag: how far capture is, which pg_stat_replication shows to nobody else.
GRANT pg_read_all_stats TO :"capture";
-- Rows that a policy hides would be missing on the follower; the copy refuses to begin without this right.
SELECT format('ALTER ROLE %I BYPASSRLS', :'capture')
WHERE EXISTS (SELECT FROM pg_catalog.pg_class WHERE relrowsecurity) \gexec

-- To make the slot; the schema cdc and the publication; and to publish tables, which only their owner may.
ALTER ROLE :"admin" LOGIN REPLICATION;
GRANT CREATE ON DATABASE :"DBNAME" TO :"admin";
GRANT :"owner" TO :"admin";
COMMIT;
