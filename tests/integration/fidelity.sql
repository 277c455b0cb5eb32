-- What a leader does to its rows; test_fidelity.py runs it and compares the followers.
-- "case NAME" begins a case: the statements that make its tables, whose names begin with NAME. Each "transaction" is one.
-- "from" and "until" name the first and last version of PostgreSQL that can do it.
-- :n is the number of rows, :schema where the tables are. noise(seed, pieces) is text of 32 bytes a piece that does not compress.

-- case null_or_empty
CREATE TABLE null_or_empty (id int PRIMARY KEY, a text, b bytea, c char(3), d varchar(3)[]);
-- transaction
INSERT INTO null_or_empty
SELECT i, CASE i % 2 WHEN 0 THEN '' END, CASE i % 2 WHEN 1 THEN ''::bytea END, CASE i % 3 WHEN 0 THEN '' END,
       CASE i % 2 WHEN 1 THEN '{}'::varchar[] END
FROM generate_series(1, :n) i;
-- transaction
UPDATE null_or_empty SET a = CASE WHEN a IS NULL THEN '' END, b = CASE WHEN b IS NULL THEN ''::bytea END;
-- transaction
INSERT INTO null_or_empty (id) SELECT -i FROM generate_series(1, :n) i;

-- case net
CREATE TABLE net (id int PRIMARY KEY, v text, w text);
-- transaction
INSERT INTO net SELECT i, 'a' || i, 'w' FROM generate_series(1, :n) i;
-- transaction
UPDATE net SET v = 'b';
UPDATE net SET w = v || id;
DELETE FROM net WHERE id % 3 = 0;
INSERT INTO net SELECT i, 'again', 'x' FROM generate_series(3, :n, 3) i;
UPDATE net SET v = 'c' WHERE id % 2 = 0;
DELETE FROM net WHERE id % 5 = 0;
-- transaction
INSERT INTO net SELECT i, 'short', '' FROM generate_series(1001, 1000 + :n) i;
DELETE FROM net WHERE id > 1000;
-- transaction
UPDATE net SET id = id + 5000 WHERE id % 2 = 0;
UPDATE net SET id = id - 5000, v = 'back' WHERE id > 5000;
-- transaction
UPDATE net SET id = -id;
INSERT INTO net SELECT -id, 'new', w FROM net WHERE id % 4 = 0;
UPDATE net SET w = 'z';

-- case shifted_key
CREATE TABLE shifted_key (id int PRIMARY KEY, v int);
-- transaction
INSERT INTO shifted_key SELECT i, i FROM generate_series(:n, 1, -1) i;
-- transaction
DO $$ BEGIN
    FOR k IN REVERSE :n..1 LOOP UPDATE shifted_key SET id = id + 1 WHERE id = k; END LOOP;
END $$;
-- transaction
DELETE FROM shifted_key WHERE id = 3;
DO $$ BEGIN
    FOR k IN 4..:n LOOP UPDATE shifted_key SET id = id - 1, v = -v WHERE id = k; END LOOP;
END $$;

-- case equal_keys
-- Texts of keys that are equal to PostgreSQL and differ in text.
CREATE TABLE equal_keys (id numeric PRIMARY KEY, v int);
CREATE TABLE equal_keys_text (id citext PRIMARY KEY, v int);
CREATE TABLE equal_keys_float (id float8 PRIMARY KEY, v int);
-- transaction
INSERT INTO equal_keys SELECT i, i FROM generate_series(1, :n) i;
INSERT INTO equal_keys_text SELECT 'key' || i, i FROM generate_series(1, :n) i;
INSERT INTO equal_keys_float SELECT i - 1, i FROM generate_series(1, :n) i;
-- transaction
UPDATE equal_keys SET id = id + 0.00;
UPDATE equal_keys SET v = -v;
UPDATE equal_keys_text SET id = upper(id::text);
UPDATE equal_keys_text SET v = -v;
UPDATE equal_keys_float SET id = '-0' WHERE id = 0;
-- transaction
DELETE FROM equal_keys;
INSERT INTO equal_keys SELECT i + 0.0, i FROM generate_series(1, :n) i;
DELETE FROM equal_keys_text WHERE v % 2 = 0;
INSERT INTO equal_keys_text SELECT 'Key' || i, i FROM generate_series(2, :n, 2) i;
DELETE FROM equal_keys_float WHERE id = 0;
INSERT INTO equal_keys_float VALUES (0, 7);
-- transaction
UPDATE equal_keys SET v = v + 1;
UPDATE equal_keys_text SET v = v + 1;
UPDATE equal_keys_float SET v = v + 1;

-- case toast
CREATE TABLE toast (id int PRIMARY KEY, big text, doc jsonb, bin bytea, small int DEFAULT 0);
ALTER TABLE toast ALTER big SET STORAGE EXTERNAL, ALTER doc SET STORAGE EXTERNAL;
-- transaction
INSERT INTO toast
SELECT i, noise('a' || i, 150), jsonb_build_object('x', noise('b' || i, 100)), decode(noise('c' || i, 200), 'hex')
FROM generate_series(1, :n) i;
-- transaction
UPDATE toast SET small = id;
-- transaction
UPDATE toast SET big = CASE id % 2 WHEN 0 THEN big ELSE 'short' || id END, small = -id;
-- transaction
UPDATE toast SET big = noise('d' || id, 170) WHERE id % 3 = 0;
UPDATE toast SET small = small + 1;
UPDATE toast SET doc = '{"now": "small"}' WHERE id % 4 = 0;
UPDATE toast SET bin = NULL WHERE id % 7 = 0;
UPDATE toast SET small = small * 2;
-- transaction
INSERT INTO toast
SELECT i, noise('a' || i, 150), jsonb_build_object('x', noise('b' || i, 100)), decode(noise('c' || i, 200), 'hex')
FROM generate_series(1001, 1000 + :n) i;
UPDATE toast SET small = 7 WHERE id > 1000;
UPDATE toast SET bin = 'b' WHERE id > 1000;
-- transaction
UPDATE toast SET small = 8 WHERE id % 2 = 1;
DELETE FROM toast WHERE id % 5 = 0;

-- case moved_toast
CREATE TABLE moved_toast (id int PRIMARY KEY, big text, small int DEFAULT 0, other text);
ALTER TABLE moved_toast ALTER big SET STORAGE EXTERNAL;
-- transaction
INSERT INTO moved_toast SELECT i, noise('a' || i, 150), i, noise('b' || i, 150) FROM generate_series(1, :n) i;
-- transaction
UPDATE moved_toast SET id = id + 1000;
-- transaction
UPDATE moved_toast SET id = id + 1000, small = 5, big = CASE id % 2 WHEN 0 THEN big ELSE 'changed' END;
-- transaction
INSERT INTO moved_toast SELECT i, noise('c' || i, 150), i, 'o' FROM generate_series(1, :n) i;
UPDATE moved_toast SET id = -id WHERE id < 1000;
UPDATE moved_toast SET small = 9;
-- transaction
UPDATE moved_toast SET small = 10;
UPDATE moved_toast SET id = id + 1000 WHERE id > 1000;
UPDATE moved_toast SET other = 'now small' WHERE id % 3 = 0;

-- case long_key
CREATE TABLE long_key (id text PRIMARY KEY, v int);
-- transaction
INSERT INTO long_key SELECT noise(i::text, 70), i FROM generate_series(1, :n) i;
-- transaction
UPDATE long_key SET v = -v;
-- transaction
UPDATE long_key SET id = id || 'x' WHERE v % 2 = 0;
-- transaction
DELETE FROM long_key WHERE v % 3 = 0;

-- case full_toast
CREATE TABLE full_toast (id int, big text, small int);
ALTER TABLE full_toast ALTER big SET STORAGE EXTERNAL, REPLICA IDENTITY FULL;
CREATE TABLE full_toast_key (id int PRIMARY KEY, big text, small int);
ALTER TABLE full_toast_key ALTER big SET STORAGE EXTERNAL, REPLICA IDENTITY FULL;
-- transaction
INSERT INTO full_toast SELECT i, noise('a' || i, 100), 0 FROM generate_series(1, :n) i;
INSERT INTO full_toast_key SELECT i, noise('a' || i, 100), 0 FROM generate_series(1, :n) i;
-- transaction
UPDATE full_toast SET small = id;
UPDATE full_toast_key SET small = id;
-- transaction
UPDATE full_toast SET id = id + 1000;
UPDATE full_toast_key SET id = id + 1000 WHERE id % 2 = 0;
-- transaction
DELETE FROM full_toast WHERE id % 3 = 0;
DELETE FROM full_toast_key WHERE id % 3 = 0;

-- case duplicates
CREATE TABLE duplicates (a int, b text);
ALTER TABLE duplicates REPLICA IDENTITY FULL;
-- transaction
INSERT INTO duplicates SELECT i % 3, CASE i % 2 WHEN 0 THEN 'x' END FROM generate_series(1, :n) i;
-- transaction
UPDATE duplicates SET a = 7 WHERE ctid = (SELECT min(ctid) FROM duplicates);
-- transaction
DELETE FROM duplicates WHERE ctid = (SELECT max(ctid) FROM duplicates);
-- transaction
UPDATE duplicates SET b = 'all' WHERE a = 1;
-- transaction
INSERT INTO duplicates SELECT 1, 'all' FROM generate_series(1, :n);
DELETE FROM duplicates WHERE ctid IN (SELECT ctid FROM duplicates WHERE a = 1 LIMIT 2);

-- case by_index
CREATE TABLE by_index (id int PRIMARY KEY, a int NOT NULL, b text NOT NULL, v text);
CREATE UNIQUE INDEX by_index_ba ON by_index (b, a);
ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_ba;
CREATE TABLE by_index_only (v text, k text NOT NULL, w bool);
CREATE UNIQUE INDEX by_index_only_k ON by_index_only (k) INCLUDE (v);
ALTER TABLE by_index_only REPLICA IDENTITY USING INDEX by_index_only_k;
-- transaction
INSERT INTO by_index SELECT i, i, 'b' || i, 'v' FROM generate_series(1, :n) i;
INSERT INTO by_index_only SELECT 'v', 'k' || i FROM generate_series(1, :n) i;
-- transaction
UPDATE by_index SET v = 'w' || id;
UPDATE by_index_only SET v = 'w';
-- transaction
UPDATE by_index SET id = -id;
UPDATE by_index_only SET k = 'x' || k;
-- transaction
UPDATE by_index SET a = a + 1000, v = NULL WHERE a % 2 = 0;
DELETE FROM by_index_only WHERE k LIKE '%2';
-- transaction
DELETE FROM by_index WHERE a % 3 = 0;

-- case no_key
CREATE TABLE no_key (a int, b text);
ALTER TABLE no_key REPLICA IDENTITY FULL;
-- transaction
INSERT INTO no_key SELECT i % 2, 'same' FROM generate_series(1, :n) i;
-- transaction
ALTER TABLE no_key REPLICA IDENTITY NOTHING;
INSERT INTO no_key SELECT i % 2, 'same' FROM generate_series(1, :n) i;
-- transaction
INSERT INTO no_key VALUES (1, NULL), (NULL, '');
INSERT INTO no_key SELECT 1, 'x' FROM generate_series(1, :n);

-- case no_column
CREATE TABLE no_column ();
ALTER TABLE no_column REPLICA IDENTITY FULL;
-- transaction
INSERT INTO no_column DEFAULT VALUES;
-- transaction
INSERT INTO no_column SELECT FROM generate_series(1, :n);

-- case truncate
CREATE TABLE truncate_a (id serial PRIMARY KEY, v text);
CREATE TABLE truncate_b (id int PRIMARY KEY, a int REFERENCES truncate_a);
CREATE TABLE truncate_c (id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, v text);
-- transaction
INSERT INTO truncate_a (v) SELECT 'v' FROM generate_series(1, :n);
INSERT INTO truncate_b SELECT id, id FROM truncate_a;
INSERT INTO truncate_c (v) SELECT 'c' FROM generate_series(1, :n);
-- transaction
TRUNCATE truncate_c;
-- transaction
INSERT INTO truncate_c (v) SELECT 'gone' FROM generate_series(1, :n);
UPDATE truncate_a SET v = 'gone';
TRUNCATE truncate_a, truncate_c RESTART IDENTITY CASCADE;
INSERT INTO truncate_a (v) SELECT 'stays' FROM generate_series(1, :n);
DELETE FROM truncate_a WHERE id = 2;
-- transaction
INSERT INTO truncate_b SELECT id, id FROM truncate_a;
TRUNCATE truncate_b;
INSERT INTO truncate_b SELECT id, id FROM truncate_a WHERE id < 4;
TRUNCATE truncate_c;
INSERT INTO truncate_c (v) VALUES ('last');

-- case swap
CREATE TABLE swap (id int PRIMARY KEY, u int UNIQUE, v text);
CREATE TABLE swap_later (id int PRIMARY KEY, u int UNIQUE DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE swap_range (id int PRIMARY KEY, r int4range, EXCLUDE USING gist (r WITH &&));
CREATE TABLE swap_part (id int PRIMARY KEY, u text, gone boolean);
CREATE UNIQUE INDEX ON swap_part (lower(u)) WHERE NOT gone;
-- transaction
INSERT INTO swap SELECT i, i, 'v' FROM generate_series(1, :n) i;
INSERT INTO swap_later SELECT i, i FROM generate_series(1, :n) i;
INSERT INTO swap_range SELECT i, int4range(i, i + 1) FROM generate_series(1, :n) i;
INSERT INTO swap_part SELECT i, 'U' || i, false FROM generate_series(1, :n) i;
-- transaction
UPDATE swap SET u = -1 WHERE id = 1;
UPDATE swap SET u = 1 WHERE id = 2;
UPDATE swap SET u = 2 WHERE id = 1;
-- transaction
UPDATE swap SET u = -u, v = 'w';
UPDATE swap SET u = :n + 1 + u;
-- transaction
UPDATE swap_later SET u = :n + 1 - u;
UPDATE swap_later SET id = -id;
-- transaction
UPDATE swap_range SET r = int4range(-id - 1, -id);
UPDATE swap_range SET r = int4range(:n - id, :n - id + 1);
-- transaction
UPDATE swap_part SET gone = true WHERE id % 2 = 0;
INSERT INTO swap_part SELECT 1000 + id, lower(u), false FROM swap_part WHERE gone;
DELETE FROM swap_part WHERE id = 1;
UPDATE swap_part SET u = 'u1' WHERE id = 3;
-- transaction
DELETE FROM swap WHERE u % 2 = 0;
INSERT INTO swap SELECT 1000 + i, i, 'reuse' FROM generate_series(2, :n, 2) i;
-- transaction
DELETE FROM swap_later WHERE u % 2 = 0;
INSERT INTO swap_later SELECT 1000 + i, i FROM generate_series(2, :n, 2) i;

-- case part
CREATE TABLE part (id int, region text, v text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE part_eu PARTITION OF part FOR VALUES IN ('eu');
CREATE TABLE part_us (v text, gone int, region text NOT NULL, id int NOT NULL);
ALTER TABLE part_us DROP COLUMN gone;
ALTER TABLE part ATTACH PARTITION part_us FOR VALUES IN ('us');
CREATE TABLE part_rest PARTITION OF part DEFAULT PARTITION BY HASH (id);
CREATE TABLE part_rest_0 PARTITION OF part_rest FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE part_rest_1 PARTITION OF part_rest FOR VALUES WITH (MODULUS 2, REMAINDER 1);
-- transaction
INSERT INTO part SELECT i, (ARRAY['eu', 'us', 'ap', 'sa'])[1 + i % 4], 'v' FROM generate_series(1, :n) i;
-- transaction
UPDATE part SET region = CASE region WHEN 'eu' THEN 'us' WHEN 'us' THEN 'ap' ELSE 'eu' END, v = v || id;
-- transaction
UPDATE part SET id = id + 1000, v = 'moved';
-- transaction
DELETE FROM part WHERE id % 5 = 0;
TRUNCATE part_eu;
INSERT INTO part VALUES (1, 'eu', 'x'), (2, 'zz', NULL);
-- transaction
TRUNCATE part;
INSERT INTO part SELECT i, 'us', 'end' FROM generate_series(1, :n) i;

-- case heirs
CREATE TABLE heirs (id int PRIMARY KEY, v text);
CREATE TABLE heirs_child (extra text, PRIMARY KEY (id)) INHERITS (heirs);
-- transaction
INSERT INTO heirs SELECT i, 'parent' FROM generate_series(1, :n) i;
INSERT INTO heirs_child SELECT i, 'child', 'e' FROM generate_series(1, :n) i;
-- transaction
UPDATE heirs SET v = 'both ' || id;
-- transaction
UPDATE ONLY heirs SET v = 'parent alone' WHERE id % 2 = 0;
-- transaction
DELETE FROM heirs WHERE id % 3 = 0;
-- transaction
TRUNCATE ONLY heirs;
INSERT INTO heirs VALUES (1, 'again');

-- case generated
CREATE TABLE generated (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text, twice text GENERATED ALWAYS AS (v || v) STORED
);
CREATE UNIQUE INDEX ON generated (id, twice);
CREATE TABLE generated_before (twice int GENERATED ALWAYS AS (id * 2) STORED, id int PRIMARY KEY, v text);
-- transaction
INSERT INTO generated (v) SELECT 'v' || i FROM generate_series(1, :n) i;
INSERT INTO generated_before (id, v) SELECT i, 'v' FROM generate_series(1, :n) i;
-- transaction
UPDATE generated SET v = 'w';
UPDATE generated_before SET id = id + 1000;
-- transaction
INSERT INTO generated (id, v) OVERRIDING SYSTEM VALUE VALUES (-1, 'given');
DELETE FROM generated WHERE id % 2 = 0;
DELETE FROM generated_before WHERE id % 2 = 0;
-- transaction
UPDATE generated SET id = DEFAULT WHERE id % 3 = 0;

-- case virtual from 18
CREATE TABLE virtual (twice int GENERATED ALWAYS AS (id * 2) VIRTUAL, id int PRIMARY KEY, v text);
-- transaction
INSERT INTO virtual (id, v) SELECT i, 'v' FROM generate_series(1, :n) i;
-- transaction
UPDATE virtual SET id = id + 1000 WHERE id % 2 = 0;
UPDATE virtual SET v = 'w';

-- case generated_full until 17
CREATE TABLE generated_full_key (twice int GENERATED ALWAYS AS (id * 2) STORED, id int PRIMARY KEY, v text);
ALTER TABLE generated_full_key REPLICA IDENTITY FULL;
CREATE TABLE generated_full (twice int GENERATED ALWAYS AS (id * 2) STORED, id int, v text);
ALTER TABLE generated_full REPLICA IDENTITY FULL;
-- transaction
INSERT INTO generated_full_key (id, v) SELECT i, 'v' FROM generate_series(1, :n) i;
INSERT INTO generated_full (id, v) SELECT i, 'v' FROM generate_series(1, :n) i;
-- transaction
UPDATE generated_full_key SET id = id + 1000;
UPDATE generated_full SET v = 'z';
-- transaction
DELETE FROM generated_full_key WHERE id % 2 = 0;
DELETE FROM generated_full WHERE id % 2 = 0;

-- case dropped
CREATE TABLE dropped (a int, id int PRIMARY KEY, b text, c text DEFAULT 'c');
INSERT INTO dropped VALUES (1, -1, 'old', 'old');
ALTER TABLE dropped DROP COLUMN a;
ALTER TABLE dropped DROP COLUMN b;
ALTER TABLE dropped ADD COLUMN d int DEFAULT 42 NOT NULL;
-- transaction
INSERT INTO dropped SELECT i, 'c' || i, i FROM generate_series(1, :n) i;
-- transaction
UPDATE dropped SET d = d + 1;
-- transaction
DELETE FROM dropped WHERE id % 2 = 0;

-- case later_fk
CREATE TABLE later_fk (id int PRIMARY KEY, boss int REFERENCES later_fk DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE later_fk_child (
    id int PRIMARY KEY,
    parent int NOT NULL REFERENCES later_fk ON DELETE CASCADE ON UPDATE CASCADE DEFERRABLE INITIALLY DEFERRED
);
-- transaction
INSERT INTO later_fk_child SELECT i, i FROM generate_series(1, :n) i;
INSERT INTO later_fk SELECT i, 1 + i % :n FROM generate_series(1, :n) i;
-- transaction
UPDATE later_fk SET id = id + 1000, boss = boss + 1000;
-- transaction
UPDATE later_fk SET boss = NULL;
DELETE FROM later_fk WHERE id % 2 = 0;

-- case trigger
-- Ordinary triggers and rules do not act again on the follower; one that is enabled ALWAYS does, once a change.
CREATE TABLE trigger_on (id int PRIMARY KEY, v int, seen int NOT NULL DEFAULT 0);
CREATE TABLE trigger_log (n bigserial PRIMARY KEY, id int, op text);
CREATE TABLE trigger_always (id int PRIMARY KEY, v int);
CREATE SCHEMA :schema_private CREATE TABLE trigger_count (id int, op text);
CREATE FUNCTION trigger_note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO :schema.trigger_log (id, op) VALUES (coalesce(NEW.id, OLD.id), TG_OP);
    RETURN NULL;
END $$;
CREATE FUNCTION trigger_change() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    NEW.seen := NEW.seen + 1;
    RETURN NEW;
END $$;
CREATE FUNCTION trigger_tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO :schema_private.trigger_count VALUES (coalesce(NEW.id, OLD.id), TG_OP);
    RETURN NULL;
END $$;
CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON trigger_on FOR EACH ROW EXECUTE FUNCTION trigger_note();
CREATE TRIGGER change BEFORE INSERT OR UPDATE ON trigger_on FOR EACH ROW EXECUTE FUNCTION trigger_change();
CREATE RULE note AS ON INSERT TO trigger_on DO ALSO INSERT INTO :schema.trigger_log (id, op) VALUES (0, 'rule');
CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE ON trigger_always FOR EACH ROW EXECUTE FUNCTION trigger_tell();
ALTER TABLE trigger_always ENABLE ALWAYS TRIGGER tell;
-- transaction
INSERT INTO trigger_on SELECT i, i FROM generate_series(1, :n) i;
INSERT INTO trigger_always SELECT i, i FROM generate_series(1, :n) i;
-- transaction
UPDATE trigger_on SET v = -v;
UPDATE trigger_always SET v = -v;
UPDATE trigger_always SET v = -v;
-- transaction
DELETE FROM trigger_on WHERE id % 2 = 0;
DELETE FROM trigger_always WHERE id % 2 = 0;

-- case savepoint
CREATE TABLE savepoint (id int PRIMARY KEY, big text);
ALTER TABLE savepoint ALTER big SET STORAGE EXTERNAL;
-- transaction
SAVEPOINT a;
INSERT INTO savepoint SELECT i, noise('a' || i, 100) FROM generate_series(1, :n) i;
ROLLBACK TO a;
INSERT INTO savepoint SELECT i, noise('b' || i, 100) FROM generate_series(1, :n) i;
SAVEPOINT b;
UPDATE savepoint SET big = 'undone';
ROLLBACK TO b;
SAVEPOINT c;
UPDATE savepoint SET id = id + 1000;
RELEASE c;
-- transaction
DO $$ BEGIN
    FOR k IN 1..:n LOOP
        BEGIN
            UPDATE savepoint SET id = -id WHERE id = 1000 + k;
            IF k % 2 = 0 THEN RAISE EXCEPTION 'no'; END IF;
        EXCEPTION WHEN raise_exception THEN NULL;
        END;
    END LOOP;
END $$;

-- case large
-- Larger than the broker takes in one record.
CREATE TABLE large (id int PRIMARY KEY, v text, w int);
ALTER TABLE large ALTER v SET STORAGE EXTERNAL;
-- transaction
INSERT INTO large SELECT i, repeat(md5(i::text), 40000), i FROM generate_series(1, 3) i;
INSERT INTO large SELECT i, 'small', i FROM generate_series(4, :n) i;
-- transaction
UPDATE large SET w = -w;
-- transaction
UPDATE large SET v = v || 'longer' WHERE id < 3;
DELETE FROM large WHERE id = 3;
-- transaction
INSERT INTO large SELECT 1000, repeat(chr(1) || '"\é', 200000), 0;

-- case xml until 17
-- The wheel's PostgreSQL 18 is built without it.
CREATE TABLE xml (id int PRIMARY KEY, v xml);
-- transaction
INSERT INTO xml SELECT i, (ARRAY['<a/>', 'text<b c="d">&amp;</b>', '', '<?xml version="1.0"?><a>é</a>'])[1 + i % 4]::xml
FROM generate_series(1, :n) i;
-- transaction
UPDATE xml SET v = v::text::xml, id = -id;

-- case message
CREATE TABLE message (id int PRIMARY KEY);
-- transaction
SELECT pg_logical_emit_message(false, 'before', 'x');
INSERT INTO message SELECT generate_series(1, :n);
SELECT pg_logical_emit_message(true, 'inside', repeat('x', 400000));
DELETE FROM message WHERE id % 2 = 0;
SELECT pg_logical_emit_message(true, 'last', '');
-- transaction
SELECT pg_logical_emit_message(true, 'cdc.describe', '');
INSERT INTO message SELECT generate_series(1001, 1000 + :n);

-- case hostile
CREATE TABLE "hostile ""tab.le"" %s %% $1 'x' 漢" (
    "a b" int, "c.d" text, "q""q" text, "%" text, "%s" text, "%%(x)s" text, "ünïcødé 🐘" text, """; DROP TABLE x; --" text,
    "select" text, "''" text, "back\slash" text, "{}" text, "$1" text, "A" text, "a" text, "line
break" text, PRIMARY KEY ("a b", "%s", "q""q")
);
CREATE UNIQUE INDEX ON "hostile ""tab.le"" %s %% $1 'x' 漢" ("%", "a b", "line
break");
CREATE TABLE "hostile.FULL %" ("%s" int, ". " text, "t" text, "s" text);
ALTER TABLE "hostile.FULL %" REPLICA IDENTITY FULL;
CREATE TABLE "hostile_%(staged)s" ("%s" int PRIMARY KEY, "t" text, "s" text, "ctid " text, "oid" text, "?" text);
-- transaction
INSERT INTO "hostile ""tab.le"" %s %% $1 'x' 漢"
SELECT i, '.', '"', '%', '%s', '%', 'é', ';', '', '''', '\', '{}', '$1', 'A', 'a', E'\n' FROM generate_series(1, :n) i;
INSERT INTO "hostile.FULL %" SELECT i, 'x', '%s', NULL FROM generate_series(1, :n) i;
INSERT INTO "hostile_%(staged)s" SELECT i, 't', 's', 'c', 'o', '%s' FROM generate_series(1, :n) i;
-- transaction
UPDATE "hostile ""tab.le"" %s %% $1 'x' 漢" SET "A" = "a b", "line
break" = "%s";
UPDATE "hostile.FULL %" SET ". " = 'y';
UPDATE "hostile_%(staged)s" SET "t" = 'new', "oid" = "s";
-- transaction
UPDATE "hostile ""tab.le"" %s %% $1 'x' 漢" SET "%s" = 'moved' WHERE "a b" % 2 = 0;
UPDATE "hostile_%(staged)s" SET "%s" = -"%s";
-- transaction
DELETE FROM "hostile ""tab.le"" %s %% $1 'x' 漢" WHERE "a b" % 3 = 0;
DELETE FROM "hostile.FULL %" WHERE "%s" % 2 = 0;
DELETE FROM "hostile_%(staged)s" WHERE "%s" % 2 = 0;

-- case unicode
-- Of every plane, and of every length that UTF-8 has.
CREATE TABLE unicode (id text PRIMARY KEY, v text, json json, jsonb jsonb, list text[]);
-- transaction
INSERT INTO unicode
SELECT x, x || '.' || x, to_json(x), to_jsonb(x), ARRAY[x, x || '"' || x]
FROM generate_series(0, 16) AS plane,
     unnest(ARRAY[1, 9, 10, 13, 34, 92, 127, 128, 2047, 2048, 8232, 43981, 65279, 65533, 65534, 65535]) AS place,
     LATERAL (SELECT chr(plane * 65536 + place) AS x) AS c;
-- transaction
UPDATE unicode SET v = id || E'\\.\n' || id;
-- transaction
UPDATE unicode SET id = id || id;
DELETE FROM unicode WHERE id < 'a';

-- case all_bytes
CREATE TABLE all_bytes (id bytea PRIMARY KEY, v bytea, list bytea[]);
-- transaction
INSERT INTO all_bytes SELECT set_byte('x', 0, i), set_byte('abc', 1, i), ARRAY[set_byte('x', 0, i), '']
FROM generate_series(0, 255) i;
-- transaction
UPDATE all_bytes SET v = (SELECT string_agg(id, '' ORDER BY id) FROM all_bytes), id = id || id;

-- case high_char from 16
-- An older server prints such a byte as it is, whatever the encoding.
CREATE TABLE high_char (id "char" PRIMARY KEY, v "char"[]);
-- transaction
INSERT INTO high_char SELECT i::"char", ARRAY[i::"char", ''] FROM generate_series(-128, 127) i;
-- transaction
UPDATE high_char SET v = NULL WHERE id::int % 2 = 0;
DELETE FROM high_char WHERE id::int < 0;

-- case endless from 17
CREATE TABLE endless (id interval PRIMARY KEY, v interval[]);
-- transaction
INSERT INTO endless VALUES ('infinity', '{-infinity,1 day}'), ('-infinity', '{infinity}');
-- transaction
UPDATE endless SET v = array_append(v, id);

-- case copied
CREATE TABLE copied (id int PRIMARY KEY, v text DEFAULT 'copied');
-- transaction
COPY copied (id) FROM PROGRAM 'seq 1 :n';
-- transaction
COPY copied FROM PROGRAM 'seq -f "%.0f,\t\\.|NULL" 1001 10:n' (FORMAT csv);
DELETE FROM copied WHERE id % 2 = 0;
COPY copied (id) FROM PROGRAM 'seq 2 2 :n';

-- case reborn
CREATE TABLE reborn (id int PRIMARY KEY, v int, big text);
ALTER TABLE reborn ALTER big SET STORAGE EXTERNAL;
-- transaction
INSERT INTO reborn SELECT i, 0, noise(i::text, 100) FROM generate_series(1, 6) i;
-- transaction
DO $$ BEGIN
    FOR k IN 1..:n LOOP
        DELETE FROM reborn WHERE id = 1;
        INSERT INTO reborn VALUES (1, k, noise(k::text, 80));
        UPDATE reborn SET v = -v WHERE id = 1 AND k % 3 = 0;
        DELETE FROM reborn WHERE id = 2;
        INSERT INTO reborn VALUES (2, k, 'short');
        DELETE FROM reborn WHERE id = 2;
        INSERT INTO reborn SELECT 2, v, big FROM reborn WHERE id = 1;
    END LOOP;
    DELETE FROM reborn WHERE id = 3;
END $$;

-- case upsert
CREATE TABLE upsert (id int PRIMARY KEY, u text UNIQUE, v int);
-- transaction
INSERT INTO upsert SELECT i, 'u' || i, i FROM generate_series(1, :n) i;
-- transaction
INSERT INTO upsert SELECT i, 'w' || i, -i FROM generate_series(2, 2 * :n, 2) i
ON CONFLICT (id) DO UPDATE SET v = upsert.v + excluded.v, u = excluded.u;
INSERT INTO upsert SELECT i, 'u' || i, 0 FROM generate_series(1, 3 * :n) i ON CONFLICT DO NOTHING;
INSERT INTO upsert SELECT -i, 'u' || i, i FROM generate_series(1, :n, 2) i ON CONFLICT (u) DO UPDATE SET id = excluded.id;

-- case merged from 15
CREATE TABLE merged (id int PRIMARY KEY, v int);
-- transaction
INSERT INTO merged SELECT i, i FROM generate_series(1, :n) i;
-- transaction
MERGE INTO merged m USING generate_series(1, 2 * :n) AS s (i) ON m.id = s.i
WHEN MATCHED AND i % 3 = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET v = -v
WHEN NOT MATCHED THEN INSERT VALUES (i, 0);

-- case at_once
-- Keys that are checked at the end of the statement; rows are found as a whole, because such a key finds none.
CREATE TABLE at_once (id int PRIMARY KEY DEFERRABLE, u int UNIQUE DEFERRABLE, v text);
ALTER TABLE at_once REPLICA IDENTITY FULL;
CREATE TABLE at_once_key (id int PRIMARY KEY, u int UNIQUE DEFERRABLE);
-- transaction
INSERT INTO at_once SELECT i, i, 'v' FROM generate_series(1, :n) i;
INSERT INTO at_once_key SELECT i, i FROM generate_series(1, :n) i;
-- transaction
UPDATE at_once SET id = id + 1;
UPDATE at_once_key SET u = u + 1;
-- transaction
UPDATE at_once SET id = :n + 2 - id, u = :n + 1 - u;
UPDATE at_once_key SET u = :n + 2 - u;
DELETE FROM at_once WHERE id % 3 = 0;
UPDATE at_once SET id = id + 1, v = 'w';

-- case alike
-- More keys that are equal to PostgreSQL and differ in text.
CREATE TYPE alike_row AS (n numeric, t text);
CREATE TABLE alike_padded (id char(8) PRIMARY KEY, v int);
CREATE TABLE alike_interval (id interval PRIMARY KEY, v int);
CREATE TABLE alike_json (id jsonb PRIMARY KEY, v int);
CREATE TABLE alike_array (id numeric[] PRIMARY KEY, v int);
CREATE TABLE alike_range (id numrange PRIMARY KEY, v int);
CREATE TABLE alike_row_key (id alike_row PRIMARY KEY, v int);
CREATE TABLE alike_zone (id timestamptz, uid uuid, v int, PRIMARY KEY (uid, id));
-- transaction
INSERT INTO alike_padded SELECT 'k' || i, i FROM generate_series(1, :n) i;
-- From 487 months on, one is as long as another one is after the update.
INSERT INTO alike_interval SELECT i * '1 mon'::interval, i FROM generate_series(1, least(:n, 400)) i;
INSERT INTO alike_json SELECT jsonb_build_object('n', i), i FROM generate_series(1, :n) i;
INSERT INTO alike_array SELECT ARRAY[i, NULL], i FROM generate_series(1, :n) i;
INSERT INTO alike_range SELECT numrange(i, i + 1), i FROM generate_series(1, :n) i;
INSERT INTO alike_row_key SELECT ROW(i, 'x')::alike_row, i FROM generate_series(1, :n) i;
INSERT INTO alike_zone
SELECT 'epoch'::timestamptz + i * '1 us'::interval, ('00000000-0000-0000-0000-' || lpad(i::text, 12, '0'))::uuid, i
FROM generate_series(1, :n) i;
-- transaction
UPDATE alike_padded SET id = id || ' ', v = -v;
UPDATE alike_interval SET id = extract(epoch FROM id) / 86400 * '1 day'::interval, v = -v;
UPDATE alike_json SET id = jsonb_build_object('n', CAST(id->>'n' AS numeric) + 0.00);
UPDATE alike_array SET id = ARRAY[id[1] + 0.00, NULL];
UPDATE alike_range SET id = numrange(lower(id) + 0.00, upper(id));
UPDATE alike_row_key SET id.n = (id).n + 0.00;
UPDATE alike_zone SET id = id AT TIME ZONE 'Asia/Kathmandu' AT TIME ZONE 'Asia/Kathmandu', v = -v;
-- transaction
UPDATE alike_interval SET v = v + 1;
UPDATE alike_json SET v = v + 1;
UPDATE alike_array SET v = v + 1;
UPDATE alike_range SET v = v + 1;
UPDATE alike_row_key SET v = v + 1;
UPDATE alike_zone SET uid = 'ffffffff-0000-0000-0000-000000000000' WHERE v % 3 = 0;
-- transaction
DELETE FROM alike_padded WHERE v % 2 = 0;
DELETE FROM alike_interval;
INSERT INTO alike_interval SELECT i * '30 days'::interval, i FROM generate_series(1, :n) i;
DELETE FROM alike_json;
INSERT INTO alike_json SELECT jsonb_build_object('n', i), i FROM generate_series(1, :n) i;
DELETE FROM alike_array;
INSERT INTO alike_array SELECT ARRAY[i + 0.0, NULL], i FROM generate_series(1, :n) i;
DELETE FROM alike_range WHERE v % 2 = 0;
DELETE FROM alike_row_key WHERE v % 2 = 0;
INSERT INTO alike_row_key SELECT ROW(i + 0.000, 'x')::alike_row, i FROM generate_series(2, :n, 2) i ON CONFLICT DO NOTHING;

-- case collated
CREATE TABLE collated (id text COLLATE "C" PRIMARY KEY, v text);
CREATE TABLE collated_index (k text NOT NULL, v text);
CREATE UNIQUE INDEX collated_index_k ON collated_index (k COLLATE "C");
ALTER TABLE collated_index REPLICA IDENTITY USING INDEX collated_index_k;
-- transaction
INSERT INTO collated SELECT x || i, x FROM generate_series(1, :n) i, unnest(ARRAY['a', 'A', 'ä', '_']) x;
INSERT INTO collated_index SELECT * FROM collated;
-- transaction
UPDATE collated SET id = upper(id) || 'x' WHERE id LIKE 'a%';
UPDATE collated SET v = id;
UPDATE collated_index SET v = k;
DELETE FROM collated_index WHERE k LIKE 'A%';

-- case insensitive until 17
-- The wheel's PostgreSQL 18 is built without ICU.
CREATE COLLATION insensitive_collation (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE insensitive_key (id text COLLATE insensitive_collation PRIMARY KEY, v int);
CREATE TABLE insensitive_full (a text COLLATE insensitive_collation, v int);
ALTER TABLE insensitive_full REPLICA IDENTITY FULL;
CREATE TABLE insensitive_index (k text COLLATE insensitive_collation NOT NULL, v int);
CREATE UNIQUE INDEX insensitive_index_k ON insensitive_index (k COLLATE "C");
ALTER TABLE insensitive_index REPLICA IDENTITY USING INDEX insensitive_index_k;
-- transaction
INSERT INTO insensitive_key SELECT 'key' || i, i FROM generate_series(1, :n) i;
INSERT INTO insensitive_full SELECT x, 0 FROM generate_series(1, :n) i, unnest(ARRAY['same', 'Same', 'SAME']) x;
INSERT INTO insensitive_index SELECT x || i, i FROM generate_series(1, :n) i, unnest(ARRAY['key', 'Key', 'KEY']) x;
-- transaction
UPDATE insensitive_key SET id = upper(id);
UPDATE insensitive_key SET v = -v;
UPDATE insensitive_full SET v = 1 WHERE a = 'x' OR a COLLATE "C" = 'SAME';
UPDATE insensitive_index SET v = -v WHERE k COLLATE "C" < 'a';
-- transaction
DELETE FROM insensitive_key WHERE v % 2 = 0;
INSERT INTO insensitive_key SELECT 'Key' || i, i FROM generate_series(2, :n, 2) i;
DELETE FROM insensitive_full WHERE a COLLATE "C" = 'Same';
UPDATE insensitive_full SET a = 'sAME' WHERE a COLLATE "C" = 'same';
DELETE FROM insensitive_index WHERE k COLLATE "C" LIKE 'Key%';
UPDATE insensitive_index SET k = 'x' || k WHERE k COLLATE "C" LIKE 'key%';

-- case nulls
CREATE TABLE nulls (id int PRIMARY KEY, u int UNIQUE, v text);
CREATE TABLE nulls_index (a int NOT NULL, b text, u int);
CREATE UNIQUE INDEX nulls_index_a ON nulls_index (a);
CREATE UNIQUE INDEX nulls_index_u ON nulls_index (b, u);
ALTER TABLE nulls_index REPLICA IDENTITY USING INDEX nulls_index_a;
-- transaction
INSERT INTO nulls SELECT i, CASE WHEN i % 2 = 0 THEN i END, NULL FROM generate_series(1, :n) i;
INSERT INTO nulls_index SELECT i, NULL, CASE WHEN i % 2 = 0 THEN i END FROM generate_series(1, :n) i;
-- transaction
UPDATE nulls SET u = NULL WHERE id % 4 = 0;
UPDATE nulls SET u = id + 1000 WHERE u IS NULL AND id % 3 = 0;
UPDATE nulls_index SET b = 'b', u = u + 1;

-- case nulls_alike from 15
CREATE TABLE nulls_alike (id int PRIMARY KEY, u int, UNIQUE NULLS NOT DISTINCT (u));
-- transaction
INSERT INTO nulls_alike SELECT i, NULLIF(i, 1) FROM generate_series(1, :n) i;
-- transaction
UPDATE nulls_alike SET u = -1 WHERE u IS NULL;
UPDATE nulls_alike SET u = NULL WHERE id = 2;
UPDATE nulls_alike SET u = 2 WHERE u = -1;

-- case tied
-- Foreign keys that are checked, and act, at once.
CREATE TABLE tied (id int PRIMARY KEY, boss int REFERENCES tied ON DELETE SET NULL ON UPDATE CASCADE);
CREATE TABLE tied_child (
    id int PRIMARY KEY, parent int DEFAULT 0 REFERENCES tied ON DELETE CASCADE ON UPDATE CASCADE, v text
);
CREATE TABLE tied_grandchild (id int PRIMARY KEY, child int REFERENCES tied_child ON DELETE CASCADE);
-- transaction
INSERT INTO tied SELECT i, NULLIF(i / 2, 0) FROM generate_series(1, :n) i;
INSERT INTO tied_child SELECT 1000 + i, i, 'v' FROM generate_series(1, :n) i;
INSERT INTO tied_grandchild SELECT 2000 + i, 1000 + i FROM generate_series(1, :n) i;
-- transaction
UPDATE tied SET id = -id WHERE id % 2 = 0;
DELETE FROM tied WHERE id % 3 = 0;
-- transaction
DELETE FROM tied;

-- case attached
CREATE TABLE attached (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
CREATE TABLE attached_low PARTITION OF attached FOR VALUES FROM (0) TO (75);
CREATE TABLE attached_high PARTITION OF attached FOR VALUES FROM (75) TO (1000);
-- transaction
INSERT INTO attached SELECT i, 'v' FROM generate_series(1, :n) i;
-- transaction
ALTER TABLE attached DETACH PARTITION attached_low;
UPDATE attached_low SET v = 'alone';
UPDATE attached SET v = 'rest' WHERE id % 2 = 0;
-- transaction
DELETE FROM attached_low WHERE id % 2 = 0;
INSERT INTO attached_low VALUES (70, 'new') ON CONFLICT DO NOTHING;
-- transaction
UPDATE attached_low SET v = 'before';
ALTER TABLE attached ATTACH PARTITION attached_low FOR VALUES FROM (0) TO (75);
UPDATE attached SET v = v || 'after';
UPDATE attached SET id = 1000 - id WHERE id < 10;

-- case wide
CREATE FUNCTION wide_columns(what text, first int, last int) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(format(what, i), ', ' ORDER BY i) FROM generate_series(first, last) i
$$;
DO $$ BEGIN
    EXECUTE 'CREATE TABLE wide (id int PRIMARY KEY, ' || wide_columns('c%1$s int', 2, 1600) || ')';
    EXECUTE 'CREATE TABLE wide_full (' || wide_columns('c%1$s int', 1, 1600) || ')';
    ALTER TABLE wide_full REPLICA IDENTITY FULL;
END $$;
-- transaction
DO $$ BEGIN
    EXECUTE 'INSERT INTO wide SELECT i, ' || wide_columns('NULLIF(i %% %1$s, 1)', 2, 1600) || ' FROM generate_series(1, :n) i';
    EXECUTE 'INSERT INTO wide_full SELECT ' || wide_columns('NULLIF(i %% %1$s, 1)', 1, 1600) || ' FROM generate_series(1, 4) i';
END $$;
-- transaction
UPDATE wide SET c2 = 7, c1600 = -id;
UPDATE wide_full SET c1600 = 7 WHERE c5 = 2;
-- transaction
DO $$ BEGIN
    EXECUTE 'UPDATE wide SET ' || wide_columns('c%1$s = c%1$s + 1', 2, 1600) || ' WHERE id % 2 = 0';
    UPDATE wide SET id = id + 1000 WHERE id % 3 = 0;
    DELETE FROM wide WHERE id % 5 = 0;
    DELETE FROM wide_full WHERE c5 = 3;
END $$;

-- case nothing
CREATE TABLE nothing (id int PRIMARY KEY, v text);
-- transaction
SELECT pg_current_xact_id();
-- transaction
UPDATE nothing SET v = 'x';
-- transaction
SAVEPOINT a;
INSERT INTO nothing SELECT i, 'gone' FROM generate_series(1, :n) i;
ROLLBACK TO a;
-- transaction
CREATE TEMPORARY TABLE nothing_here ON COMMIT DROP AS SELECT i FROM generate_series(1, :n) i;
INSERT INTO nothing SELECT i, 'kept' FROM nothing_here;
