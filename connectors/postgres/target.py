"""The follower as the applier sees it: one connection, one transaction, position and rows together.

HOT PATH: `apply_net`. Inserts go by COPY straight into the table, updates and deletes by COPY into a
temporary table and one statement that joins it by the key; hash and merge joins are off in this
session, because a batch must probe the index and never scan the table.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any

import orjson
import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from cdc.errors import CdcError, CheckError, DivergenceError, FencedError, RetryableError
from cdc.events.net_effect import Change, NetEffect, Row
from cdc.events.position import Position
from cdc.events.table import TableId, TableSchema
from cdc.log.records import Truncation
from cdc.ports import TablePlan
from cdc.protocol.lsn import Lsn
from connectors.postgres.catalog import TableFacts, table_facts
from connectors.postgres.connection import connect, translated
from connectors.postgres.copy_text import copy_text
from connectors.postgres.errors import condition, translate
from connectors.postgres.progress import follower_progress, timestamp

_SESSION = """
SET session_replication_role = replica;
SET synchronous_commit = off;
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SET jit = off
"""
"""synchronous_commit may be off because rows and position commit together: what a crash of the follower
takes back is read from the log again."""
_LOCK_PATIENCE_SECONDS = 10.0
"""A predecessor that was killed leaves its backend behind until the server notices."""


class PostgresTarget:
    """Implements `cdc.ports.Target`. `log_name` is the topic whose position the follower keeps; `wait`
    sleeps for some seconds and tells whether to stop, as `StopToken.wait` does."""

    def __init__(self, dsn: str, node: str, log_name: str, wait: Callable[[float], bool]) -> None:
        self._dsn = dsn
        self._node = node
        self._log = log_name
        self._wait = wait
        self._connection: psycopg.Connection | None = None
        self._position: Position | None = None
        self._tables: dict[str, _Table] = {}
        self._stages: set[str] = set()
        self._staged: set[str] = set()

    # session

    def open(self) -> Position:
        self.close()
        self._connection = connect(self._dsn, f"cdc apply {self._node}", self._node, autocommit=True)
        with translated(self._node):
            self._take_role()
            self._take_lock()
        self._position = follower_progress(self._connection, self._log, self._node)
        with translated(self._node):
            self._take_origin()
            self._connection.autocommit = False
        return self._position

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = self._position = None
        self._tables.clear()
        self._stages.clear()
        self._staged.clear()

    @property
    def _conn(self) -> psycopg.Connection:
        if self._connection is None:
            raise RetryableError("not connected", where=self._node)
        return self._connection

    def _take_role(self) -> None:
        try:
            self._conn.execute(_SESSION)
        except psycopg.errors.InsufficientPrivilege as error:
            raise CheckError(
                "the role of the dsn may not set session_replication_role",
                "GRANT SET ON PARAMETER session_replication_role TO it (PostgreSQL 15 or newer), or use a superuser",
                self._node,
            ) from error

    def _take_lock(self) -> None:
        """One applier a follower: a session lock, gone with the connection."""
        waited = 0.0
        while True:
            row = self._conn.execute(
                "SELECT pg_try_advisory_lock(hashtextextended('cdc.apply ' || %s, 0))", (self._log,)
            ).fetchone()
            if row and row[0]:
                return
            if waited >= _LOCK_PATIENCE_SECONDS or self._wait(0.5):
                raise FencedError(
                    f"another applier works on this follower ({self._lock_holder()})", "stop one of the two", self._node
                )
            waited += 0.5

    def _lock_holder(self) -> str:
        row = self._conn.execute(
            "SELECT a.pid, a.client_addr, a.backend_start::timestamptz(0) FROM pg_stat_activity a "
            "JOIN pg_locks l USING (pid) WHERE l.locktype = 'advisory' AND l.granted "
            "AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
            "AND a.application_name LIKE 'cdc apply%%' LIMIT 1"
        ).fetchone()
        return f"backend {row[0]} from {row[1] or 'a local socket'} since {row[2]}" if row else "it just left"

    def _take_origin(self) -> None:
        """Marks what we write as replayed, for whoever captures this follower."""
        try:
            row = self._conn.execute(
                "SELECT 'cdc_' || oid FROM pg_database WHERE datname = current_database()"
            ).fetchone()
            name = {"name": row and row[0]}
            self._conn.execute(
                "SELECT pg_replication_origin_create(%(name)s) WHERE pg_replication_origin_oid(%(name)s) IS NULL", name
            )
            self._conn.execute("SELECT pg_replication_origin_session_setup(%(name)s)", name)
        except psycopg.errors.InsufficientPrivilege as error:
            raise CheckError(
                "the role of the dsn may not set up a replication origin",
                "GRANT EXECUTE ON FUNCTION pg_replication_origin_create, pg_replication_origin_oid, "
                "pg_replication_origin_session_setup, pg_replication_origin_xact_setup TO it",
                self._node,
            ) from error

    # shapes

    def plan(self, schema: TableSchema) -> TablePlan:
        with translated(self._node):
            facts = table_facts(self._conn, schema.table)
        table = _Table(schema, self._check(schema, facts))
        self._tables[schema.fingerprint] = table
        return table.plan

    def _check(self, schema: TableSchema, facts: TableFacts | None) -> TableFacts:
        quoted = _qualified(schema.table).as_string(None)
        if facts is None:
            columns = ", ".join(_column_ddl(schema, column.name) for column in schema.columns)
            raise DivergenceError(
                f"table {schema.table} does not exist here",
                f"create it as it is on the leader, then start again: CREATE TABLE {quoted} ({columns})",
                self._node,
            )
        missing = [c.name for c in schema.columns if c.name not in facts.columns and c.name not in facts.generated]
        if missing:
            clauses = ", ".join(f"ADD COLUMN {_column_ddl(schema, name)}" for name in missing)
            raise DivergenceError(
                f"table {schema.table} has no column {', '.join(missing)}",
                f"run here, then start again: ALTER TABLE {quoted} {clauses}",
                self._node,
            )
        return facts

    def known_schema(self, fingerprint: str) -> TableSchema | None:
        with translated(self._node):
            row = self._conn.execute(
                "SELECT description FROM cdc.relation WHERE log = %s AND fingerprint = %s", (self._log, fingerprint)
            ).fetchone()
        return TableSchema.from_json(row[0]) if row else None

    # transaction

    def savepoint(self) -> None:
        with translated(self._node):
            self._conn.execute("SAVEPOINT piece")

    def back_to_savepoint(self) -> None:
        with translated(self._node):
            self._conn.execute("ROLLBACK TO SAVEPOINT piece")
        self._stages.clear()

    def rollback(self) -> None:
        with translated(self._node):
            self._conn.rollback()
        self._stages.clear()
        self._staged.clear()

    def commit(self, position: Position, schemas: Sequence[TableSchema]) -> None:
        before = self._position
        if before is None:
            raise RetryableError("not connected", where=self._node)
        at = timestamp(position.committed_at_us)
        with translated(self._node):
            with self._conn.pipeline():
                for schema in schemas:
                    self._conn.execute(
                        "INSERT INTO cdc.relation VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
                        (self._log, schema.fingerprint, Jsonb(schema.to_json(), dumps=orjson.dumps)),
                    )
                moved = self._conn.execute(
                    "UPDATE cdc.position SET epoch = %s, commit_lsn = %s::pg_lsn, end_lsn = %s::pg_lsn, "
                    "committed_at = %s, next_offset = %s, applied_at = clock_timestamp() "
                    "WHERE log = %s AND epoch = %s AND commit_lsn = %s::pg_lsn",
                    (
                        position.epoch, str(position.commit_lsn), str(position.end_lsn), at, position.next_offset,
                        self._log, before.epoch, str(before.commit_lsn),
                    ),
                )  # fmt: skip
                self._conn.execute(
                    "SELECT pg_replication_origin_xact_setup(%s::pg_lsn, %s)", (str(position.end_lsn), at)
                )
            if moved.rowcount != 1:
                self._conn.rollback()
                raise FencedError("somebody else moved this follower's position", "see who applies here", self._node)
            self._conn.commit()
        self._position = position
        self._staged.clear()

    # rows

    def truncate(self, statement: Truncation) -> None:
        with translated(self._node):
            text = sql.SQL("TRUNCATE {tables}{restart}{cascade}").format(
                tables=sql.SQL(", ").join(map(self._only, statement.tables)),
                restart=sql.SQL(" RESTART IDENTITY" if statement.restart_identity else ""),
                cascade=sql.SQL(" CASCADE" if statement.cascade else ""),
            )
            self._conn.execute(text)

    def _only(self, table: TableId) -> sql.Composed:
        facts = table_facts(self._conn, table)
        if facts is None:
            raise DivergenceError(
                f"table {table} does not exist here", "create it as it is on the leader, then start again", self._node
            )
        return _only(table, facts)

    def apply_net(self, plan: TablePlan, effect: NetEffect) -> bool:
        table = self._tables[plan.schema.fingerprint]
        try:
            return (
                self._delete(table, effect.deletes)
                and all(self._update(table, names, rows) for names, rows in effect.updates.items())
                and self._insert(table, effect.inserts)
            )
        except (psycopg.IntegrityError, psycopg.DataError, psycopg.errors.InsufficientPrivilege):
            return False
        except psycopg.Error as error:
            raise translate(error, self._node) from error

    def _insert(self, table: _Table, rows: list[Row]) -> bool:
        if rows:
            self._copy(table.copy_into, map(table.cells, rows))
        return True

    def _update(self, table: _Table, names: tuple[str, ...], rows: list[Row]) -> bool:
        stage = self._stage(table, names)
        self._copy(stage.copy_into, map(_tuple_getter(names), rows))
        return self._conn.execute(stage.update).rowcount == len(rows)

    def _delete(self, table: _Table, keys: list[Any]) -> bool:
        if not keys:
            return True
        stage = self._stage(table, table.plan.key)
        single = len(table.plan.key) == 1
        self._copy(stage.copy_into, ((key,) for key in keys) if single else keys)
        return self._conn.execute(stage.delete).rowcount == len(keys)

    def _stage(self, table: _Table, names: tuple[str, ...]) -> _Stage:
        """The temporary table for these columns, empty."""
        stage = table.stage(names)
        if stage.name not in self._stages:
            self._conn.execute(stage.create)
            self._stages.add(stage.name)
        if stage.name in self._staged:
            self._conn.execute(stage.empty)
        self._staged.add(stage.name)
        return stage

    def _copy(self, statement: sql.Composed, rows: Iterable[Iterable[str | None]]) -> None:
        data = copy_text(rows)
        with self._conn.cursor().copy(statement) as copy:
            copy.write(data)

    def apply_in_order(self, steps: Sequence[tuple[TablePlan, Change]]) -> None:
        issued: list[tuple[psycopg.Cursor[Any], TablePlan, Change]] = []
        try:
            with self._conn.pipeline():
                for plan, change in steps:
                    statement, values = self._tables[plan.schema.fingerprint].one(change)
                    cursor = self._conn.cursor()
                    issued.append((cursor, plan, change))
                    cursor.execute(statement, values)
        except psycopg.Error as error:
            raise self._blamed(error, issued) from error
        for cursor, plan, change in issued:
            if cursor.rowcount != 1:
                raise self._missing(plan, change)

    def _blamed(self, error: psycopg.Error, issued: list[tuple[psycopg.Cursor[Any], TablePlan, Change]]) -> CdcError:
        general = translate(error, self._node)
        culprit = next(((p, c) for cursor, p, c in issued if cursor.pgresult is None), None)
        if isinstance(general, RetryableError | CheckError) or culprit is None:
            return general
        plan, change = culprit
        where = self._place(plan, change)
        if error.sqlstate == "23505" and change[0] == "c":
            return DivergenceError(f"the row to insert is there already ({_key_names(plan)})", _REPAIR, where)
        constraint = f" {error.diag.constraint_name}" if error.diag.constraint_name else ""
        return DivergenceError(f"{condition(error)} ({error.sqlstate}){constraint}", _REPAIR, where)

    def _place(self, plan: TablePlan, change: Change) -> str:
        verb, _, _, _, _, commit_lsn, seq = change
        return f"{self._node}, {_VERBS[verb]} on {plan.schema.table} in transaction {Lsn(commit_lsn)} event {seq}"

    def _missing(self, plan: TablePlan, change: Change) -> DivergenceError:
        where = self._place(plan, change)
        return DivergenceError(f"the row is not there ({_key_names(plan)})", _REPAIR, where)


_VERBS = {"c": "insert", "u": "update", "d": "delete"}
_REPAIR = "the follower's rows differ from the leader's: make them equal, or bootstrap it anew"


def _key_names(plan: TablePlan) -> str:
    return f"key columns: {', '.join(plan.key)}" if plan.key else "found by its whole row"


def _qualified(table: TableId) -> sql.Identifier:
    return sql.Identifier(table.schema, table.name)


def _escaped(*names: str) -> sql.Identifier:
    """For statements with parameters, in which psycopg reads every % as the start of one."""
    return sql.Identifier(*(name.replace("%", "%%") for name in names))


def _only(table: TableId, facts: TableFacts) -> sql.Composed:
    """The table without those that inherit from it; a partitioned table is nothing without its partitions."""
    return sql.SQL("" if facts.partitioned else "ONLY ") + _qualified(table)


def _column_ddl(schema: TableSchema, name: str) -> str:
    column = next(c for c in schema.columns if c.name == name)
    return f"{sql.Identifier(name).as_string(None)} {column.type}"


def _tuple_getter(names: tuple[str, ...]) -> Callable[[Row], Iterable[str | None]]:
    if len(names) == 1:
        only = names[0]
        return lambda row: (row[only],)
    return itemgetter(*names)


class _Stage:
    """A temporary table with some columns of a table, and the statements that use it."""

    def __init__(self, table: _Table, names: tuple[str, ...]) -> None:
        tag = hashlib.sha256(repr((table.plan.schema.fingerprint, names)).encode()).hexdigest()[:16]
        self.name = f"cdc_stage_{tag}"
        stage = sql.Identifier("pg_temp", self.name)
        columns = sql.SQL(", ").join(map(sql.Identifier, names))
        key = table.plan.key
        match = sql.SQL(" AND ").join(sql.SQL("t.{0} = s.{0}").format(sql.Identifier(name)) for name in key)
        assigned = [name for name in names if name not in key] or [name for name in key if name not in table.always]
        values = sql.SQL(", ").join(sql.SQL("{0} = s.{0}").format(sql.Identifier(name)) for name in assigned)
        parts = {"stage": stage, "columns": columns, "table": table.only, "match": match, "values": values}
        self.create = sql.SQL(
            "CREATE TEMPORARY TABLE IF NOT EXISTS {stage} ON COMMIT DELETE ROWS AS "
            "SELECT {columns} FROM {table} WITH NO DATA"
        ).format(**parts)
        self.empty = sql.SQL("TRUNCATE {stage}").format(**parts)
        self.copy_into = sql.SQL("COPY {stage} ({columns}) FROM STDIN").format(**parts)
        update = "UPDATE {table} AS t SET {values} FROM {stage} AS s WHERE {match}"
        if not assigned:  # nothing but the key is known: all that is left is to see that the rows are there
            update = "SELECT FROM {table} AS t JOIN {stage} AS s ON {match}"
        self.update = sql.SQL(update).format(**parts)
        self.delete = sql.SQL("DELETE FROM {table} AS t USING {stage} AS s WHERE {match}").format(**parts)


class _Table:
    """A shape of a table with its plan and its SQL."""

    def __init__(self, schema: TableSchema, facts: TableFacts) -> None:
        columns = tuple(c.name for c in schema.columns if c.name in facts.columns)
        key = schema.key_columns
        if not key and facts.primary_key and set(facts.primary_key) <= set(columns):
            key = facts.primary_key if schema.identity.value == "f" else ()
        self._facts = facts
        self.always = facts.always
        self.only = _only(schema.table, facts)
        self._only_escaped = _only(TableId(*(part.replace("%", "%%") for part in schema.table)), facts)
        has_index = any(set(names) == set(key) for names in facts.unique_keys)
        self.plan = TablePlan(
            schema=schema,
            columns=columns,
            key=key,
            collapsible=bool(key) and has_index and set(facts.columns) == set(columns) and facts.always <= set(key),
            moves_values=facts.other_unique_indexes > 0,
            one_by_one=bool(facts.firing_triggers),
        )
        all_columns = len(columns) == len(schema.columns)
        self.cells: Callable[[Row], Iterable[str | None]] = dict.values if all_columns else _tuple_getter(columns)
        self.copy_into = sql.SQL("COPY {} ({}) FROM STDIN").format(
            _qualified(schema.table), sql.SQL(", ").join(map(sql.Identifier, columns))
        )
        self._stages: dict[tuple[str, ...], _Stage] = {}
        self._statements: dict[tuple[str, tuple[str, ...]], bytes] = {}

    def stage(self, names: tuple[str, ...]) -> _Stage:
        if names not in self._stages:
            self._stages[names] = _Stage(self, names)
        return self._stages[names]

    def one(self, change: Change) -> tuple[bytes, list[str | None]]:
        """One change as a statement that must meet exactly one row, with its values."""
        op, _, before, after, *_ = change
        if op == "c" and after is not None:
            return self._statement("c", self.plan.columns), [after[name] for name in self.plan.columns]
        if op == "d" and before is not None:
            return self._statement("d", ()), self._old(before)
        if after is None:
            raise ValueError("a change without its row")
        settled = self.always.intersection(self.plan.key) if before is None else frozenset()
        names = tuple(name for name in self.plan.columns if name in after and name not in settled)
        old = before if before is not None else after
        values = [after[name] for name in names]
        if not self.always.isdisjoint(names):
            own = [after[name] for name in self._facts.columns if name in names]
            return self._statement("x", names), self._old(old) + own
        return self._statement("u", names), values + self._old(old)

    def _old(self, row: Row) -> list[str | None]:
        return [row[name] for name in self.plan.key or self.plan.columns]

    def _statement(self, op: str, names: tuple[str, ...]) -> bytes:
        text = self._statements.get((op, names))
        if text is None:
            text = self._statements[op, names] = self._compose(op, names).as_bytes(None)
        return text

    def _compose(self, op: str, names: tuple[str, ...]) -> sql.Composed:
        columns = sql.SQL(", ").join(map(_escaped, names))
        if op == "c":
            values = sql.SQL(", ").join(sql.Placeholder() * len(names))
            return sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE VALUES ({})").format(
                _escaped(*self.plan.schema.table), columns, values
            )
        if op == "d":
            return sql.SQL("DELETE FROM {} WHERE {}").format(self._only_escaped, self._find())
        if op == "x":
            return self._compose_exchange(names)
        if not names:  # nothing but the key is known: all that is left is to see that the row is there
            return sql.SQL("SELECT FROM {} WHERE {}").format(self._only_escaped, self._find())
        assigned = sql.SQL(", ").join(sql.SQL("{} = %s").format(_escaped(name)) for name in names)
        return sql.SQL("UPDATE {} SET {} WHERE {}").format(self._only_escaped, assigned, self._find())

    def _compose_exchange(self, names: tuple[str, ...]) -> sql.Composed:
        """An UPDATE of a column that none may set (the leader did SET c = DEFAULT): only an INSERT may."""
        columns = tuple(self._facts.columns)
        cells = [sql.Placeholder() if name in names else _escaped("gone", name) for name in columns]
        return sql.SQL(
            "WITH gone AS (DELETE FROM {} WHERE {} RETURNING *) "
            "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM gone"
        ).format(
            self._only_escaped,
            self._find(),
            _escaped(*self.plan.schema.table),
            sql.SQL(", ").join(map(_escaped, columns)),
            sql.SQL(", ").join(cells),
        )

    def _find(self) -> sql.Composable:
        if self.plan.key:
            return sql.SQL(" AND ").join(sql.SQL("{} = %s").format(_escaped(name)) for name in self.plan.key)
        same = sql.SQL(" AND ").join(
            sql.SQL("{}::text IS NOT DISTINCT FROM (%s::{})::text").format(
                _escaped(name), sql.SQL(self._facts.columns[name].replace("%", "%%"))
            )
            for name in self.plan.columns
        )
        return sql.SQL("(tableoid, ctid) = (SELECT tableoid, ctid FROM {} WHERE {} LIMIT 1)").format(
            self._only_escaped, same
        )
