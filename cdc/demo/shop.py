"""The transactions of the load, made up at random: SQL and its parameters, nothing is run here.

Locks are taken in one order everywhere (accounts, branches, products, each by rising id; orders are
skipped when somebody else has them), so the load does not deadlock with itself.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Callable
from importlib import resources
from typing import Any, NamedTuple

ACCOUNTS = 1000
ACCOUNT_BALANCE = 1000
BANK_TOTAL = ACCOUNTS * ACCOUNT_BALANCE
_BRANCHES = 10
_PRODUCTS = 500
_CUSTOMERS = 2000
_FEATURED = 20
_RESTOCKED = 150

TRANSFER = "transfer"


class Step(NamedTuple):
    """One statement of a transaction."""

    statement: str
    parameters: tuple[Any, ...] = ()


class Transaction(NamedTuple):
    """What to run before the ledger's row and the commit."""

    kind: str
    steps: list[Step]


WRITE_LEDGER = """
WITH next AS (UPDATE ledger_end SET last_number = last_number + 1 RETURNING last_number)
INSERT INTO ledger (number, kind, receipt) SELECT last_number, %s, %s FROM next RETURNING number
"""
"""The last statement of every transaction: its lock makes the order of the numbers that of the commits."""


def schema_sql() -> str:
    return _sql("schema.sql")


def seed_sql() -> str:
    return _sql("seed.sql")


def _sql(name: str) -> str:
    return resources.files("cdc.demo").joinpath(name).read_text("utf-8")


def make_transaction(chance: random.Random) -> Transaction:
    """The next thing that happens in the shop."""
    (kind,) = chance.choices(_KINDS, _WEIGHTS)
    return Transaction(kind, _MAKERS[kind][1](chance))


def _transfer(chance: random.Random) -> list[Step]:
    source, sink = chance.sample(range(1, ACCOUNTS + 1), 2)
    amount = chance.randint(1, 100)
    moves = {source: -amount, sink: amount}
    branches: dict[int, int] = {}
    for account, change in moves.items():
        branch = 1 + account % _BRANCHES
        branches[branch] = branches.get(branch, 0) + change
    return [
        *(Step("UPDATE bank_accounts SET balance = balance + %s WHERE id = %s", (moves[a], a)) for a in sorted(moves)),
        *(Step("UPDATE bank_branches SET balance = balance + %s WHERE id = %s", (branches[b], b))
          for b in sorted(branches)),
        Step("INSERT INTO bank_history (from_account, to_account, amount) VALUES (%s, %s, %s)", (source, sink, amount)),
    ]  # fmt: skip


def _place_order(chance: random.Random) -> list[Step]:
    products = sorted(chance.sample(range(1, _PRODUCTS + 1), chance.randint(1, 4)))
    quantities = [chance.randint(1, 5) for _ in products]
    note = chance.choice([None, "", "a gift", "zweiter Stock, links", "tab\tand \\ backslash"])
    order = Step(
        "WITH placed AS (INSERT INTO orders (customer_id, note) VALUES (%s, %s) RETURNING id) "
        "INSERT INTO order_lines (order_id, line, product_id, quantity, unit_price) "
        "SELECT placed.id, line, p.id, wanted.quantity, p.price "
        "FROM placed, unnest(%s::int[], %s::int[]) WITH ORDINALITY AS wanted (product_id, quantity, line) "
        "JOIN products p ON p.id = wanted.product_id",
        (chance.randint(1, _CUSTOMERS), note, products, quantities),
    )
    stock = "UPDATE products SET stock = stock - %s WHERE id = %s"
    return [order, *(Step(stock, (q, p)) for p, q in zip(products, quantities, strict=True))]


_SOME_ORDER = (
    "SELECT id FROM orders WHERE id >= (SELECT (random() * max(id))::bigint FROM orders) "
    "ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED"
)


def _pay(chance: random.Random) -> list[Step]:
    details = json.dumps({"method": "transfer", "reference": f"{chance.getrandbits(64):x}"})
    statement = (
        f"WITH chosen AS ({_SOME_ORDER}), paid AS ("  # noqa: S608 - a constant
        "INSERT INTO payments (order_id, amount, fee, details) SELECT id, %s, %s, %s FROM chosen) "
        "UPDATE orders SET state = 'paid', changed_at = clock_timestamp() FROM chosen WHERE orders.id = chosen.id"
    )
    return [Step(statement, (round(chance.uniform(1, 900), 2), chance.random(), details))]


def _send(chance: random.Random) -> list[Step]:
    statement = (
        f"WITH chosen AS ({_SOME_ORDER}) UPDATE orders SET state = %s, changed_at = clock_timestamp() "  # noqa: S608
        "FROM chosen WHERE orders.id = chosen.id"
    )
    return [Step(statement, (chance.choice(["packed", "sent", "returned"]),))]


def _cancel(_: random.Random) -> list[Step]:
    """Its lines and payments go with it."""
    statement = f"WITH chosen AS ({_SOME_ORDER}) DELETE FROM orders USING chosen WHERE orders.id = chosen.id"  # noqa: S608
    return [Step(statement)]


def _review(chance: random.Random) -> list[Step]:
    size = chance.choice([30, 300, 4000])
    body = base64.b64encode(chance.randbytes(size)).decode()
    return [
        Step(
            "INSERT INTO reviews (product_id, customer_id, stars, body) VALUES (%s, %s, %s, %s) "
            "ON CONFLICT (product_id, customer_id) DO UPDATE SET stars = EXCLUDED.stars",
            (chance.randint(1, 50), chance.randint(1, 200), chance.randint(1, 5), body),
        )
    ]


def _reprice(chance: random.Random) -> list[Step]:
    """The description is not touched, so it is not in the event."""
    change = json.dumps({"repriced": chance.getrandbits(32)})
    return [
        Step(
            "UPDATE products SET price = %s, attributes = attributes || %s::jsonb WHERE id = %s",
            (round(chance.uniform(1, 500), 2), change, chance.randint(1, _PRODUCTS)),
        )
    ]


def _swap_places(chance: random.Random) -> list[Step]:
    pair = chance.sample(range(1, _FEATURED + 1), 2)
    return [
        Step("SELECT FROM featured WHERE product_id = ANY(%s) ORDER BY product_id FOR UPDATE", (pair,)),
        Step("UPDATE featured SET place = -place WHERE product_id = ANY(%s)", (pair,)),
        Step(
            "UPDATE featured SET place = -other.place FROM featured AS other "
            "WHERE featured.product_id = ANY(%s) AND other.product_id = ANY(%s) "
            "AND featured.product_id <> other.product_id",
            (pair, pair),
        ),
    ]


def _rename_coupon(chance: random.Random) -> list[Step]:
    return [
        Step(
            "UPDATE coupons SET code = %s WHERE code = "
            "(SELECT code FROM coupons ORDER BY md5(code || %s) LIMIT 1 FOR UPDATE SKIP LOCKED)",
            (f"CODE-{chance.getrandbits(64):x}", str(chance.random())),
        )
    ]


def _restock(chance: random.Random) -> list[Step]:
    """Many rows in one transaction."""
    first = chance.randint(1, _PRODUCTS - _RESTOCKED)
    return [
        Step(
            "WITH chosen AS (SELECT id FROM products WHERE id BETWEEN %s AND %s ORDER BY id FOR NO KEY UPDATE) "
            "UPDATE products SET stock = stock + 50 FROM chosen WHERE products.id = chosen.id",
            (first, first + _RESTOCKED),
        )
    ]


def _join(chance: random.Random) -> list[Step]:
    number = chance.getrandbits(64)
    return [
        Step(
            "INSERT INTO customers (email, name, address, interests) VALUES (%s, %s, %s, %s)",
            (f"{number:x}@example.org", f"Name {number:x}", '{"city": "Łódź", "floor": null}', ["music", "b,c", ""]),
        )
    ]


# Out of a thousand transactions, and how each is made.
_MAKERS: dict[str, tuple[int, Callable[[random.Random], list[Step]]]] = {
    TRANSFER: (420, _transfer),
    "order": (200, _place_order),
    "payment": (110, _pay),
    "shipment": (90, _send),
    "cancellation": (40, _cancel),
    "review": (60, _review),
    "price": (30, _reprice),
    "swap": (20, _swap_places),
    "coupon": (8, _rename_coupon),
    "restock": (2, _restock),
    "customer": (20, _join),
}
_KINDS = list(_MAKERS)
_WEIGHTS = [weight for weight, _ in _MAKERS.values()]
