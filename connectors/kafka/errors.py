"""Kafka error codes to what an operator should do: wait, correct the setup, or start a new log."""

from __future__ import annotations

from confluent_kafka import KafkaError, KafkaException

from cdc.errors import NEW_GROUP, CdcError, CheckError, ConfigError, LogError, RefusedError, RetryableError

_UNKNOWN_TOPIC = (
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
)
_REFUSED = (
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.SASL_AUTHENTICATION_FAILED,
    KafkaError.UNSUPPORTED_SASL_MECHANISM,
    KafkaError.ILLEGAL_SASL_STATE,
    KafkaError._AUTHENTICATION,
)
_NOT_LET_IN = (KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED, KafkaError._SSL)
"""Of a connection: the client tries again for ever, and whatever was asked of it ends with a mere timeout."""
_TOO_LARGE = (KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE)
_SETUP = (KafkaError.POLICY_VIOLATION, KafkaError.INVALID_CONFIG)

NO_SUCH_TOPIC_REMEDY = f"run cdc init if the group is new; a log that was deleted cannot come back: {NEW_GROUP}"


def translate(error: KafkaError | KafkaException, where: str) -> CdcError:
    """The error for people; `where` names the topic or the cluster. Unknown codes are retried."""
    kafka_error = error.args[0] if isinstance(error, KafkaException) else error
    if not isinstance(kafka_error, KafkaError):
        return CheckError(f"kafka client: {kafka_error}", "correct the kafka settings", where)
    code = kafka_error.code()
    text = f"{kafka_error.str().partition(' (after ')[0]} ({kafka_error.name()})"
    if code in _UNKNOWN_TOPIC:
        return LogError("the topic does not exist", NO_SUCH_TOPIC_REMEDY, where)
    if code == KafkaError._AUTO_OFFSET_RESET:
        return LogError(
            "the wanted offset is not in the log any more",
            "records were lost to retention or the log was replaced: bootstrap the follower again",
            where,
        )
    if code in _REFUSED:
        return RefusedError(
            f"refused by the broker: {text}",
            "grant the client what it needs, or correct the kafka security settings",
            where,
        )
    if code == KafkaError._SSL:
        return _untrusted(text, where)
    if code in _TOO_LARGE:
        return LogError(f"a record is too large for the broker: {text}", "raise max.message.bytes of the topic", where)
    if code == KafkaError._INVALID_ARG:
        return ConfigError(f"kafka client: {text}", "correct the kafka settings", where)
    if code in _SETUP:
        return CheckError(f"kafka client: {text}", "correct the kafka settings", where)
    return RetryableError(f"kafka: {text}", "see that the brokers run and can be reached", where)


def _untrusted(text: str, where: str) -> CdcError:
    """No TLS. Of a certificate that is not trusted the client does not say why."""
    if "certificate verify failed" not in text:
        return RefusedError(f"no TLS with the broker: {text}", "correct the kafka security settings", where)
    return RefusedError(
        f"the broker's certificate is not trusted: {text.partition(': ')[0]} (_SSL)",
        "name in ssl.ca.location the authority that signed it, and in bootstrap_servers the host that it was made for; "
        "see that it has not expired",
        where,
    )


class Refusal:
    """Why brokers did not let one client in, kept for when it has something to explain."""

    def __init__(self) -> None:
        self._error: KafkaError | None = None

    def note(self, error: KafkaError) -> bool:
        """Whether the error is a refusal. Others pass; one broker of several that refuses is no matter."""
        if error.code() not in _NOT_LET_IN:
            return False
        self._error = error
        return True

    def forget(self) -> None:
        """The client was let in."""
        self._error = None

    def explain(self, error: CdcError) -> CdcError:
        """What was refused, if that is why nothing was answered in time, else `error`."""
        if self._error is None or not isinstance(error, RetryableError):
            return error
        return translate(self._error, error.where or "kafka")
