"""Who leads, and where its epoch began, is found in the log however much an older leader wrote after it was told."""

from __future__ import annotations

import uuid

import pytest

from cdc.local import KafkaServer
from cdc.services.log_end import LogEnd
from connectors.kafka.consumer import LogReader
from connectors.kafka.settings import common_settings
from tests.support.claims import claim, marks
from tests.support.topic import Topic

US, EU, AP = "us-east", "eu-west", "ap-south"
NOT_KNOWN_YET = 1500
"""Records that an older leader writes after it lost: more than one step of reading backwards."""
DEPTH = 2**20


@pytest.fixture
def topic(kafka: KafkaServer) -> Topic:
    topic = Topic(kafka.start(), f"claims-{uuid.uuid4().hex[:8]}.log")
    topic.create()
    return topic


@pytest.mark.parametrize("afterwards", [0, 5, 2000])
def test_of_two_claims_the_first_counts_whatever_lies_between_them(kafka: KafkaServer, topic: Topic, afterwards: int):
    # Given a log in which one node claims an epoch, the old leader writes on, and another node claims the same epoch.
    before = [claim(US, 1, 1000, 0), *marks(US, 1, 1010, 20)]
    topic.append(*before, claim(EU, 2, 5000, 1200), *marks(US, 1, 1210, NOT_KNOWN_YET), claim(AP, 2, 90_000, 1200))
    if afterwards:
        topic.append(*marks(EU, 2, 5010, afterwards))

    # When it is read from its end, then the first one has it.
    with LogReader(common_settings(kafka.bootstrap_servers, "test", {}), topic.name) as reader:
        start, tail = reader.find_epoch(2, DEPTH), reader.read_tail(depth_bytes=DEPTH)
        first, never = reader.find_epoch(1, DEPTH), reader.find_epoch(3, DEPTH)
    assert start is not None
    assert (start.leader, start.promotion, start.offset) == (EU, f"of {EU}", len(before))
    assert tail is not None
    assert (tail.epoch, tail.leader, tail.commit_lsn) == (2, EU, 5000 + 10 * afterwards)
    assert first is not None
    assert (first.leader, first.offset) == (US, 0)
    assert never is None


@pytest.mark.parametrize("depth", [0, DEPTH])
def test_a_log_that_ends_with_what_an_older_leader_wrote_is_read_to_the_claim_before_it(
    kafka: KafkaServer, topic: Topic, depth: int
):
    # Given a log whose newest records are all void: their writer did not know yet that it leads no more.
    topic.append(claim(US, 1, 1000, 0), *marks(US, 1, 1010, 20), claim(EU, 2, 5000, 1200))
    topic.append(*marks(US, 1, 1210, NOT_KNOWN_YET))

    # When it is read from its end, then only a look at more of it than its last records tells who leads.
    with LogReader(common_settings(kafka.bootstrap_servers, "test", {}), topic.name) as reader:
        tail = reader.read_tail(depth_bytes=depth)
    assert tail is not None
    assert (tail.epoch, tail.leader) == ((2, EU) if depth else (1, US))


def test_an_epoch_that_began_after_the_first_look_is_found_without_reading_what_was_there_before(
    kafka: KafkaServer, topic: Topic
):
    before = [claim(US, 1, 1000, 0), *marks(US, 1, 1010, 600)]
    topic.append(*before)
    with LogReader(common_settings(kafka.bootstrap_servers, "test", {}), topic.name) as reader:
        log_end = LogEnd(DEPTH)
        known = log_end.read(reader)
        assert known is not None
        assert (known.leader, log_end.find_epoch(reader, 2)) == (US, None)

        topic.append(
            *marks(US, 1, 7010, 30), claim(EU, 2, 5000, 7300), *marks(US, 1, 7310, 30), claim(AP, 2, 90_000, 7000)
        )
        second, first = log_end.find_epoch(reader, 2), log_end.find_epoch(reader, 1)
    assert second is not None
    assert (second.leader, second.offset) == (EU, len(before) + 30)
    assert first is not None
    assert (first.leader, first.offset) == (US, 0)
