"""A change of a relation is seen; the applier waits before the first row that it cannot place, and says what to run."""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest

from cdc.local.processes import wait_for
from tests.fixtures.pipeline import Pipelines
from tests.support.contents import contents
from tests.support.pipeline import FOLLOWER, Pipeline, rows_of, run_sql
from tests.support.watched import APPLY

WRITABLE = "SET default_transaction_read_only = off"
AS_APPLY_SAYS = (WRITABLE, "SET session_replication_role = replica")


@dataclass(frozen=True)
class Change:
    """`t` stands for the name of the table, of which each change has its own. `leader` are transactions, the first
    of which can be placed; `says` is in the error; `run` is run on the follower, `says` itself where it is empty."""

    name: str
    table: str
    leader: tuple[str, ...]
    says: str
    run: tuple[str, ...] = ()
    renamed: str = "t"


FILL = "INSERT INTO t (id) SELECT generate_series(1, 200)"
CHANGES = (
    Change(
        "number_to_text", "id int PRIMARY KEY, x int",
        ("INSERT INTO t VALUES (1, 7)", "ALTER TABLE t ALTER x TYPE text", "INSERT INTO t VALUES (2, 'seven')"),
        'ALTER TABLE "public"."t" ALTER COLUMN "x" TYPE text',
    ),
    Change(
        "longer", "id int PRIMARY KEY, x varchar(5)",
        (FILL, "ALTER TABLE t ALTER x TYPE varchar(50)", "UPDATE t SET x = 'short' WHERE id = 1",
         "DELETE FROM t WHERE id = 2"),
        'ALTER TABLE "public"."t" ALTER COLUMN "x" TYPE character varying(50)',
    ),
    Change(
        "finer", "id int PRIMARY KEY, x numeric(5,2)",
        ("INSERT INTO t VALUES (1, 1.5)", "ALTER TABLE t ALTER x TYPE numeric(9,4)",
         "INSERT INTO t VALUES (2, 0.0001)"),
        'ALTER TABLE "public"."t" ALTER COLUMN "x" TYPE numeric(9,4)',
    ),
    Change(
        "text_to_number", "id int PRIMARY KEY, x text, y text",
        ("INSERT INTO t VALUES (1, '7', 'a')",
         "ALTER TABLE t ALTER x TYPE int USING x::int, ALTER y TYPE jsonb USING to_jsonb(y)",
         "INSERT INTO t VALUES (2, 8, '{}')"),
        'TYPE integer USING "x"::integer, ALTER COLUMN "y" TYPE jsonb USING "y"::jsonb',
        ("ALTER TABLE t ALTER x TYPE int USING x::int, ALTER y TYPE jsonb USING to_jsonb(y)",),
    ),
    Change(
        "key_in_a_transaction", "id int PRIMARY KEY, x text",
        (FILL, "INSERT INTO t VALUES (1001, 'old'); ALTER TABLE t ALTER id TYPE bigint; "
         "INSERT INTO t VALUES (5000000000, 'new'); UPDATE t SET id = id + 5000000000 WHERE id % 2 = 0; "
         "DELETE FROM t WHERE id < 9"),
        'ALTER TABLE "public"."t" ALTER COLUMN "id" TYPE bigint',
    ),
    Change(
        "renamed_column", "id int PRIMARY KEY, x text, other int",
        ("INSERT INTO t VALUES (1, 'x')", "ALTER TABLE t RENAME x TO z; INSERT INTO t VALUES (2, 'y')",
         "UPDATE t SET z = z || 'z'"),
        'ALTER TABLE "public"."t" RENAME COLUMN "x" TO "z"',
    ),
    Change(
        "dropped_and_added", "id int PRIMARY KEY, x int",
        (FILL, "ALTER TABLE t DROP x; ALTER TABLE t ADD x text DEFAULT 'd'; INSERT INTO t (id) VALUES (-1)"),
        'ALTER TABLE "public"."t" ALTER COLUMN "x" TYPE text',
        ("ALTER TABLE t DROP x", "ALTER TABLE t ADD x text DEFAULT 'd'"),
    ),
    Change(
        "added_with_default", "id int PRIMARY KEY",
        (FILL, "ALTER TABLE t ADD n int NOT NULL DEFAULT 5", "UPDATE t SET n = 6 WHERE id = 7"),
        "with the DEFAULT that it was given there: ALTER TABLE \"public\".\"t\" ADD COLUMN \"n\" integer",
        ("ALTER TABLE t ADD n int NOT NULL DEFAULT 5",),
    ),
    Change(
        "dropped_not_null", "id int PRIMARY KEY, x int NOT NULL",
        ("INSERT INTO t VALUES (1, 1)", "ALTER TABLE t DROP x", "UPDATE t SET id = 7; INSERT INTO t VALUES (2)"),
        'ALTER TABLE "public"."t" ALTER COLUMN "x" DROP NOT NULL',
        ("ALTER TABLE t DROP COLUMN x",),
    ),
    Change(
        "renamed_table", "id int PRIMARY KEY",
        (FILL, "ALTER TABLE t RENAME TO t_new", "DELETE FROM t_new WHERE id > 9"),
        "if the leader renamed it or its schema, rename it here, too",
        ("ALTER TABLE t RENAME TO t_new",),
        renamed="t_new",
    ),
    Change(
        "new_partition", "id int PRIMARY KEY) PARTITION BY RANGE (id",
        ("CREATE TABLE t_0 PARTITION OF t FOR VALUES FROM (0) TO (9)",
         "INSERT INTO t VALUES (1); CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (9) TO (99);"
         "INSERT INTO t VALUES (10)"),
        "table public.t_1 does not exist here",
        ("CREATE TABLE t_1 PARTITION OF t FOR VALUES FROM (9) TO (99)",),
        renamed="t_1",
    ),
    Change(
        "new_type", "id int PRIMARY KEY",
        (FILL, "CREATE TYPE t_mood AS ENUM ('ok'); ALTER TABLE t ADD m t_mood[]; INSERT INTO t VALUES (-1, '{ok}')"),
        "make the type public.t_mood as it is on the leader; then run on this follower",
        ("CREATE TYPE t_mood AS ENUM ('ok')", "ALTER TABLE t ADD m t_mood[]"),
    ),
    Change(
        "awkward_names", "id int PRIMARY KEY",
        (FILL, 'ALTER TABLE t ADD "new\n!  line" "my.types".mood[] DEFAULT \'{ok}\'; INSERT INTO t VALUES (-1)'),
        'ADD COLUMN U&"new!+00000A!+000021 !0020line" UESCAPE $$!$$ "my.types".mood[]',
        ('ALTER TABLE t ADD U&"new!+00000A!+000021 !0020line" UESCAPE $$!$$ "my.types".mood[] DEFAULT \'{ok}\'',),
    ),
    Change(
        "awkward_type", "id int PRIMARY KEY",
        (FILL, 'CREATE TYPE "my.types"."new.one" AS (a int); ALTER TABLE t ADD c "my.types"."new.one"; '
         "INSERT INTO t VALUES (-1, '(7)')"),
        'ALTER TABLE "public"."awkward_type" ADD COLUMN "c" "my.types"."new.one"',
        ('CREATE TYPE "my.types"."new.one" AS (a int)', 'ALTER TABLE t ADD c "my.types"."new.one"'),
    ),
    Change(
        "new_label", "id int PRIMARY KEY, m public.mood",
        ("INSERT INTO t VALUES (1, 'ok')", "ALTER TYPE mood ADD VALUE 't'", "INSERT INTO t VALUES (2, 't')"),
        "such as ALTER TYPE ... ADD VALUE: m (public.mood)",
        ("ALTER TYPE mood ADD VALUE 't'",),
    ),
)  # fmt: skip
WIDENED = "CREATE TABLE {} (id int PRIMARY KEY)"
RETURNING = "CREATE TABLE {} (id int PRIMARY KEY, x varchar(5))"
RETURNED = ("returned", "returned_at_once", "returned_soon")
EARLY = ("CREATE TABLE {} (id int PRIMARY KEY, x int)", "INSERT INTO {} VALUES (1, 1)")


def named(change: Change, text: str) -> str:
    return re.sub(r"\bt(?=\b|_)", change.name, text)


@pytest.fixture
def group(module_pipelines: Pipelines, postgres_version: int) -> Pipeline:
    """A running group with the tables of all changes."""

    def build() -> Pipeline:
        tables = [named(change, f"CREATE TABLE t ({change.table})") for change in CHANGES]
        pipeline = module_pipelines.new(
            "CREATE TYPE mood AS ENUM ('ok')", 'CREATE SCHEMA "my.types"',
            "CREATE TYPE \"my.types\".mood AS ENUM ('ok')", *tables, EARLY[0].format("early"), EARLY[0].format("gone"),
            "CREATE TABLE moods (id int PRIMARY KEY, m mood)",
            *map(WIDENED.format, ("widened", "widened_early", "noted")), *map(RETURNING.format, RETURNED),
            version=postgres_version,
        )  # fmt: skip
        return pipeline.init().bootstrap().start()

    return module_pipelines.kept(postgres_version, build)


def said_since(group: Pipeline, length: int, text: str) -> bool:
    return text in group.log_of(APPLY)[length:]


def wait_said(group: Pipeline, length: int, text: str) -> None:
    assert wait_for(lambda: said_since(group, length, text), seconds=15), group.group.tail_of_logs()


@pytest.mark.newest_first
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
def test_apply_waits_before_the_first_row_without_a_place(postgres_version: int, group: Pipeline, change: Change):
    follower, table = group.followers[FOLLOWER], named(change, "public.t")
    first, *later = (named(change, text) for text in change.leader)
    if change.name == "new_partition":
        run_sql(follower, *AS_APPLY_SAYS, first)
    group.execute(first)
    group.catch_up()
    before, length = contents(follower, table), len(group.log_of(APPLY))

    # When the leader goes on where the follower cannot.
    for text in later:
        group.execute(f"BEGIN; {text}; COMMIT" if "ADD VALUE" not in text else text)
    says = named(change, change.says)
    wait_said(group, length, says)

    # Then nothing of it is there, until what apply says has been run; then all of it, by itself.
    assert "blocked until somebody acts" in group.log_of(APPLY)[length:]
    assert contents(follower, table) == before
    run_sql(follower, *AS_APPLY_SAYS, *(named(change, text) for text in change.run or (says,)))
    group.catch_up()
    group.assert_equal(named(change, f"public.{change.renamed}"))


@pytest.mark.newest_first
def test_follower_may_be_changed_first(postgres_version: int, group: Pipeline):
    # Given a table that apply has written to.
    group.execute("INSERT INTO early SELECT i, i FROM generate_series(2, 200) i")
    group.catch_up()

    # When its types are widened on the follower, then its rows go on arriving.
    wider = "ALTER TABLE early ALTER id TYPE text, ALTER x TYPE bigint"
    run_sql(group.followers[FOLLOWER], *AS_APPLY_SAYS, wider)
    group.execute("UPDATE early SET x = -x", "DELETE FROM early WHERE id = 9", "UPDATE early SET id = -id WHERE id < 5")
    group.catch_up()
    group.assert_equal("public.early")

    # And when the leader follows, nobody has to act.
    length = len(group.log_of(APPLY))
    group.execute(wider, "INSERT INTO early VALUES ('new', 5000000000)", "DELETE FROM early WHERE id = '7'")
    group.catch_up()
    group.assert_equal("public.early")
    assert not said_since(group, length, "blocked")


@pytest.mark.newest_first
def test_column_that_is_dropped_on_the_follower_blocks(postgres_version: int, group: Pipeline):
    # Given a table that apply has written to, when a column of it is dropped on the follower.
    follower = group.followers[FOLLOWER]
    group.execute("INSERT INTO gone SELECT i, i FROM generate_series(2, 200) i")
    group.catch_up()
    length = len(group.log_of(APPLY))
    run_sql(follower, *AS_APPLY_SAYS, "ALTER TABLE gone DROP x")
    group.execute("INSERT INTO gone VALUES (1000, 1000)")

    # Then apply says how to get it back, and goes on with it.
    ddl = 'ALTER TABLE "public"."gone" ADD COLUMN "x" integer'
    wait_said(group, length, ddl)
    run_sql(follower, *AS_APPLY_SAYS, ddl)
    group.catch_up()
    assert rows_of(follower, "SELECT count(*), max(x) FROM gone") == [(200, 1000)]


@pytest.mark.newest_first
def test_what_needs_no_place_does_not_block(postgres_version: int, group: Pipeline):
    # Given changes of a table that change none of its columns.
    name = f"quiet_{postgres_version}"
    run_sql(group.followers[FOLLOWER], *AS_APPLY_SAYS, EARLY[0].format(name))
    group.execute(EARLY[0].format(name))
    group.run("init")
    length = len(group.log_of(APPLY))
    for ddl in (
        "ALTER TABLE {} ALTER x SET DEFAULT 7", "ALTER TABLE {} REPLICA IDENTITY FULL",
        "CREATE UNIQUE INDEX {0}_x ON {0} (x)", "ALTER TABLE {} ALTER x SET NOT NULL",
        "ALTER TABLE {0} REPLICA IDENTITY USING INDEX {0}_x", "ALTER TABLE {} REPLICA IDENTITY DEFAULT",
        "ALTER TABLE {} SET (fillfactor = 50)", "ALTER TABLE {} ADD CHECK (x < 9999)", "ANALYZE {}",
    ):  # fmt: skip
        group.execute(
            ddl.format(name),
            f"INSERT INTO {name} (id) SELECT coalesce(max(id), 0) + 1 FROM {name}",
            f"UPDATE {name} SET x = 100 + id",
        )
    group.catch_up()

    group.assert_equal(f"public.{name}")
    assert not said_since(group, length, "blocked")


@pytest.mark.newest_first
def test_a_value_without_a_place_holds_back_nothing_that_was_committed_before(postgres_version: int, group: Pipeline):
    # Given an applier that finds transactions in one window, the second of which it cannot apply.
    follower = group.followers[FOLLOWER]
    group.group.stop(APPLY)
    group.execute(
        "INSERT INTO moods VALUES (1, 'ok')",
        "ALTER TYPE mood ADD VALUE 'late'",
        "INSERT INTO moods VALUES (2, 'late')",
        "INSERT INTO moods VALUES (3, 'ok')",
    )
    group.start_apply()

    # Then the first is shown, and the others once there is a place for them.
    assert wait_for(lambda: rows_of(follower, "SELECT id FROM moods") == [(1,)], seconds=20)
    run_sql(follower, *AS_APPLY_SAYS, "ALTER TYPE mood ADD VALUE 'late'")
    group.catch_up()
    group.assert_equal("public.moods")


@pytest.mark.newest_first
def test_ddl_that_apply_says_is_enough_for_rows_of_both_shapes(postgres_version: int, group: Pipeline):
    # Given an applier that finds in one window what it can apply, and a transaction in which a column is widened of
    # which no row has come yet.
    group.group.stop(APPLY)
    group.execute(
        "INSERT INTO noted VALUES (1)",
        "BEGIN; INSERT INTO widened VALUES (2); ALTER TABLE widened ALTER id TYPE bigint; "
        "INSERT INTO widened VALUES (5000000000); COMMIT",
    )
    group.wait_published()
    length = len(group.log_of(APPLY))
    group.start_apply()

    # Then once what it says has been run, rows from before the change have a place, too.
    ddl = 'ALTER TABLE "public"."widened" ALTER COLUMN "id" TYPE bigint'
    wait_said(group, length, ddl)
    run_sql(group.followers[FOLLOWER], *AS_APPLY_SAYS, ddl)
    group.catch_up()
    group.assert_equal("public.widened")


@pytest.mark.newest_first
def test_follower_may_be_changed_before_any_row_comes(postgres_version: int, group: Pipeline):
    # When a column is widened on the follower, then the first rows have a place.
    length = len(group.log_of(APPLY))
    run_sql(group.followers[FOLLOWER], *AS_APPLY_SAYS, "ALTER TABLE widened_early ALTER id TYPE bigint")
    group.execute("INSERT INTO widened_early VALUES (1)")
    group.catch_up()
    group.assert_equal("public.widened_early")
    assert not said_since(group, length, "blocked")


@pytest.mark.newest_first
@pytest.mark.parametrize(("table", "seen"), [("returned", True), ("returned_at_once", False)])
def test_a_type_that_the_leader_takes_back_is_to_be_taken_back(
    postgres_version: int, group: Pipeline, table: str, seen: bool
):
    # Given a column that was widened, on the follower first, and an applier that knows of it, or learns all at once.
    wider = f"ALTER TABLE {table} ALTER x TYPE varchar(50)"
    narrower = f"ALTER TABLE {table} ALTER x TYPE varchar(5) USING left(x, 5)"
    group.execute(f"INSERT INTO {table} SELECT i, 'old' FROM generate_series(1, 20) i")
    group.catch_up()
    if not seen:
        group.group.stop(APPLY)
    run_sql(group.followers[FOLLOWER], *AS_APPLY_SAYS, wider)
    group.execute(wider, f"UPDATE {table} SET x = 'much longer' WHERE id < 9")
    if seen:
        group.catch_up()

    # When it is taken back, which shortens values of which the log says nothing.
    length = len(group.log_of(APPLY))
    group.execute(narrower, f"UPDATE {table} SET x = 'new' WHERE id = 20")
    if not seen:
        group.start_apply()

    # Then apply waits until the follower has done that, too.
    wait_said(group, length, f'ALTER TABLE "public"."{table}" ALTER COLUMN "x" TYPE character varying(5)')
    run_sql(group.followers[FOLLOWER], *AS_APPLY_SAYS, narrower)
    group.catch_up()
    group.assert_equal(f"public.{table}")


@pytest.mark.newest_first
def test_values_of_a_type_that_comes_back_are_taken_as_such(postgres_version: int, group: Pipeline):
    length = len(group.log_of(APPLY))
    group.execute("INSERT INTO returned_soon VALUES (1, '007')")
    for number, type_name, value in ((2, "int USING x::int", "8"), (3, "varchar(5)", "'009'")):
        group.catch_up()
        ddl = f"ALTER TABLE returned_soon ALTER x TYPE {type_name}"
        run_sql(group.followers[FOLLOWER], *AS_APPLY_SAYS, ddl)
        group.execute(ddl, f"INSERT INTO returned_soon VALUES ({number}, {value})")
    group.catch_up()
    group.assert_equal("public.returned_soon")
    assert not said_since(group, length, "blocked")


def test_a_missing_column_blocks_until_its_ddl_has_run(pipelines: Pipelines):
    pipeline = pipelines.new("CREATE TABLE t (id int PRIMARY KEY, x text)")
    pipeline.init().bootstrap().start()
    pipeline.execute(
        "INSERT INTO t VALUES (1, 'before')",
        "ALTER TABLE t ADD COLUMN n numeric(10, 2), ADD COLUMN tags text[]",
        "INSERT INTO t VALUES (2, 'after', 1.50, '{a,b}')",
    )

    assert wait_for(lambda: "blocked until somebody acts" in pipeline.log_of(APPLY), seconds=20)
    ddl = re.search(r"ALTER TABLE [^']*", pipeline.log_of(APPLY))
    assert ddl is not None
    assert ddl[0] == 'ALTER TABLE "public"."t" ADD COLUMN "n" numeric(10,2), ADD COLUMN "tags" text[]'
    assert rows_of(pipeline.followers[FOLLOWER], "SELECT * FROM t") == [(1, "before")]

    run_sql(pipeline.followers[FOLLOWER], "SET default_transaction_read_only = off", ddl[0])
    pipeline.catch_up()
    pipeline.assert_equal()
    pipeline.check_running(APPLY)


def test_a_table_that_only_the_leader_has_blocks(pipelines: Pipelines):
    pipeline = pipelines.new("CREATE TABLE t (id int PRIMARY KEY)")
    pipeline.init().bootstrap().start()
    pipeline.execute("CREATE TABLE late (id int PRIMARY KEY, code varchar(9))")
    pipeline.init()
    pipeline.execute("INSERT INTO late VALUES (1, 'x')")

    ddl = 'CREATE TABLE "public"."late" ("id" integer, "code" character varying(9))'
    assert wait_for(lambda: ddl in pipeline.log_of(APPLY), seconds=20), pipeline.log_of(APPLY)

    run_sql(pipeline.followers[FOLLOWER], "SET default_transaction_read_only = off", ddl)
    run_sql(
        pipeline.followers[FOLLOWER], "SET default_transaction_read_only = off", "ALTER TABLE late ADD PRIMARY KEY (id)"
    )
    pipeline.catch_up()
    pipeline.assert_equal()


@pytest.mark.newest_first
def test_a_renamed_schema_blocks_until_it_is_renamed_here(postgres_version: int, pipelines: Pipelines):
    # Given tables of a schema, one of which has not changed since capture began.
    table = "CREATE TABLE app.{} (id int PRIMARY KEY, x text)"
    ddl = ("CREATE SCHEMA app", table.format("t"), table.format("quiet"))
    pipeline = pipelines.new(*ddl, version=postgres_version, tables=("app.*",)).init().bootstrap().start()
    pipeline.execute("INSERT INTO app.t VALUES (1, 'before')")
    pipeline.catch_up()

    # When it gets another name, then nothing is written under the old one, and all under the new one once it is here.
    if postgres_version < 16:  # ops/reference/limits.md
        assert pipeline.group.stop("capture") == 0
    pipeline.execute("ALTER SCHEMA app RENAME TO shop")
    if postgres_version < 16:
        pipeline.start_capture()
    pipeline.execute(
        "INSERT INTO shop.t VALUES (2, 'after')",
        "UPDATE shop.t SET x = 'changed' WHERE id = 1",
        "INSERT INTO shop.quiet VALUES (1, 'first')",
    )
    wait_said(pipeline, 0, "table shop.t does not exist here")
    assert rows_of(pipeline.followers[FOLLOWER], "SELECT * FROM app.t") == [(1, "before")]
    run_sql(pipeline.followers[FOLLOWER], *AS_APPLY_SAYS, "ALTER SCHEMA app RENAME TO shop")
    pipeline.catch_up()
    pipeline.assert_equal("shop.")
    pipeline.check_running("capture", APPLY)


def test_columns_in_another_order_and_of_its_own_are_the_followers_affair(pipelines: Pipelines, postgres_version: int):
    # Given a follower whose table has the columns the other way round, and more of them.
    pipeline = pipelines.new(
        "CREATE TABLE t (id int, x text, n numeric, PRIMARY KEY (id, x))", version=postgres_version
    )
    pipeline.init().bootstrap()
    follower = pipeline.followers[FOLLOWER]
    run_sql(
        follower, *AS_APPLY_SAYS, "DROP TABLE t",
        "CREATE TABLE t (own serial, n numeric, at timestamptz NOT NULL DEFAULT now(), x text, "
        "twice numeric GENERATED ALWAYS AS (n * 2) STORED, id int, PRIMARY KEY (x, id))",
    )  # fmt: skip
    pipeline.start()

    # When the leader writes, by sets and one by one.
    pipeline.execute(
        "INSERT INTO t SELECT i, 'x' || i, i FROM generate_series(1, 300) i",
        "UPDATE t SET n = n + 1",
        "UPDATE t SET x = 'y' WHERE id % 3 = 0",
        "DELETE FROM t WHERE id % 5 = 0",
        "INSERT INTO t VALUES (0, '', NULL)",
    )
    pipeline.catch_up()

    rows = "SELECT id, x, n FROM t ORDER BY 1"
    assert rows_of(follower, rows) == rows_of(pipeline.leader, rows)
    assert rows_of(follower, "SELECT count(*) FROM t WHERE twice IS DISTINCT FROM n * 2 OR at IS NULL") == [(0,)]


@pytest.mark.parametrize("ddl", ["ALTER TABLE t DROP COLUMN x", "ALTER TABLE t ADD COLUMN y int"])
def test_columns_that_only_the_follower_has_are_left_alone(pipelines: Pipelines, ddl: str):
    pipeline = pipelines.new("CREATE TABLE t (id int PRIMARY KEY, x text)")
    pipeline.init().bootstrap()
    follower = pipeline.followers[FOLLOWER]
    run_sql(follower, "SET default_transaction_read_only = off", "ALTER TABLE t ADD COLUMN own text DEFAULT 'mine'")
    if "ADD" in ddl:
        run_sql(follower, "SET default_transaction_read_only = off", ddl)
    pipeline.start()
    pipeline.execute("INSERT INTO t SELECT i, 'old' FROM generate_series(1, 300) AS i", ddl)
    pipeline.execute("UPDATE t SET id = id + 1000 WHERE id % 3 = 0", "DELETE FROM t WHERE id % 5 = 0")
    pipeline.catch_up()

    ids = "SELECT id FROM t ORDER BY id"
    assert rows_of(follower, ids) == rows_of(pipeline.leader, ids)
    assert rows_of(follower, "SELECT DISTINCT own FROM t") == [("mine",)]
