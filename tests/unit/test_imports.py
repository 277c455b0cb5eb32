"""Imports point in the directions that cdc/ARCHITECTURE.md names, and in no other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PRODUCT = ("cdc", "connectors")
CLIENTS = {"psycopg", "confluent_kafka"}

PURE = {"cdc.errors", "cdc.protocol", "cdc.events", "cdc.log"}
PORTS = {"cdc.ports", "cdc.capture_ports", "cdc.copy_ports", "cdc.promotion_ports", "cdc.check_ports"}
SERVICE_TOOLS = {"cdc", "cdc.failpoints", "cdc.memory", "cdc.retry", "cdc.stop"}
ROOT_TOOLS = {"cdc", "cdc.config", "cdc.logging", "cdc.retry", "cdc.stop"}

ALLOWED: dict[str, set[str]] = {
    "cdc": set(),
    "cdc.errors": set(),
    "cdc.failpoints": set(),
    "cdc.logging": set(),
    "cdc.memory": set(),
    "cdc.stop": set(),
    "cdc.retry": {"cdc.errors", "cdc.stop"},
    "cdc.config": {"cdc.errors"},
    "cdc.protocol": {"cdc.errors"},
    "cdc.events": {"cdc.errors", "cdc.protocol"},
    "cdc.log": {"cdc.errors", "cdc.protocol", "cdc.events"},
    "cdc.ports": PURE,
    "cdc.capture_ports": PURE,
    "cdc.copy_ports": PURE | {"cdc.ports"},
    "cdc.promotion_ports": PURE | {"cdc.capture_ports"},
    "cdc.check_ports": PURE | {"cdc.ports", "cdc.capture_ports"},
    "cdc.services": PURE | PORTS | SERVICE_TOOLS,
    "connectors": set(),
    "connectors.kafka": PURE | PORTS,
    "connectors.postgres": PURE | PORTS,
    "cdc.cli": PURE | PORTS | ROOT_TOOLS | {"cdc.services", "cdc.cli.wiring"},
    "cdc.cli.wiring": PURE | PORTS | ROOT_TOOLS | {"cdc.services", "connectors.kafka", "connectors.postgres"},
    "cdc.cli.demo": {"cdc.cli", "cdc.errors", "cdc.stop", "cdc.demo"},
    "cdc.cli.main": {"cdc", "cdc.errors"},
    "cdc.cli.reference": {"cdc.cli.main", "cdc.config"},
    "cdc.__main__": {"cdc.cli.main"},
    "cdc.local": {"cdc.errors"},
    "cdc.demo": {"cdc.errors", "cdc.stop", "cdc.local"},
}
"""Which parts a part may import; itself always. A module is of the part with the longest name that fits it."""

WITHOUT_CLIENTS = PURE | PORTS | SERVICE_TOOLS | {"cdc.services", "cdc.logging"}
"""Parts that know neither PostgreSQL's nor Kafka's client."""


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Name and syntax tree of every module of the product."""
    for package in PRODUCT:
        for file in sorted((ROOT / package).rglob("*.py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            yield name, ast.parse(file.read_text(), str(file))


def imports(tree: ast.Module, name: str, names: set[str]) -> Iterator[str]:
    """Modules that are imported, wherever in the file it happens."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relative to itself"
            source = node.module or ""
            for alias in node.names:
                inner = f"{source}.{alias.name}"
                yield inner if inner in names else source


def part_of(module: str) -> str:
    return max((part for part in ALLOWED if module == part or module.startswith(f"{part}.")), key=len)


@cache
def edges() -> list[tuple[str, str]]:
    """Every import as (importing module, imported module)."""
    trees = dict(modules())
    assert len(trees) > 50, "hardly anything was found"
    return [(name, used) for name, tree in trees.items() for used in imports(tree, name, set(trees))]


def is_own(module: str) -> bool:
    return module.partition(".")[0] in PRODUCT


def test_imports_go_in_the_named_directions_only():
    wrong = [
        f"{name} imports {used}"
        for name, used in edges()
        if is_own(used) and part_of(used) != part_of(name) and part_of(used) not in ALLOWED[part_of(name)]
    ]
    assert wrong == []


def test_every_module_of_the_root_package_is_named():
    """A new file beside the packages must say whom it may import."""
    unnamed = [name for name, _ in modules() if name != "cdc" and part_of(name) == "cdc"]
    assert unnamed == []


def test_what_decides_knows_no_client_library():
    wrong = [
        f"{name} imports {used}"
        for name, used in edges()
        if used.partition(".")[0] in CLIENTS and part_of(name) in WITHOUT_CLIENTS
    ]
    assert wrong == []


def test_the_product_imports_no_tests():
    assert [f"{name} imports {used}" for name, used in edges() if used.partition(".")[0] == "tests"] == []


def test_nothing_imports_in_a_circle():
    graph: dict[str, set[str]] = {}
    for name, used in edges():
        if is_own(used) and used != name:
            graph.setdefault(name, set()).add(used)
    done: set[str] = set()

    def walk(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for used in sorted(graph.get(module, ())):
                walk(used, (*path, module))
            done.add(module)

    for module in sorted(graph):
        walk(module, ())
