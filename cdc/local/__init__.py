"""Servers on this machine: one way to have them for the demo, the tests and the benchmarks alike.

Real PostgreSQL and real Kafka, in temporary folders and on free ports. Whatever is started here
ends with the process that started it, even when that is killed with SIGKILL (`processes`), and its
folder goes at the end, or with the next start (`folders`).

Nothing of the pipeline itself imports this package.
"""

from cdc.local.errors import LocalServerError
from cdc.local.kafka import KafkaServer
from cdc.local.kafka_choice import find_kafka
from cdc.local.postgres import PostgresServer, system_postgres, wheel_bin_dir

__all__ = [
    "KafkaServer",
    "LocalServerError",
    "PostgresServer",
    "find_kafka",
    "system_postgres",
    "wheel_bin_dir",
]
