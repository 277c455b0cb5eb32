"""What counts as a loss and what as a warning, from facts alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cdc.capture_ports import LeaderLook, Publication, PublishedTable, TopicFacts
from cdc.errors import PublicationError
from cdc.events.table import TableId
from cdc.services.guardian import added_tables, check_publication, slot_warning, topic_warnings
from cdc.services.lag import Hop, removal_is_near, retention_warning
from cdc.services.resume import Place

PLACE = Place("us-east", "shop.log", "cdc_shop")
T = PublishedTable(TableId("public", "t"), 1, None, None)
LEFT = Publication({100: T}, {"insert": "true"})
LOOK = LeaderLook(None, None, LEFT, LEFT, frozenset())
MB = 2**20


def test_what_cdc_init_left_is_no_alarm() -> None:
    check_publication(LOOK, PLACE)
    check_publication(replace(LOOK, expected=None), PLACE)
    renamed = Publication({100: replace(T, table=TableId("public", "renamed"))}, LEFT.options)
    check_publication(replace(LOOK, published=renamed), PLACE)
    dropped = replace(LOOK, published=Publication({}, LEFT.options))
    check_publication(dropped, PLACE)
    assert added_tables(replace(LOOK, expected=Publication({}, LEFT.options))) == ["public.t"]


@pytest.mark.parametrize(
    ("look", "words"),
    [
        (replace(LOOK, published=None), "does not exist"),
        (
            replace(LOOK, published=Publication({}, LEFT.options), unpublished=frozenset({T.table})),
            "not in it any more",
        ),
        (replace(LOOK, published=Publication({100: replace(T, entry=2)}, LEFT.options)), "added again"),
        (replace(LOOK, published=Publication({100: replace(T, row_filter="(id > 5)")}, LEFT.options)), "row filter"),
        (replace(LOOK, published=Publication({100: replace(T, columns="1")}, LEFT.options)), "column list"),
        (replace(LOOK, published=Publication({100: T}, {"insert": "false"})), "insert is false, was true"),
    ],
    ids=["gone", "table", "blip", "filter", "columns", "options"],
)
def test_what_is_published_no_more(look: LeaderLook, words: str) -> None:
    with pytest.raises(PublicationError, match=words) as caught:
        check_publication(look, PLACE)
    assert caught.value.remedy
    assert "id > 5" not in str(caught.value), "a filter may hold values"


@pytest.mark.parametrize(
    ("wal_status", "safe", "keep", "warned"),
    [
        ("reserved", None, None, False),
        ("reserved", 31 * MB, 100 * MB, False),
        ("extended", 29 * MB, 100 * MB, True),
        ("unreserved", -5 * MB, 100 * MB, True),
    ],
)
def test_the_slot_is_warned_of_from_seventy_percent_on(
    wal_status: str, safe: int | None, keep: int | None, warned: bool
) -> None:
    assert bool(slot_warning(wal_status, safe, keep)) == warned


def test_settings_of_the_topic_that_may_lose_records_are_named() -> None:
    topic = TopicFacts("id", 1, "delete", 1_000_000, 3_600_000, -1, False, 3_600_000)
    assert topic_warnings(topic) == {}
    assert topic_warnings(replace(topic, retention_ms=-1)) == {}
    poor = replace(topic, retention_ms=60_000, retention_bytes=1, unclean_election=True)
    assert [warning.split(" is ")[0] for warning in topic_warnings(poor).values()] == [
        "retention.ms",
        "retention.bytes",
        "unclean.leader.election.enable",
    ]


def test_a_follower_is_warned_of_before_retention_takes_what_it_needs() -> None:
    hop = Hop("eu-west", 5, 69.0, "0/1")
    assert retention_warning("eu-west", hop, 100_000) is None
    assert retention_warning("eu-west", replace(hop, lag_seconds=None), 100_000) is None
    assert retention_warning("eu-west", replace(hop, lag_seconds=70.0), -1) is None
    assert "eu-west is 0.0 h behind" in (retention_warning("eu-west", replace(hop, lag_seconds=70.0), 100_000) or "")


def test_a_reader_is_warned_of_only_when_it_is_behind_and_near_what_was_removed() -> None:
    assert removal_is_near(1_050, 1_000, 50_000, 2_000)
    assert not removal_is_near(1_050, 0, 50_000, 2_000), "nothing was ever removed"
    assert not removal_is_near(49_000, 48_990, 50_000, 2_000), "it is at the end"
    assert not removal_is_near(20_000, 1_000, 50_000, 2_000)
