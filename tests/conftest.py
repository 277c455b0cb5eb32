"""The plugins of this test suite; fixtures live in tests/fixtures."""

pytest_plugins = [
    "tests.fixtures.commands",
    "tests.fixtures.selection",
    "tests.fixtures.servers",
    "tests.fixtures.pipeline",
]
