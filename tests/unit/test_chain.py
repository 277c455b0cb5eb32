"""The chain accepts only the next link."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.errors import ChainGapError
from cdc.log.chain import Chain, Verdict


def test_transactions_follow_each_other():
    chain = Chain(1, 100)
    assert chain.accept(1, 200, 100, 1, last=False) is Verdict.NEXT
    assert chain.in_transaction
    assert chain.accept(1, 200, 100, 2, last=True) is Verdict.NEXT
    assert not chain.in_transaction
    assert chain.accept(1, 300, 200, 1, last=True) is Verdict.NEXT
    assert (chain.epoch, chain.commit_lsn) == (1, 300)


def test_a_position_between_two_commits_takes_the_next_one():
    # As after a bootstrap: the position is a snapshot's consistent point, not a commit.
    assert Chain(1, 150).accept(1, 200, 100, 1, last=True) is Verdict.NEXT


def test_a_repeat_is_ignored_also_inside_a_transaction():
    chain = Chain(1, 100)
    chain.accept(1, 200, 100, 1, last=False)
    chain.accept(1, 200, 100, 2, last=False)
    for seq in (1, 2):
        assert chain.accept(1, 200, 100, seq, last=False) is Verdict.REPEAT
    assert chain.accept(1, 100, 50, 1, last=True) is Verdict.REPEAT
    assert chain.accept(1, 200, 100, 3, last=True) is Verdict.NEXT
    assert chain.accept(1, 200, 100, 3, last=True) is Verdict.REPEAT


def test_missing_transactions_are_a_gap_that_names_the_range():
    with pytest.raises(ChainGapError, match=r"after 0/64 up to 0/C8 are missing"):
        Chain(1, 100).accept(1, 300, 200, 1, last=True)


def test_missing_events_at_the_start_are_a_gap():
    with pytest.raises(ChainGapError, match="events 1 to 2 of transaction 0/C8"):
        Chain(1, 100).accept(1, 200, 100, 3, last=True)


def test_missing_events_inside_are_a_gap():
    chain = Chain(1, 100)
    chain.accept(1, 200, 100, 1, last=False)
    with pytest.raises(ChainGapError, match="ends at event 1, the next record is event 3"):
        chain.accept(1, 200, 100, 3, last=True)


def test_a_new_transaction_inside_an_unfinished_one_is_a_gap():
    chain = Chain(1, 100)
    chain.accept(1, 200, 100, 1, last=False)
    with pytest.raises(ChainGapError):
        chain.accept(1, 300, 200, 1, last=True)


def test_an_older_epoch_is_void_and_a_newer_one_needs_its_record():
    chain = Chain(2, 100)
    assert chain.accept(1, 200, 100, 1, last=True) is Verdict.VOID
    with pytest.raises(ChainGapError, match="without its epoch record"):
        chain.accept(3, 200, 100, 1, last=True)
    assert chain.accept(3, 200, 100, 1, last=True, prev_epoch=2) is Verdict.NEXT
    assert chain.epoch == 3


def test_a_new_epoch_after_missing_transactions_is_a_gap():
    with pytest.raises(ChainGapError):
        Chain(1, 100).accept(2, 300, 200, 1, last=True, prev_epoch=1)


def test_an_epoch_whose_predecessor_is_missing_is_a_gap():
    with pytest.raises(ChainGapError, match="epoch 3 follows epoch 2, whose beginning is missing"):
        Chain(1, 100).accept(3, 50, 100, 1, last=True, prev_epoch=2)


def test_of_two_that_claim_an_epoch_the_first_one_in_the_log_has_it():
    chain = Chain(1, 100)
    assert chain.accept(2, 700, 100, 1, last=True, prev_epoch=1) is Verdict.NEXT
    assert chain.accept(2, 9000, 100, 1, last=True, prev_epoch=1) is Verdict.VOID
    assert (chain.epoch, chain.commit_lsn) == (2, 700)


def test_an_epoch_may_begin_at_a_lower_lsn():
    # Another server's WAL has positions of its own.
    chain = Chain(1, 5000)
    assert chain.accept(2, 70, 5000, 1, last=True, prev_epoch=1) is Verdict.NEXT
    assert chain.accept(2, 90, 70, 1, last=True) is Verdict.NEXT


def test_a_follower_that_is_past_the_end_of_an_epoch_is_refused():
    # As when it was copied from a leader whose last transactions never came into the log.
    with pytest.raises(ChainGapError, match="may hold what no other node has"):
        Chain(1, 150).accept(2, 70, 100, 1, last=True, prev_epoch=1)


def test_a_transaction_that_came_just_before_the_new_epoch_counts():
    # Whoever wrote the epoch record had not seen it, but all readers do, in the same order.
    chain = Chain(1, 100)
    chain.accept(1, 150, 100, 1, last=True)
    assert chain.accept(2, 70, 100, 1, last=True, prev_epoch=1) is Verdict.NEXT
    again = Chain(1, 150)
    assert again.accept(1, 150, 100, 1, last=True) is Verdict.REPEAT
    assert again.accept(2, 70, 100, 1, last=True, prev_epoch=1) is Verdict.NEXT


_TRANSACTIONS = st.lists(st.integers(1, 4), min_size=1, max_size=12)


def _records(sizes: list[int]) -> list[tuple[int, int, int, bool]]:
    return [
        (number * 100, (number - 1) * 100, seq, seq == size)
        for number, size in enumerate(sizes, start=1)
        for seq in range(1, size + 1)
    ]


@given(_TRANSACTIONS, st.data())
def test_resending_from_any_earlier_transaction_changes_nothing(sizes: list[int], data: st.DataObject):
    records = _records(sizes)
    stream = []
    for index, record in enumerate(records):
        stream.append(record)
        if data.draw(st.booleans()):
            # A killed capture goes on at the beginning of a transaction that it does not know to be complete.
            first = data.draw(st.sampled_from([i for i in range(index + 1) if records[i][2] == 1]))
            stream += records[first : index + 1]
    chain = Chain(1, 0)
    accepted = [record for record in stream if chain.accept(1, *record) is Verdict.NEXT]
    assert accepted == records


@given(_TRANSACTIONS.filter(lambda sizes: sum(sizes) > 2), st.data())
def test_any_lost_record_is_noticed(sizes: list[int], data: st.DataObject):
    records = _records(sizes)
    lost = data.draw(st.integers(0, len(records) - 2))
    chain = Chain(1, 0)

    def read() -> None:
        for record in records[:lost] + records[lost + 1 :]:
            chain.accept(1, *record)

    with pytest.raises(ChainGapError):
        read()
