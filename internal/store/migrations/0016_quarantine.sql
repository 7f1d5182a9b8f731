-- Quarantine that nobody can fill: content leaves after a while, what is beyond the limits is counted, and
-- a message is known by its digest, whether its bytes are kept or not.

ALTER TABLE quarantine
    MODIFY COLUMN `digest` FixedString(32) DEFAULT SHA256(bytes),
    ADD COLUMN IF NOT EXISTS `size` UInt64 DEFAULT length(bytes) COMMENT 'bytes of the message as it came' CODEC(T64, ZSTD(1)) AFTER `digest`,
    ADD COLUMN IF NOT EXISTS `bytes_kept` UInt64 DEFAULT length(bytes) COMMENT 'bytes of it that were kept on arrival: all, or 0 where the sender was beyond its limit' CODEC(T64, ZSTD(1)) AFTER `size`,
    ADD COLUMN IF NOT EXISTS `bytes_expire` DateTime DEFAULT now() + INTERVAL 90 DAY COMMENT 'when the bytes may go, counted from arrival; the rest of the row stays, as the ledger' CODEC(DoubleDelta, ZSTD(1)) AFTER `bytes_kept`;

ALTER TABLE quarantine
    COMMENT COLUMN `bytes` 'the message as it came; empty: not kept, as the sender was beyond its limit, or not kept any more';

ALTER TABLE quarantine
    MODIFY COLUMN `bytes` TTL bytes_expire;

ALTER TABLE quarantine
    MODIFY COMMENT 'Messages, or parts of messages, that could not be taken at face value, kept byte for byte within limits for each sender, reason and day; beyond, without their bytes, or counted in quarantine_dropped. Nothing here was counted as telemetry, except under reason range: there the rows were stored with the impossible values absent. Under reason conflict another message has the identity: a spool that was put back to an earlier state, or a forger. A message that was published again (flopwatch quarantine retry) and taken stays here too: batches lists it then, and that counts.';

CREATE TABLE IF NOT EXISTS quarantine_dropped
(
    `stream`      LowCardinality(String) COMMENT 'JetStream stream' CODEC(ZSTD(1)),
    `stream_seq`  UInt64 COMMENT 'sequence in the stream of the first of them' CODEC(Delta, ZSTD(1)),
    `last_seq`    UInt64 COMMENT 'of the last of them; others lie between' CODEC(Delta, ZSTD(1)),
    `subject`     String COMMENT 'subject that they came on' CODEC(ZSTD(1)),
    `reason`      LowCardinality(String) COMMENT 'why they were to go to quarantine, as there' CODEC(ZSTD(1)),
    `messages`    UInt64 COMMENT 'how many' CODEC(T64, ZSTD(1)),
    `size`        UInt64 COMMENT 'bytes of them all' CODEC(T64, ZSTD(1)),
    `broker_ms`   Int64 COMMENT 'broker time of the first, Unix ms' CODEC(Delta, ZSTD(1)),
    `epoch`       UInt64 COMMENT 'fencing epoch of the collector' CODEC(ZSTD(1)),
    `inserted_at` DateTime64(3) DEFAULT now64(3) COMMENT 'wall time of the insert' CODEC(Delta, ZSTD(1))
)
ENGINE = {{replacing ""}}
ORDER BY (stream, stream_seq, subject, reason)
SETTINGS {{settings}}
COMMENT 'Messages that were not even kept in quarantine, as their sender was beyond its limit of the day: counted, by range of the stream. None of them has an identity that the accounting of batches needs.';

CREATE OR REPLACE VIEW v_quarantine AS
SELECT cluster, node, reason, toStartOfHour(fromUnixTimestamp64Milli(at_ms, 'UTC')) AS hour, sum(kept) AS messages, sum(dropped) AS messages_dropped, sum(came) AS bytes_came
FROM
(
    SELECT if(cluster != '', toString(cluster), splitByChar('.', subject)[4]) AS cluster, multiIf(node != '', toString(node), splitByChar('.', subject)[3] = 'provider', '', splitByChar('.', subject)[5]) AS node,
        toString(reason) AS reason, broker_ms AS at_ms, toUInt64(1) AS kept, toUInt64(0) AS dropped, size AS came
    FROM quarantine FINAL
    UNION ALL
    SELECT splitByChar('.', subject)[4], if(splitByChar('.', subject)[3] = 'provider', '', splitByChar('.', subject)[5]), toString(reason), broker_ms, toUInt64(0), messages, size
    FROM quarantine_dropped FINAL
)
GROUP BY cluster, node, reason, hour
COMMENT 'What could not be taken at face value, by host, reason and hour of the broker: kept, and dropped beyond the limits.';
