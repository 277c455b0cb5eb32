"""The plugins of this test suite; fixtures live in tests/fixtures."""

from hypothesis import HealthCheck, settings

# How long examples take says nothing on a machine that runs servers beside them.
settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")

pytest_plugins = [
    "tests.fixtures.commands",
    "tests.fixtures.selection",
    "tests.fixtures.servers",
    "tests.fixtures.pipeline",
]
