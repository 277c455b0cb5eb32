"""What a daemon says of itself is what it does, since when, and how stale it is by one clock."""

from __future__ import annotations

import pytest

from cdc.capture_ports import SlotFacts, TopicFacts
from cdc.cli.http_pages import Readiness, told
from cdc.cli.metrics import Daemon, registry
from cdc.errors import BlockedError, RetryableError
from cdc.events.position import Position
from cdc.protocol.lsn import Lsn
from cdc.services.health import SILENT_SECONDS, Health
from cdc.services.meters import ApplyMeter, CaptureMeter, Freshness

SLOT = SlotFacts("pgoutput", "shop", False, 1, None, Lsn(5), Lsn(1), "reserved", None, 10, 20, None, 7)
TOPIC = TopicFacts("id", 1, "delete", 1_000_000, 3_600_000)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    """Of an applier that works."""
    health = Health(clock)
    health.works("applying")
    return health


def test_a_daemon_is_healthy_once_it_works_and_not_before():
    clock = Clock()
    health = Health(clock)
    assert not health.condition().ok
    clock.now += 2
    health.works("streaming")
    clock.now += 3
    assert told(health) == {"healthy": True, "state": "streaming", "seconds": 3.0, "problem": None}


def test_an_interruption_is_told_since_it_began_and_counted(clock: Clock, health: Health):
    for _ in range(3):
        clock.now += 5
        health.interrupted(RetryableError("lost", where="eu-west"))
    assert told(health) == {"healthy": False, "state": "interrupted", "seconds": 10.0, "problem": "eu-west: lost"}
    health.interrupted(BlockedError("no column", "add it"))
    assert health.condition().state == "blocked"
    assert health.interruptions == 4
    health.works("applying")
    assert health.condition().ok


def test_a_loop_that_does_not_come_round_is_not_well(clock: Clock, health: Health):
    clock.now += SILENT_SECONDS + 1
    found = health.condition()
    assert (found.ok, found.state) == (False, "busy")
    health.turn()
    assert health.condition().ok


def test_a_loop_that_waits_for_a_statement_of_hours_does_not_hang(clock: Clock, health: Health):
    for _ in range(3600):
        clock.now += 1
        health.alive()
    assert (health.condition().state, health.hangs()) == ("busy", False)
    clock.now += SILENT_SECONDS + 1
    assert health.hangs()
    health.turn()
    assert not health.hangs()


def test_a_daemon_that_is_interrupted_does_not_hang_however_long_it_lasts(clock: Clock, health: Health):
    health.interrupted(RetryableError("lost", where="eu-west"))
    clock.now += 3600
    assert not health.hangs()


def test_the_log_is_stale_since_the_oldest_heartbeat_that_it_does_not_hold():
    clock = Clock()
    fresh = Freshness(clock)
    assert fresh.lag_seconds() == 0.0
    for lsn in (100, 200, 300):
        fresh.beat_begins()
        fresh.beat_is_at(lsn)
        clock.now += 1
    assert fresh.lag_seconds() == 3.0
    fresh.delivered(150)
    assert fresh.lag_seconds() == 2.0
    fresh.delivered(1000)
    assert fresh.lag_seconds() == 0.0


def test_a_leader_that_takes_no_heartbeats_makes_the_log_stale():
    clock = Clock()
    fresh = Freshness(clock)
    for _ in range(3):
        fresh.beat_begins()  # one that fails, and is tried again
        clock.now += 4
    assert fresh.lag_seconds() == 12.0
    fresh.beat_is_at(100)
    assert fresh.lag_seconds() == 12.0
    fresh.delivered(101)
    assert fresh.lag_seconds() == 0.0


def test_a_session_begins_as_stale_as_the_log_and_stays_so_until_a_heartbeat_is_in_it():
    clock = Clock()
    fresh = Freshness(clock)
    fresh.begin(60.0)
    fresh.beat_begins()
    fresh.beat_is_at(500)
    clock.now += 10
    fresh.delivered(400)
    assert fresh.lag_seconds() == 70.0
    fresh.end()
    clock.now += 5
    fresh.begin(0.0)
    assert fresh.lag_seconds() == 75.0
    fresh.beat_begins()
    fresh.beat_is_at(9)  # of another leader, whose LSNs are smaller
    fresh.delivered(10)
    assert fresh.lag_seconds() == 0.0


def test_heartbeats_without_end_take_no_memory_without_end():
    clock = Clock()
    fresh = Freshness(clock)
    for lsn in range(100_000):
        fresh.beat_is_at(lsn)
        clock.now += 1
    assert fresh.lag_seconds() == 100_000.0
    fresh.delivered(50_000)
    assert 45_000 < fresh.lag_seconds() <= 50_000


def position(committed_at_us: int) -> Position:
    return Position(1, Lsn(10), Lsn(20), committed_at_us, 7)


def applier(clock: Clock) -> ApplyMeter:
    """Its clock is the leader's, to the microsecond."""
    return ApplyMeter(clock, lambda: int(clock.now * 1e6))


def committed(meter: ApplyMeter, at: float) -> None:
    meter.committed(position(int(at * 1e6)), 1, 10)


def test_a_follower_that_shows_all_of_the_log_is_not_stale_however_old_that_is():
    clock = Clock()
    meter = applier(clock)
    meter.begin(position(int(990e6)))
    committed(meter, 999.0)
    meter.follows(8, 8)
    clock.now += 100
    assert meter.lag_seconds() == 0.0


def test_a_follower_that_is_stuck_grows_stale_since_it_last_showed_all():
    clock = Clock()
    meter = applier(clock)
    meter.begin(position(int(990e6)))
    meter.follows(8, 8)
    clock.now += 5
    meter.follows(8, 11)
    assert (meter.lag_seconds(), meter.lag_records) == (5.0, 3)
    meter.ended()
    clock.now += 10
    assert meter.lag_seconds() == 15.0
    meter.begin(position(int(990e6)))
    assert meter.lag_seconds() == 15.0
    meter.follows(11, 11)
    assert meter.lag_seconds() == 0.0


def test_a_follower_under_load_is_as_stale_as_what_it_has_not_reached_is_old():
    clock = Clock()
    meter = ApplyMeter(clock, lambda: int((clock.now + 3600) * 1e6))  # of clocks that differ by an hour
    meter.begin(position(int(1000e6)))
    for step in range(1, 100):
        clock.now += 0.5
        committed(meter, clock.now)
        meter.follows(100 * step, 100 * (step + 1))  # there is always more
        assert meter.lag_seconds() <= 3600 if step < 3 else meter.lag_seconds() <= 1.0


def test_a_follower_that_begins_behind_is_as_stale_as_what_it_shows():
    clock = Clock()
    meter = applier(clock)
    meter.begin(position(int(400e6)))
    meter.follows(10, 1000)
    assert meter.lag_seconds() == 600.0
    clock.now += 10
    committed(meter, 700.0)
    meter.follows(500, 1010)
    assert meter.lag_seconds() == 310.0


def test_ready_is_healthy_and_not_too_far_behind():
    clock = Clock()
    health, meter = Health(clock), applier(clock)
    ready = Readiness(health, meter, 30.0)
    assert not ready.is_ready(), "it has not begun"
    meter.begin(position(int(940e6)))
    meter.follows(10, 1010)
    health.works("applying")
    assert not ready.is_ready(), "60 s behind"
    assert ready.told()["lag_seconds"] == 60.0
    meter.follows(1010, 1010)
    assert ready.is_ready()
    health.interrupted(RetryableError("lost"))
    assert not ready.is_ready()


def test_who_stands_by_has_nothing_to_catch_up_with():
    clock = Clock()
    health, meter = Health(clock), CaptureMeter(epoch=1, received_lsn=30, durable_lsn=20, freshness=Freshness(clock))
    meter.slot, meter.topic = SLOT, TOPIC
    meter.freshness.begin(1000.0)
    health.works("streaming")
    assert not Readiness(health, meter, 1.0).is_ready()
    assert (shown(meter, "cdc_slot_safe_bytes"), shown(meter, "cdc_slot_retained_bytes")) == (10, 7)
    meter.freshness.end()
    assert is_ready_after_an_hours_rest(clock, health, meter, "standing by")
    assert shown(meter, "cdc_capture_lag_seconds") == shown(meter, "cdc_capture_lag_bytes") == 0
    gone = "cdc_capture_epoch", "cdc_slot_retained_bytes", "cdc_slot_safe_bytes", "cdc_log_retention_seconds"
    assert [shown(meter, name) for name in gone] == [None] * 4
    meter.freshness.begin(5.0)
    assert meter.freshness.lag_seconds() == 5.0, "it leads again"


def test_an_applier_whose_node_leads_has_nothing_to_catch_up_with():
    clock = Clock()
    health, meter = Health(clock), applier(clock)
    meter.begin(position(int(990e6)))
    meter.follows(8, 11)
    meter.ended()
    assert is_ready_after_an_hours_rest(clock, health, meter, "leading")
    assert shown(meter, "cdc_apply_lag_seconds") == shown(meter, "cdc_apply_lag_records") == 0
    assert shown(meter, "cdc_apply_committed_timestamp_seconds") is None, "nobody waits for what it had as a follower"
    assert shown(meter, "cdc_apply_epoch") is None
    meter.begin(position(int(4000e6)))
    assert meter.lag_seconds() == 600.0, "it follows again"


def is_ready_after_an_hours_rest(clock: Clock, health: Health, meter: CaptureMeter | ApplyMeter, state: str) -> bool:
    meter.rests()
    health.works(state)
    clock.now += 3600
    health.turn()
    return Readiness(health, meter, 1.0).is_ready()


def shown(meter: CaptureMeter | ApplyMeter, name: str) -> float | None:
    """What is served of it."""
    made = registry("shop", Daemon(Health(), lambda: True), meter, "eu-west" if isinstance(meter, ApplyMeter) else None)
    found = [sample.value for family in made.collect() for sample in family.samples if sample.name == name]
    return found[0] if found else None
