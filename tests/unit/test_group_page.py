"""The page for people: a whole SVG whatever is known, names in it are text, and the browser asks nobody else."""

from __future__ import annotations

import re
from dataclasses import replace
from xml.etree import ElementTree as ET

from cdc.cli.group_page import page, picture
from cdc.errors import LogError
from tests.unit.test_lag import TAIL, follower, leader, look, report

HOSTILE = '<img src=x onerror="alert(1)">&'


def texts(told: str) -> list[str]:
    root = ET.fromstring(f"<body>{told}</body>")  # noqa: S314 - our own
    return [element.text or "" for element in root.iter() if element.text]


def test_an_idle_group_is_all_green():
    told = picture(report(look(leader(), follower())))
    found = texts(told)
    assert {"us-east", "capture", "log", "eu-west", "leads epoch 1"} <= set(found)
    assert found.count("0 s") == 3
    assert "shows all that the leader has" in found
    assert 'class="bad"' not in told
    assert 'class="unknown"' not in told


def test_what_is_late_and_what_is_unreachable_looks_so():
    late = picture(report(look(leader(now_us=90_000_000), follower(400, 8_000_000, offset=30))))
    assert 'class="bad"' in late
    assert any("82.0 s, 600 B" in text for text in texts(late))
    assert any("40 records to apply" in text for text in texts(late))
    gone = picture(report(look("us-east: no answer", "eu-west: no answer", "the log: no answer")))
    assert texts(gone).count("unreachable") == 3
    assert 'class="unknown"' in gone
    assert {"us-east: no answer", "eu-west: no answer", "the log: no answer"} <= set(texts(gone))


def test_names_and_errors_are_text():
    told = report(look(leader(), HOSTILE))
    hostile = replace(told, group=HOSTILE, leader_name=HOSTILE, warnings=[HOSTILE])
    for html in (picture(hostile), picture(LogError(HOSTILE)), page(HOSTILE)):
        assert "<img" not in html
    texts(picture(hostile))


def test_a_look_that_is_old_says_so():
    assert "As of 60 s ago" in picture(report(look(leader(), follower(), TAIL)), 60.0)
    assert "As of" not in picture(report(look(leader(), follower(), TAIL)), 1.0)


def test_the_page_needs_nothing_from_elsewhere():
    whole = page("shop")
    assert not re.search(r"https?://|//[a-z]|@import|url\(", whole)
    assert not re.search(r"<(script|link|img)[^>]+(src|href)=", whole)
