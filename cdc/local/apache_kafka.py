"""Apache Kafka itself, nodes that are broker and controller (KRaft), from a folder of jars."""

from __future__ import annotations

import subprocess
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cdc.local.java import Java
from cdc.local.kafka import ProcessKafka
from cdc.local.ports import free_port
from cdc.local.processes import run_child, start_child

_FORMAT_SECONDS = 60.0
_ONE_COMPILER = "-XX:TieredStopAtLevel=1"
# Log levels are quiet enough to read, and show why a start failed.
_LOG4J = """\
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{ISO8601} %-5p %c{1}: %m%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
logger.server.name = kafka.server
logger.server.level = info
"""


@dataclass(frozen=True)
class Membership:
    """A node's place in a cluster; `controllers` are the ports of all, in the order of their ids from 1 on."""

    cluster_id: str
    node_id: int
    controllers: tuple[int, ...]

    @property
    def voters(self) -> str:
        return ",".join(f"{number}@127.0.0.1:{port}" for number, port in enumerate(self.controllers, 1))


@dataclass(frozen=True)
class SecureListener:
    """SASL over TLS: the broker's key and certificates in one PEM file, and the passwords of users for PLAIN.

    Users for SCRAM are made in the broker once it runs, and so are the rights of all users; whoever comes by the plain
    address may do anything.
    """

    place: str
    pem: Path
    plain_users: Mapping[str, str]

    def properties(self) -> dict[str, str]:
        users = "".join(f' user_{name}="{password}"' for name, password in self.plain_users.items())
        login = "org.apache.kafka.common.security"
        properties = {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self.pem),
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
            # Clients log in again so often: whoever is not let in any more is out after that.
            "plain.connections.max.reauth.ms": "5000",
            "scram-sha-512.connections.max.reauth.ms": "5000",
            "plain.sasl.jaas.config": f"{login}.plain.PlainLoginModule required{users};",
            "scram-sha-512.sasl.jaas.config": f"{login}.scram.ScramLoginModule required;",
        }
        return {
            **{f"listener.name.secure.{name}": value for name, value in properties.items()},
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
        }


class ApacheKafka(ProcessKafka):
    """The broker that everybody runs. Kafka 3.9 or newer, on Java 17 or newer."""

    def __init__(self, java: Java, libs: Path, member: Membership | None = None) -> None:
        """`member` only for a node of a cluster of several."""
        super().__init__(free_port())
        self._java = java
        self._libs = libs
        self._member = member or Membership(_new_cluster_id(), 1, (free_port(),))
        self._more_listeners: dict[str, str] = {}
        self._secure: SecureListener | None = None
        self.description = f"Apache Kafka {_version_of(libs)} on Java {java.major_version}"

    def listen_for(self, advertised: str) -> str:
        """Before the first start: one more address that it listens on, which is returned.

        Clients that come by it are sent to `advertised` (HOST:PORT) for all that follows, so whatever stands there
        stays between them and the broker.
        """
        listened = f"127.0.0.1:{free_port()}"
        self._more_listeners[listened] = advertised
        return listened

    def listen_securely(self, pem: Path, plain_users: Mapping[str, str]) -> str:
        """Before the first start: one more address, for clients that log in over TLS, which is returned."""
        self._secure = SecureListener(f"127.0.0.1:{free_port()}", pem, plain_users)
        return self._secure.place

    @classmethod
    def cluster(cls, java: Java, libs: Path, nodes: int) -> Sequence[Self]:
        """Nodes of one cluster. None of them is ready before most are started: start them side by side."""
        cluster_id, ports = _new_cluster_id(), tuple(free_port() for _ in range(nodes))
        return [cls(java, libs, Membership(cluster_id, number, ports)) for number in range(1, nodes + 1)]

    def _launch(self, folder: Path) -> subprocess.Popen[bytes]:
        properties = folder / "server.properties"
        if not properties.exists():
            (folder / "log4j2.properties").write_text(_LOG4J)
            unformatted = folder / "unformatted.properties"
            unformatted.write_text(self._server_properties(folder))
            self._format(folder, unformatted)
            unformatted.rename(properties)
        # It lives for minutes, in which the second compiler takes more CPU than all that it makes faster.
        return start_child(
            self._command("-Xmx512m", "-Xms128m", "-XX:+UseSerialGC", _ONE_COMPILER, "kafka.Kafka", properties),
            output=self.log_path,
            folder=folder,
        )

    def _format(self, folder: Path, properties: Path) -> None:
        tool: list[str | Path] = ["kafka.tools.StorageTool", "format", "-t", self._member.cluster_id, "-c", properties]
        run_child(
            self._command("-Xmx128m", _ONE_COMPILER, "-XX:+UseSerialGC", *tool),
            seconds=_FORMAT_SECONDS,
            output=self.log_path,
            folder=folder,
        )

    def _command(self, *arguments: str | Path) -> list[str | Path]:
        log4j = self._folder.path / "log4j2.properties"
        options = [f"-Dlog4j2.configurationFile={log4j.as_uri()}", "-Djava.awt.headless=true", "-Xshare:auto"]
        return [self._java.binary, *options, "-cp", f"{self._libs}/*", *arguments]

    def _server_properties(self, folder: Path) -> str:
        member = self._member
        controller = f"127.0.0.1:{member.controllers[member.node_id - 1]}"
        more = {f"VIA{n}": place for n, place in enumerate(self._more_listeners.items())}
        listeners = {"PLAINTEXT": (self.bootstrap_servers, self.bootstrap_servers), **more}
        listeners["CONTROLLER"] = (controller, controller)
        protocols = dict.fromkeys(listeners, "PLAINTEXT")
        if self._secure:
            listeners["SECURE"] = (self._secure.place, self._secure.place)
            protocols["SECURE"] = "SASL_SSL"
        properties = {
            "process.roles": "broker,controller",
            "node.id": str(member.node_id),
            "controller.quorum.voters": member.voters,
            "controller.listener.names": "CONTROLLER",
            "listeners": ",".join(f"{name}://{here}" for name, (here, _) in listeners.items()),
            "advertised.listeners": ",".join(f"{name}://{told}" for name, (_, told) in listeners.items()),
            "listener.security.protocol.map": ",".join(f"{name}:{protocol}" for name, protocol in protocols.items()),
            "inter.broker.listener.name": "PLAINTEXT",
            "log.dirs": str(folder / "data"),
            "auto.create.topics.enable": "false",
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.num.partitions": "1",
            "transaction.state.log.min.isr": "1",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            # After a kill the controller waits this long before it takes the broker back.
            "broker.session.timeout.ms": "3000",
            "broker.heartbeat.interval.ms": "500",
            # Records that say nothing, twice a second by default: a third of what a broker at rest takes.
            "metadata.max.idle.interval.ms": "0",
            # For a few clients. Each of the 22 by default wakes three times a second, to see that there is nothing.
            "num.network.threads": "1",
            "num.io.threads": "2",
            # The default takes 128 MB of a heap of 512.
            "log.cleaner.dedupe.buffer.size": "4194304",
            **(self._secure.properties() if self._secure else {}),
        }
        return "".join(f"{name}={value}\n" for name, value in properties.items())


def _new_cluster_id() -> str:
    # One that starts with "-" would be read as an option.
    return "c" + urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")[1:]


def _version_of(libs: Path) -> str:
    return next((jar.stem.partition("-")[2] for jar in sorted(libs.glob("kafka_2.1*.jar"))), "of an unknown version")
