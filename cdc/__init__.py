"""Leader and follower replication of PostgreSQL through an ordered log in Kafka."""

__version__ = "0.1.0"
