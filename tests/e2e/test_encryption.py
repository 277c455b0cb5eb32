"""TLS to PostgreSQL, SASL over TLS to Kafka: the way that works, and one line where a server is not to be trusted."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest
import trustme
from confluent_kafka.admin import AdminClient, ScramCredentialInfo, ScramMechanism, UserScramCredentialUpsertion
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from cdc.local import PostgresServer
from cdc.local.apache_kafka import ApacheKafka
from cdc.local.processes import wait_for
from tests.fixtures.pipeline import Pipelines
from tests.fixtures.servers import SYSTEM, bin_dir_of, durable_kafka
from tests.support.pipeline import FOLLOWER, LEADER, Pipeline, rows_of, run_sql

HOST = "127.0.0.1"
USER, SCRAM_PASSWORD, PLAIN_PASSWORD = "cdc", "scram-password-of-the-test", "plain-password-of-the-test"
APPLY = f"apply {FOLLOWER}"
YESTERDAY = datetime.now(UTC) - timedelta(days=1)


def pem_of(certificate: trustme.LeafCert) -> tuple[bytes, bytes]:
    """Key in PKCS 8, which Java insists on, and the certificates."""
    key = load_pem_private_key(certificate.private_key_pem.bytes(), None)
    return (
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        b"".join(blob.bytes() for blob in certificate.cert_chain_pems),
    )


class Postgres:
    """A server that speaks TLS; its certificate can be changed while it runs."""

    def __init__(self, server: PostgresServer) -> None:
        self.server = server

    def use(self, certificate: trustme.LeafCert) -> None:
        key, certificates = pem_of(certificate)
        owner = self.server.data_dir.stat()
        for name, content in (("server.key", key), ("server.crt", certificates)):
            path = self.server.data_dir / name
            path.write_bytes(content)
            path.chmod(0o600)
            os.chown(path, owner.st_uid, owner.st_gid)
        run_sql(self.server.dsn(), "ALTER SYSTEM SET ssl = on", "SELECT pg_reload_conf()")
        wanted = certificates.partition(b"-----END")[0]
        assert wanted
        assert wait_for(lambda: rows_of(self.server.dsn(), "SHOW ssl") == [("on",)], seconds=20)


@dataclass
class Secured:
    """The servers, the authority that they trust, and what a client needs."""

    ca: trustme.CA
    ca_file: Path
    other_ca_file: Path
    postgres: Postgres
    kafka: ApacheKafka
    kafka_servers: str

    def nodes(self, pipeline: Pipeline, ca_file: Path | None = None, mode: str = "verify-full") -> str:
        dsns = {LEADER: pipeline.leader, FOLLOWER: pipeline.followers[FOLLOWER]}
        tls = f"sslmode={mode}&sslrootcert={ca_file or self.ca_file}"
        return orjson.dumps({name: {"dsn": f"{dsn}?{tls}"} for name, dsn in dsns.items()}).decode()

    def client(self, **changes: str) -> str:
        settings = {
            "security.protocol": "SASL_SSL",
            "ssl.ca.location": str(self.ca_file),
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": USER,
            "sasl.password": SCRAM_PASSWORD,
        }
        return orjson.dumps({**settings, **{k.replace("_", "."): v for k, v in changes.items()}}).decode()

    def configure(self, pipeline: Pipeline) -> None:
        pipeline.group.overrides.update(
            CDC_NODES=self.nodes(pipeline),
            CDC_KAFKA__CLIENT=self.client(),
            CDC_KAFKA__BOOTSTRAP_SERVERS=self.kafka_servers,
        )


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("authority")
    ca, other = trustme.CA(), trustme.CA()
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    other.cert_pem.write_to_path(str(folder / "other.pem"))
    key, certificates = pem_of(ca.issue_cert(HOST))
    (folder / "broker.pem").write_bytes(key + certificates)
    kafka = durable_kafka()
    if not isinstance(kafka, ApacheKafka):
        kafka.close()
        pytest.skip("only an Apache Kafka of our own can be given a certificate")
    with PostgresServer(bin_dir_of(SYSTEM), fsync=False, authentication="scram-sha-256") as server:
        secure = kafka.listen_securely(folder / "broker.pem", {USER: PLAIN_PASSWORD})
        with kafka:
            make_scram_user(kafka)
            postgres = Postgres(server)
            postgres.use(ca.issue_cert(HOST))
            yield Secured(ca, folder / "ca.pem", folder / "other.pem", postgres, kafka, secure)


def make_scram_user(kafka: ApacheKafka) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
    for future in admin.alter_user_scram_credentials(
        [UserScramCredentialUpsertion(USER, info, SCRAM_PASSWORD.encode())]
    ).values():
        future.result(30)


@pytest.fixture
def pipeline(pipelines: Pipelines, secured: Secured) -> Pipeline:
    server = secured.postgres.server
    pipeline = pipelines.new(
        "CREATE TABLE t (id int PRIMARY KEY, x text)", leader=server, follower=server, kafka_server=secured.kafka
    )
    secured.configure(pipeline)
    return pipeline


def check_silent_about_secrets(secured: Secured, *texts: str) -> None:
    secrets = [SCRAM_PASSWORD, PLAIN_PASSWORD, secured.postgres.server.password or "?", "PRIVATE KEY"]
    for text in texts:
        assert not [secret for secret in secrets if secret in text]


def test_every_connection_is_encrypted_and_logged_in(pipeline: Pipeline, secured: Secured):
    # Given servers with certificates that clients check, when a group is made and runs.
    pipeline.execute("INSERT INTO t SELECT i, 'before' FROM generate_series(1, 100) i")
    pipeline.init().bootstrap().start()
    pipeline.execute("INSERT INTO t SELECT i, 'after' FROM generate_series(101, 400) i")
    pipeline.catch_up()
    pipeline.assert_equal()

    # Then each of its connections is encrypted, and PLAIN works as SCRAM does.
    clear = (
        "SELECT application_name FROM pg_stat_activity JOIN pg_stat_ssl USING (pid) "
        "WHERE application_name LIKE 'cdc%' AND NOT ssl"
    )
    encrypted = clear.replace("NOT ssl", "ssl")
    assert rows_of(pipeline.leader, clear) == []
    assert len(rows_of(pipeline.leader, encrypted)) >= 3  # capture's two, apply's
    pipeline.group.overrides["CDC_KAFKA__CLIENT"] = secured.client(sasl_mechanism="PLAIN", sasl_password=PLAIN_PASSWORD)
    pipeline.run("lag")
    check_silent_about_secrets(secured, pipeline.log_of("capture"), pipeline.log_of(APPLY))


def refused(pipeline: Pipeline, secured: Secured, overrides: Mapping[str, str], *words: str) -> None:
    """`cdc init` ends with one line that holds `words`, and has made nothing."""
    pipeline.group.overrides.update(overrides)
    done: subprocess.CompletedProcess[str] = pipeline.group.run("init")
    assert done.returncode == 3, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0]
    check_silent_about_secrets(secured, done.stderr, done.stdout)
    assert rows_of(pipeline.leader, f"SELECT FROM pg_publication WHERE pubname = '{pipeline.group.slot}'") == []


class TestPostgres:
    def test_a_certificate_of_another_authority_is_refused(self, pipeline: Pipeline, secured: Secured):
        refused(pipeline, secured, {"CDC_NODES": secured.nodes(pipeline, secured.other_ca_file)}, LEADER, "certificate")

    @pytest.mark.parametrize("kind", ["other host", "expired"])
    def test_a_certificate_that_is_not_this_servers_or_too_old_is_refused(
        self, pipeline: Pipeline, secured: Secured, kind: str
    ):
        bad = (
            secured.ca.issue_cert("db.example.org")
            if kind == "other host"
            else secured.ca.issue_cert(HOST, not_before=YESTERDAY - timedelta(days=1), not_after=YESTERDAY)
        )
        secured.postgres.use(bad)
        try:
            refused(pipeline, secured, {}, LEADER, "certificate")
        finally:
            secured.postgres.use(secured.ca.issue_cert(HOST))
