"""TLS to PostgreSQL, SASL over TLS to Kafka: the way that works, and one line where a server is not to be trusted."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest
import trustme
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from cdc.local import PostgresServer
from cdc.local.apache_kafka import ApacheKafka
from cdc.local.processes import wait_for
from connectors.postgres.replication import ReplicationStream
from tests.fixtures.pipeline import Pipelines
from tests.fixtures.servers import SYSTEM, bin_dir_of, durable_kafka
from tests.support.pipeline import FOLLOWER, LEADER, Pipeline, rows_of, run_sql
from tests.support.promotion import fails, the_line
from tests.support.watched import APPLY, DAEMONS

HOST = "127.0.0.1"
USER, SCRAM_PASSWORD, PLAIN_PASSWORD = "cdc", "scram-password-of-the-test", "plain-password-of-the-test"
READER = "reader"
READS = (AclOperation.READ, AclOperation.DESCRIBE, AclOperation.DESCRIBE_CONFIGS)
"""What ops/reference/security.md says that everybody needs on the topic; and who writes."""
WRITES = (*READS, AclOperation.WRITE, AclOperation.CREATE)
COMMANDS = (
    ("init",),
    ("capture",),
    ("apply", "--follower", FOLLOWER),
    ("lag",),
    ("tail",),
    ("leader",),
    ("promote", "--follower", FOLLOWER, "--dry-run"),
)
MISSING = Path("/nonexistent/authority.pem")
END_CONNECTIONS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'cdc {}%'"
YESTERDAY = datetime.now(UTC) - timedelta(days=1)
_ASK_FOR_TLS = (8).to_bytes(4) + (80877103).to_bytes(4)
"""PostgreSQL's SSLRequest."""


def pem_of(certificate: trustme.LeafCert) -> tuple[bytes, bytes]:
    """Key in PKCS 8, which Java insists on, and the certificates."""
    key = load_pem_private_key(certificate.private_key_pem.bytes(), None)
    return (
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        b"".join(blob.bytes() for blob in certificate.cert_chain_pems),
    )


def expired(ca: trustme.CA) -> trustme.LeafCert:
    return ca.issue_cert(HOST, not_before=YESTERDAY - timedelta(days=1), not_after=YESTERDAY)


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
        wanted = ssl.PEM_cert_to_DER_cert(certificate.cert_chain_pems[0].bytes().decode())
        assert wait_for(lambda: self._shown() == wanted, seconds=60)

    def _shown(self) -> bytes | None:
        """The certificate that new connections get; None while they get none."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with socket.create_connection((HOST, self.server.port), 10) as plain:
            plain.sendall(_ASK_FOR_TLS)
            if plain.recv(1) != b"S":
                return None
            with context.wrap_socket(plain) as encrypted:
                return encrypted.getpeercert(binary_form=True)


@dataclass
class Secured:
    """The servers, the authority that they trust, and what a client needs."""

    ca: trustme.CA
    ca_file: Path
    other_ca_file: Path
    postgres: Postgres
    kafka: ApacheKafka
    kafka_servers: str

    def nodes(self, pipeline: Pipeline, ca_file: Path | None = None) -> str:
        dsns = {LEADER: pipeline.leader, FOLLOWER: pipeline.followers[FOLLOWER]}
        return orjson.dumps({name: {"dsn": self.encrypted(dsn, ca_file)} for name, dsn in dsns.items()}).decode()

    def encrypted(self, dsn: str, ca_file: Path | None = None) -> str:
        return f"{dsn}?sslmode=verify-full&sslrootcert={ca_file or self.ca_file}"

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
        secure = kafka.listen_securely(folder / "broker.pem", {USER: PLAIN_PASSWORD, READER: PLAIN_PASSWORD})
        with kafka:
            set_scram_password(kafka, SCRAM_PASSWORD)
            permit(kafka, USER, WRITES)
            permit(kafka, READER, READS)
            postgres = Postgres(server)
            postgres.use(ca.issue_cert(HOST))
            yield Secured(ca, folder / "ca.pem", folder / "other.pem", postgres, kafka, secure)


def set_scram_password(kafka: ApacheKafka, password: str) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
    for future in admin.alter_user_scram_credentials(
        [UserScramCredentialUpsertion(USER, info, password.encode())]
    ).values():
        future.result(30)


def permit(kafka: ApacheKafka, user: str, operations: Iterable[AclOperation]) -> None:
    """On all topics, and on nothing else."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    kind, name, pattern = ResourceType.TOPIC, "*", ResourcePatternType.LITERAL
    rights = [
        AclBinding(kind, name, pattern, f"User:{user}", "*", operation, AclPermissionType.ALLOW)
        for operation in operations
    ]
    for future in admin.create_acls(rights, request_timeout=30).values():
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


def test_whoever_only_reads_needs_no_right_to_write(pipeline: Pipeline, secured: Secured):
    # Given an applier that may read the topic, and nothing else.
    reader = secured.client(sasl_mechanism="PLAIN", sasl_username=READER, sasl_password=PLAIN_PASSWORD)
    pipeline.init().bootstrap()
    pipeline.group.environment[APPLY] = {"CDC_KAFKA__CLIENT": reader}
    pipeline.start()
    pipeline.execute("INSERT INTO t VALUES (1, 'x')")
    pipeline.catch_up()
    pipeline.assert_equal()

    # Then so may whoever only looks.
    told = dict(pipeline.group.overrides)
    pipeline.group.overrides["CDC_KAFKA__CLIENT"] = reader
    for command in ("lag", "tail", "leader", "status"):
        pipeline.run(command)

    # And a capture that may not write says so and ends, and nothing is lost.
    assert pipeline.group.stop("capture") == 0
    pipeline.execute("INSERT INTO t VALUES (2, 'x')")
    assert "refused by the broker" in fails(pipeline, 3, "capture")
    pipeline.group.overrides.update(told)
    pipeline.start_capture()
    pipeline.catch_up()
    pipeline.assert_equal()


@pytest.mark.parametrize(("count", "size"), [(200, 1), (2, 20_000)])
def test_one_read_takes_all_that_has_come_though_libpq_takes_a_record_at_a_time(
    pipeline: Pipeline, secured: Secured, count: int, size: int
):
    # Given a stream of many messages, or of two that are more than a record of TLS each, which have arrived.
    pipeline.init()
    sent = "SELECT FROM pg_stat_replication WHERE pid = {} AND sent_lsn >= '{}'"
    emit = "SELECT pg_logical_emit_message(true, 'test', repeat('x', {})) FROM generate_series(1, {})"
    with ReplicationStream(secured.encrypted(pipeline.leader), "test", LEADER) as stream:
        stream.start(pipeline.group.slot, pipeline.group.slot, 0)
        pipeline.execute(emit.format(size, count))
        ((written,),) = rows_of(pipeline.leader, "SELECT pg_current_wal_flush_lsn()")
        assert wait_for(lambda: rows_of(pipeline.leader, sent.format(stream.backend_pid, written)) != [], seconds=30)

        # When it is read once, then all are there.
        assert sum(b"test" in frame for frame in stream.read(2**20, 5.0)) == count


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
        bad = secured.ca.issue_cert("db.example.org") if kind == "other host" else expired(secured.ca)
        secured.postgres.use(bad)
        try:
            refused(pipeline, secured, {}, LEADER, "certificate")
        finally:
            secured.postgres.use(secured.ca.issue_cert(HOST))

    def test_a_file_of_authorities_that_is_not_there_is_told(self, pipeline: Pipeline, secured: Secured):
        refused(pipeline, secured, {"CDC_NODES": secured.nodes(pipeline, MISSING)}, LEADER, str(MISSING))

    def test_daemons_wait_while_the_certificate_is_too_old_and_go_on_with_the_renewed_one(
        self, pipeline: Pipeline, secured: Secured
    ):
        # Given daemons at work, and a certificate that expires under them
        pipeline.init().bootstrap().start()
        pipeline.execute("INSERT INTO t VALUES (1, 'before')")
        pipeline.catch_up()
        secured.postgres.use(expired(secured.ca))
        try:
            # When their connections end, apply's first, which notices when it has something to write,
            run_sql(secured.postgres.server.dsn(), END_CONNECTIONS.format("apply"))
            pipeline.execute("INSERT INTO t VALUES (2, 'meanwhile')")
            wait_blocked(pipeline, APPLY, "certificate verify failed")
            run_sql(secured.postgres.server.dsn(), END_CONNECTIONS.format("capture"))
            pipeline.execute("INSERT INTO t VALUES (3, 'meanwhile')")
            # then both say more than once why they do not come back,
            wait_blocked(pipeline, "capture", "certificate verify failed")
        finally:
            secured.postgres.use(secured.ca.issue_cert(HOST))

        # and go on by themselves with the next certificate.
        pipeline.catch_up(seconds=90)
        pipeline.assert_equal()


KINDS_OF_REFUSAL = {
    "scram password": ({"sasl_password": "wrong-password"}, ["SASL", "invalid credentials"]),
    "plain password": ({"sasl_mechanism": "PLAIN", "sasl_password": "wrong-password"}, ["SASL", "Invalid username"]),
    "mechanism": ({"sasl_mechanism": "SCRAM-SHA-256"}, ["mechanism", "SCRAM-SHA-512"]),
    "another authority": ({"ssl_ca_location": "other"}, ["certificate is not trusted", "ssl.ca.location"]),
    "another host": ({}, ["certificate is not trusted", "localhost"]),
}


class TestKafka:
    @pytest.mark.parametrize(
        "kind",
        [
            "plain password",
            "another host",
            pytest.param("scram password", marks=pytest.mark.long),
            pytest.param("mechanism", marks=pytest.mark.long),
            pytest.param("another authority", marks=pytest.mark.long),
        ],
    )
    def test_a_broker_and_a_client_that_do_not_trust_each_other_make_nothing(
        self, pipeline: Pipeline, secured: Secured, kind: str
    ):
        refused(pipeline, secured, not_let_in(secured, kind), *KINDS_OF_REFUSAL[kind][1])

    @pytest.mark.parametrize("kind", ["scram password", pytest.param("another authority", marks=pytest.mark.long)])
    def test_every_command_says_why_it_is_not_let_in(self, pipeline: Pipeline, secured: Secured, kind: str):
        # Given a group that could run
        pipeline.init().bootstrap()

        # When each command is started with a client that the broker refuses, or that refuses the broker
        pipeline.group.overrides.update(not_let_in(secured, kind))
        with ThreadPoolExecutor(len(COMMANDS)) as pool:
            ends = list(pool.map(lambda command: pipeline.group.run(*command, seconds=120), COMMANDS))

        # Then its last line names the cause, it is said what to do, and nothing that is secret.
        cause, *words = KINDS_OF_REFUSAL[kind][1]
        for command, done in zip(COMMANDS, ends, strict=True):
            assert done.returncode == 3, f"{command} ended with {done.returncode}: {done.stderr}"
            assert cause in the_line(done), command
            for word in words:
                assert word in done.stdout + done.stderr, command
            check_silent_about_secrets(secured, done.stderr, done.stdout)

    def test_a_file_of_authorities_that_is_not_there_is_told(self, pipeline: Pipeline, secured: Secured):
        pipeline.group.overrides["CDC_KAFKA__CLIENT"] = secured.client(ssl_ca_location=str(MISSING))
        assert "ssl.ca.location" in fails(pipeline, 2, "init")

    @pytest.mark.long
    def test_daemons_that_are_not_let_in_any_more_say_so_and_go_on_when_they_are(
        self, pipeline: Pipeline, secured: Secured
    ):
        # Given daemons at work
        pipeline.init().bootstrap().start()
        pipeline.execute("INSERT INTO t VALUES (1, 'before')")
        pipeline.catch_up()
        try:
            # When their password is changed in the broker, then both say so more than once and run on,
            set_scram_password(secured.kafka, "another-password")
            pipeline.execute("INSERT INTO t VALUES (2, 'meanwhile')")
            for daemon in DAEMONS:
                wait_blocked(pipeline, daemon, "invalid credentials")
        finally:
            set_scram_password(secured.kafka, SCRAM_PASSWORD)

        # and go on by themselves once it is what it was.
        pipeline.catch_up(seconds=90)
        pipeline.assert_equal()
        check_silent_about_secrets(secured, *map(pipeline.log_of, DAEMONS))


def not_let_in(secured: Secured, kind: str) -> dict[str, str]:
    """Environment of a command that will not be let in."""
    changes = dict(KINDS_OF_REFUSAL[kind][0])
    if "ssl_ca_location" in changes:
        changes["ssl_ca_location"] = str(secured.other_ca_file)
    servers = secured.kafka_servers.replace(HOST, "localhost") if kind == "another host" else secured.kafka_servers
    return {"CDC_KAFKA__CLIENT": secured.client(**changes), "CDC_KAFKA__BOOTSTRAP_SERVERS": servers}


def wait_blocked(pipeline: Pipeline, daemon: str, why: str) -> None:
    def told() -> int:
        lines = pipeline.log_of(daemon).splitlines()
        return sum("blocked until somebody acts" in line and why in line for line in lines)

    assert wait_for(lambda: told() > 1, seconds=90), pipeline.log_of(daemon)
    pipeline.check_running(daemon)
