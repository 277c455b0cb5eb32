"""What `ops/soak` found, one numbered test each, in the order of finding."""

from __future__ import annotations

import psycopg
import pytest

from cdc.errors import BlockedError, RetryableError
from cdc.local import KafkaServer
from connectors.kafka import admin
from connectors.kafka.settings import common_settings
from connectors.postgres.errors import condition, decoding_error
from tests.support.proxy import HALF_OPEN, PASS, Proxy

pytestmark = pytest.mark.faults


def test_1_a_kafka_client_that_is_late_with_its_timeout_is_an_error_that_passes(
    kafka: KafkaServer, monkeypatch: pytest.MonkeyPatch
):
    """Brokers went away on a busy machine: nobody said so within the time of the request, and capture's guard ended."""
    monkeypatch.setattr(admin, "_LATE_SECONDS", -4.0)
    with Proxy(kafka.start().bootstrap_servers) as proxy:
        proxy.set(HALF_OPEN)
        log_admin = admin.LogAdmin(common_settings(proxy.address, "soak"), "no.log")

        with pytest.raises(RetryableError, match="kafka has not answered for 1 s"):
            log_admin.find()

        monkeypatch.undo()
        proxy.set(PASS)
        assert log_admin.find() is None


def test_2_a_server_that_fails_to_decode_is_asked_again_loudly_and_not_given_up():
    """PostgreSQL 18 could not open a relation while it decoded a TRUNCATE after its disk was full: capture ended."""
    error = psycopg.errors.InternalError_("could not open relation with OID 16540")

    assert type(decoding_error(error, "us-east")) is BlockedError
    assert condition(error) == "internal error"
    assert type(decoding_error(psycopg.errors.DataCorrupted(), "us-east")) is not BlockedError
