"""What a copy is cut into, what pg_dump's script is cut into, and how workers that fail go on."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

import pytest

from cdc.cli.copy_progress import Progressed, summary
from cdc.copy_ports import Build, Part
from cdc.errors import CheckError, RetryableError
from cdc.events.table import TableId
from cdc.services.parallel_copy import Done, Moved, ParallelCopy
from connectors.postgres.copy_plan import Source, parts_of
from connectors.postgres.schema_copy import builds_of

TABLE = TableId("public", "item")


@pytest.mark.parametrize("pages", [0, 1, 2, 3, 7, 100, 101])
@pytest.mark.parametrize("count", [1, 2, 3, 50])
def test_parts_cover_every_page_once_and_the_last_has_no_end(pages: int, count: int):
    parts = list(parts_of([Source(TABLE, 1000, pages, 1, 1)], part_bytes=-(-1000 // count)))
    assert parts[0].first_page == 0
    assert parts[-1].end_page is None
    assert all(part.end_page == after.first_page for part, after in itertools.pairwise(parts))
    assert all(part.first_page < (part.end_page or pages) for part in parts[1:])
    assert len(parts) <= max(1, min(count, pages))
    assert parts[0].whole == (len(parts) == 1)


DUMP = """\\
--
-- PostgreSQL database dump
--

SET statement_timeout = 0;

--
-- TOC entry 3390 (class 2606 OID 16393)
-- Dependencies: 215
-- Name: item item_pkey; Type: CONSTRAINT; Schema: public; Owner: postgres
--

ALTER TABLE ONLY public.item
    ADD CONSTRAINT item_pkey PRIMARY KEY (id);


--
-- TOC entry 3391 (class 1259 OID 16394)
-- Name: odd
-- name; Type: INDEX; Schema: public; Owner: postgres
--

CREATE INDEX odd ON public.item USING btree (note) WHERE (note <> '
--
-- Name: x; Type: INDEX; Schema: public; Owner: y
--
');


--
-- TOC entry 3392 (class 2620 OID 16395)
-- Name: item t; Type: TRIGGER; Schema: public; Owner: postgres
--

CREATE TRIGGER t BEFORE INSERT ON public.item FOR EACH ROW EXECUTE FUNCTION public.f();


--
-- TOC entry 3393 (class 2606 OID 16396)
-- Name: item other; Type: FK CONSTRAINT; Schema: public; Owner: postgres
--

ALTER TABLE ONLY public.item
    ADD CONSTRAINT other FOREIGN KEY (id) REFERENCES public.other(id);


-- Completed on 2026-01-01 00:00:00 UTC

--
-- PostgreSQL database dump complete
--
"""


def test_a_dump_is_cut_where_pg_dump_says_and_neighbours_of_a_kind_are_one_group():
    groups = builds_of(DUMP.removeprefix("\\\n").replace("-- Name: odd\n-- name;", "-- Name: odd name;"))
    assert [[(build.kind, build.name) for build in group] for group in groups] == [
        [("CONSTRAINT", "item item_pkey"), ("INDEX", "odd name")],
        [("TRIGGER", "item t")],
        [("FK CONSTRAINT", "item other")],
    ]
    assert groups[0][1].statement.endswith("Owner: y\n--\n');")
    assert groups[2][0].statement.endswith("REFERENCES public.other(id);")


class Worker:
    """Fails as often as it is told to, each time before the same part is done."""

    def __init__(self, failures: list[Exception]) -> None:
        self._failures = failures

    def copy(self, part: Part, progress: Callable[[int, int], None]) -> int:
        progress(1, 10)
        if self._failures:
            raise self._failures.pop()
        return part.number

    def build(self, build: Build) -> None: ...

    def close(self) -> None: ...


def parts(count: int) -> list[Part]:
    return [Part(TABLE, number, number, number + 1, 10) for number in range(count)]


def test_a_worker_that_lost_its_connection_does_the_same_part_again():
    failures: list[Exception] = [RetryableError("gone"), RetryableError("gone")]
    heard: list[int] = []

    def hear(event: Done[Part] | Moved[Part]) -> None:
        if isinstance(event, Done):
            heard.append(event.task.number)

    copy: ParallelCopy[Part] = ParallelCopy(3, lambda: Worker(failures), lambda: None)
    copy.run(parts(20), lambda worker, part, progress: worker.copy(part, progress), hear)
    assert sorted(heard) == list(range(20))


@pytest.mark.parametrize("lost", [False, True])
def test_what_cannot_be_mended_ends_all_and_a_lost_snapshot_says_so_first(lost: bool):
    def check() -> None:
        if lost:
            raise RetryableError("the snapshot is gone")

    failures: list[Exception] = [RetryableError("gone") if lost else CheckError("refused")]
    copy: ParallelCopy[Part] = ParallelCopy(2, lambda: Worker(failures), check)
    with pytest.raises(RetryableError if lost else CheckError, match="the snapshot is gone" if lost else "refused"):
        copy.run(parts(50), lambda worker, part, progress: worker.copy(part, progress), lambda _: None)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("copy-")]


def test_progress_counts_a_part_once_whatever_it_sent_before():
    first, second = parts(2)
    progressed = Progressed(20, 2)
    progressed.move(first, 3, 25)
    progressed.move(first, 1, 5)
    progressed.move(second, 4, 8)
    assert (progressed.rows_copied, progressed.bytes_copied) == (5, 13)
    progressed.finish(first, 6)
    assert (progressed.rows_copied, progressed.bytes_copied, progressed.parts_left) == (10, 18, 1)
    assert summary(progressed, 2.0) == "90 % of 20 bytes, 10 rows, 9 bytes/s, 0:00:00 left"
