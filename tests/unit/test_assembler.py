"""Transactions: the chain, `seq`, `last`, what is skipped, what is described, and what may be confirmed."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.errors import LogError, ProtocolError
from cdc.events.assembler import Resume
from cdc.protocol.lsn import Lsn
from tests.support import wire
from tests.support.capture import NOTES, NOTHING, ORDERS, assembler, events, links, relation, transaction


def insert(number: int, oid: int = ORDERS) -> bytes:
    return wire.insert(oid, [str(number), "text"])


def kinds(records: list[tuple[bytes | None, bytes]]) -> list[str]:
    return [event["cdc"].get("kind", event["op"]) for event in events(records)]


class TestChain:
    def test_transactions_link_to_the_one_before_and_the_final_event_says_so(self) -> None:
        capture = assembler()
        records = capture.feed([relation(), *transaction(200, insert(1), insert(2)), *transaction(300, insert(3))])
        assert links(records) == [(200, 99, 1, False), (200, 99, 2, True), (300, 200, 1, True)]
        assert events(records)[-1]["cdc"]["end_lsn"] == 340
        assert capture.complete_lsn == 340
        assert capture.transactions == 2

    @given(st.lists(st.integers(0, 6), min_size=1, max_size=8), st.integers(1, 7))
    def test_batches_of_any_size_give_the_same_records(self, sizes: list[int], batch: int) -> None:
        frames = [relation()]
        for index, size in enumerate(sizes):
            frames += transaction(1000 + 100 * index, *(insert(number) for number in range(size)))
        capture = assembler()
        records = []
        for first in range(0, len(frames), batch):
            records += capture.feed(frames[first : first + batch])
        assert records == assembler().feed(frames)
        ends = [link for link in links(records) if link[3]]
        assert len(ends) == sum(size > 0 for size in sizes)
        assert all(later[1] == earlier[0] for earlier, later in pairwise(ends))

    def test_one_event_is_held_back_while_its_transaction_is_open(self) -> None:
        capture = assembler()
        frames = transaction(200, insert(1), insert(2))
        assert kinds(capture.feed([relation(), *frames[:3]])) == ["schema", "c"]
        assert capture.complete_lsn == 100
        assert capture.in_transaction
        assert links(capture.feed(frames[3:])) == [(200, 99, 2, True)]
        assert not capture.in_transaction

    def test_an_empty_transaction_leaves_no_record_and_may_not_be_confirmed_by_itself(self) -> None:
        capture = assembler()
        assert capture.feed(transaction(200)) == []
        assert capture.complete_lsn == 100
        assert capture.received_lsn == 240

    def test_transactions_out_of_commit_order_are_refused(self) -> None:
        with pytest.raises(ProtocolError, match="commit order"):
            assembler().feed([relation(), *transaction(300, insert(1)), *transaction(200, insert(2))])


class TestResume:
    def test_what_the_log_holds_is_skipped(self) -> None:
        capture = assembler(Resume(Lsn(200), Lsn(240), Lsn(0), 0))
        frames = [relation(), *transaction(150, insert(1)), *transaction(200, insert(2)), *transaction(300, insert(3))]
        assert links(capture.feed(frames)) == [(300, 200, 1, True)]

    def test_a_transaction_whose_beginning_is_in_the_log_goes_on_where_it_ended(self) -> None:
        capture = assembler(Resume(Lsn(99), Lsn(100), Lsn(200), 2))
        records = capture.feed([relation(), *transaction(200, *(insert(number) for number in range(4)))])
        assert links(records) == [(200, 99, 3, False), (200, 99, 4, True)]
        assert kinds(records) == ["schema", "c", "c"]

    def test_a_beginning_that_the_leader_does_not_know_is_an_error(self) -> None:
        capture = assembler(Resume(Lsn(99), Lsn(100), Lsn(200), 5))
        with pytest.raises(LogError, match="holds 5 events"):
            capture.feed([relation(), *transaction(200, insert(1))])

    def test_a_leader_that_lacks_what_it_must_send_again_is_an_error_before_anything_is_published(self) -> None:
        resume = Resume(Lsn(210), Lsn(240), Lsn(0), 0, again_lsn=200)
        same = [relation(), *transaction(150, insert(1)), *transaction(200, insert(2)), *transaction(300, insert(3))]
        assert links(assembler(resume).feed(same)) == [(300, 210, 1, True)]
        other = [relation(), *transaction(150, insert(1)), *transaction(205, insert(2)), *transaction(300, insert(3))]
        with pytest.raises(LogError, match="restored to an older state"):
            assembler(resume).feed(other)
        alone = wire.xlog(wire.message(300, "app", b"x", transactional=False), 300)
        with pytest.raises(LogError, match="restored to an older state"):
            assembler(resume).feed([alone])

    def test_relations_of_skipped_transactions_are_remembered(self) -> None:
        begin, *rest = transaction(150, insert(1))
        capture = assembler(Resume(Lsn(200), Lsn(240), Lsn(0), 0))
        assert capture.feed([begin, relation(), *rest]) == []
        assert kinds(capture.feed(transaction(300, insert(3)))) == ["schema", "c"]


class TestSchemas:
    def test_a_relation_is_described_once_before_its_first_change(self) -> None:
        capture = assembler()
        frames = [relation(), relation(NOTES, "notes"), *transaction(200, insert(1), insert(1, NOTES), insert(2))]
        assert kinds(capture.feed(frames)) == ["schema", "c", "schema", "c", "c"]
        assert kinds(capture.feed(transaction(300, insert(3)))) == ["c"]

    def test_the_same_description_again_says_nothing_new(self) -> None:
        capture = assembler()
        capture.feed([relation(), *transaction(200, insert(1))])
        assert kinds(capture.feed([relation(), *transaction(300, insert(3))])) == ["c"]

    def test_a_changed_relation_is_described_again_and_names_its_new_shape(self) -> None:
        capture = assembler()
        before = events(capture.feed([relation(), *transaction(200, insert(1))]))
        after = events(capture.feed([relation(note="remark"), *transaction(300, insert(3))]))
        assert after[0]["cdc"]["kind"] == "schema"
        assert after[0]["cdc"]["rel"] == after[1]["cdc"]["rel"] != before[1]["cdc"]["rel"]
        assert list(after[1]["after"]) == ["id", "remark"]

    def test_describe_asks_for_every_relation_again(self) -> None:
        capture = assembler()
        capture.feed([relation(), *transaction(200, insert(1))])
        assert kinds(capture.feed(transaction(300, wire.message(260, "cdc.describe", b"")))) == ["m"]
        assert kinds(capture.feed(transaction(400, insert(3)))) == ["schema", "c"]

    def test_types_go_by_name(self) -> None:
        capture = assembler()
        mood = wire.xlog(wire.type_name(16500, "app", "mood"))
        table = wire.xlog(
            wire.relation(ORDERS, "public", "orders", "d", [("id", 20, -1, True), ("m", 16500, -1, False)])
        )
        schema = events(capture.feed([mood, table, *transaction(200, insert(1))]))[0]["cdc"]["schema"]
        assert schema["columns"] == [["id", "pg_catalog.int8", -1, True], ["m", "app.mood", -1, False]]

    def test_an_unknown_type_or_relation_is_refused(self) -> None:
        with pytest.raises(ProtocolError, match="type 600"):
            assembler().feed([wire.xlog(wire.relation(ORDERS, "public", "orders", "d", [("id", 600, -1, True)]))])
        with pytest.raises(ProtocolError, match="relation 16400"):
            assembler().feed(transaction(200, insert(1)))


class TestTruncateAndMessages:
    def test_one_truncate_is_an_event_a_table_and_the_final_one_tells_the_statement(self) -> None:
        capture = assembler()
        frames = [relation(), relation(NOTES, "notes")]
        frames += transaction(200, wire.truncate([ORDERS, NOTES], cascade=True, restart_identity=True))
        records = capture.feed(frames)
        first, second = [event for event in events(records) if event["op"] == "t"]
        assert (first["source"]["table"], second["source"]["table"]) == ("orders", "notes")
        assert "truncate" not in first["cdc"]
        assert second["cdc"]["truncate"] == {
            "tables": [["public", "orders"], ["public", "notes"]],
            "cascade": True,
            "restart_identity": True,
        }
        assert links(records) == [(200, 99, 1, False), (200, 99, 2, True)]

    def test_a_transactional_message_is_an_event_of_its_transaction(self) -> None:
        records = assembler().feed([relation(), *transaction(200, insert(1), wire.message(190, "app", b"\0x"))])
        message = events(records)[-1]
        assert message["message"] == {"prefix": "app", "content": "AHg="}
        assert links(records) == [(200, 99, 1, False), (200, 99, 2, True)]

    def test_a_message_of_its_own_does_not_take_the_name_of_a_commit_right_after_it(self) -> None:
        capture = assembler()
        lone = wire.xlog(wire.message(200, "app", b"x", transactional=False), 200)
        records = capture.feed([relation(), lone, *transaction(200, insert(1))])
        assert links(records) == [(199, 99, 1, True), (200, 199, 1, True)]
        assert events(records)[0]["cdc"]["end_lsn"] == 200

    def test_a_message_of_its_own_that_the_log_holds_is_skipped(self) -> None:
        capture = assembler(Resume(Lsn(199), Lsn(200), Lsn(0), 0))
        assert capture.feed([wire.xlog(wire.message(200, "app", b"x", transactional=False), 200)]) == []

    def test_origins_and_stray_aborts_leave_no_record(self) -> None:
        assert assembler().feed(transaction(200, wire.origin(1, "node"), b"A" + b"\0" * 8)) == []


class TestMarks:
    def test_a_mark_lies_after_what_is_complete_and_before_what_comes(self) -> None:
        capture = assembler()
        capture.feed([relation(), *transaction(200, insert(1)), wire.keepalive(900)])
        assert links([capture.mark()]) == [(899, 200, 1, True)]
        assert capture.complete_lsn == 900
        assert links(capture.feed(transaction(900, insert(2)))) == [(900, 899, 1, True)]

    def test_a_keepalive_inside_a_transaction_moves_nothing(self) -> None:
        capture = assembler()
        frames = transaction(200, insert(1))
        capture.feed([relation(), *frames[:2], wire.keepalive(900, reply_requested=True)])
        assert capture.received_lsn == NOTHING.end_lsn
        assert capture.reply_requested

    def test_nothing_is_marked_without_reason(self) -> None:
        with pytest.raises(AssertionError):
            assembler().mark()


class TestDisorder:
    @pytest.mark.parametrize(
        "frames",
        [
            transaction(200)[:1] * 2,
            [wire.xlog(wire.commit(200, 240))],
            [transaction(200)[0], wire.xlog(wire.commit(300, 340))],
            [relation(), wire.xlog(insert(1), 150)],
            [wire.xlog(wire.message(150, "p", b""), 150)],
            [transaction(200)[0], wire.xlog(wire.message(150, "p", b"", transactional=False), 150)],
            [b"w" + b"\0" * 24],
            [b"w"],
            [b"x"],
        ],
    )
    def test_frames_that_no_server_sends_are_protocol_errors(self, frames: list[bytes]) -> None:
        with pytest.raises(ProtocolError):
            assembler().feed(frames)
