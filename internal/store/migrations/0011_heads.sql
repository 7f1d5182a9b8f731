-- What a node signs of each batch, so that nobody can leave one out, put one in or move one later;
-- the clocks of the seal; and what the batch said that its spool had given up.

ALTER TABLE batches
    ADD COLUMN IF NOT EXISTS `sealed_wall_ms` Int64 COMMENT 'wall clock of the host when the batch was sealed, Unix ms; 0: not stated' CODEC(Delta, ZSTD(1)) AFTER `ticks`,
    ADD COLUMN IF NOT EXISTS `sealed_boot_ms` Int64 COMMENT 'boot-time clock of the host when the batch was sealed, ms; 0: not stated' CODEC(Delta, ZSTD(1)) AFTER `sealed_wall_ms`,
    ADD COLUMN IF NOT EXISTS `body_digest` FixedString(32) COMMENT 'SHA-256 of the batch\'s message without key and signature, a part of what is signed; zero: not signed' CODEC(ZSTD(1)) AFTER `prev_digest`,
    ADD COLUMN IF NOT EXISTS `node_key` FixedString(32) COMMENT 'public key (Ed25519) of the node, as the batch states it; zero: not signed' CODEC(ZSTD(1)) AFTER `body_digest`,
    ADD COLUMN IF NOT EXISTS `signature` FixedString(64) COMMENT 'the node\'s signature of the batch\'s head: cluster, node, spool, sequence, prev_digest, body_digest, gaps. It was not verified when it was stored: flopwatch chain verify does; zero: not signed' CODEC(NONE) AFTER `node_key`,
    ADD COLUMN IF NOT EXISTS `gap_from` Array(UInt64) COMMENT 'ranges of sequences that the batch said are given up: first of each' CODEC(ZSTD(1)) AFTER `signature`,
    ADD COLUMN IF NOT EXISTS `gap_to` Array(UInt64) COMMENT 'last of each' CODEC(ZSTD(1)) AFTER `gap_from`,
    ADD COLUMN IF NOT EXISTS `gap_reason` Array(UInt8) COMMENT 'why: 1 the spool was full, 2 too old, 3 damaged on disk, 4 no room on the disk' CODEC(ZSTD(1)) AFTER `gap_to`,
    ADD COLUMN IF NOT EXISTS `gap_digest` Array(FixedString(32)) COMMENT 'SHA-256 of the last frame of each, so that the chain goes on; zero: it could not be read' CODEC(ZSTD(1)) AFTER `gap_reason`;

CREATE TABLE IF NOT EXISTS node_keys
(
    `cluster`    LowCardinality(String) COMMENT 'cluster of the node' CODEC(ZSTD(1)),
    `node`       LowCardinality(String) COMMENT 'the node' CODEC(ZSTD(1)),
    `node_key`   FixedString(32) COMMENT 'public key (Ed25519) that the operator has vouched for, or withdrawn' CODEC(ZSTD(1)),
    `trusted`    UInt8 COMMENT '1: this is the node\'s own; 0: it is not, or no more' CODEC(ZSTD(1)),
    `from_ms`    Int64 COMMENT 'Unix ms from which on that holds, by the broker\'s clock' CODEC(Delta, ZSTD(1)),
    `noted_by`   String COMMENT 'who said so' CODEC(ZSTD(1)),
    `noted_at`   DateTime64(3) DEFAULT now64(3) COMMENT 'wall time of the note' CODEC(Delta, ZSTD(1))
)
ENGINE = {{replacing "noted_at"}}
ORDER BY (cluster, node, node_key, from_ms)
SETTINGS {{settings}}
COMMENT 'Keys of nodes that an operator has vouched for or withdrawn. Without a note the first key of a spool is believed, and every other one is told.';

CREATE OR REPLACE VIEW v_node_keys AS
SELECT cluster, node, hex(node_key) AS key, uniqExact(spool) AS spools, count() AS batches,
    fromUnixTimestamp64Milli(min(available_ms), 'UTC') AS first_seen, fromUnixTimestamp64Milli(max(available_ms), 'UTC') AS last_seen
FROM batches FINAL
WHERE node_key != unhex(repeat('00', 32))
GROUP BY cluster, node, node_key
COMMENT 'Which keys each node has signed with, and since when.';

CREATE OR REPLACE VIEW v_batches AS
SELECT *, fromUnixTimestamp64Milli(available_ms, 'UTC') AS available
FROM batches FINAL
COMMENT 'Batches that are stored, one row each.';

CREATE OR REPLACE VIEW v_node_hours AS
SELECT cluster, node, toStartOfHour(fromUnixTimestamp64Milli(at_ms, 'UTC')) AS hour,
    countIf(fate = 'stored') AS batches_stored, sumIf(rows, fate = 'stored') AS rows_stored, sum(ticks) AS ticks_stored,
    countIf(fate = 'quarantine') AS batches_quarantined, countIf(fate = 'bytes') AS batches_lost_full, countIf(fate = 'age') AS batches_lost_age,
    countIf(fate = 'corrupt') AS batches_lost_corrupt, countIf(fate = 'disk') AS batches_lost_disk, sum(missing) AS batches_missing
FROM
(
    SELECT cluster, node, spool, sequence, fate, rows, at_ms,
        if(fate = 'stored' AND previous = sequence - 1 AND boot_id = previous_boot AND total_ticks >= previous_ticks, toInt64(total_ticks) - toInt64(previous_ticks), toInt64(fate = 'stored' AND total_ticks > 0)) AS ticks,
        toInt64(sequence) - toInt64(previous) - 1 AS missing
    FROM
    (
        SELECT *,
            lagInFrame(sequence, 1, 0) OVER w AS previous, lagInFrame(boot_id, 1, '') OVER w AS previous_boot, lagInFrame(total_ticks, 1, 0) OVER w AS previous_ticks
        FROM
        (
            SELECT cluster, node, spool, sequence, argMin(fate, rank) AS fate, argMin(rows, rank) AS rows, argMin(boot_id, rank) AS boot_id, argMin(total_ticks, rank) AS total_ticks, argMin(at_ms, rank) AS at_ms
            FROM
            (
                SELECT cluster, node, spool, sequence, 'stored' AS fate, 0 AS rank, toUInt64(arraySum([COLUMNS('^[a-z]+_rows$')])) AS rows, boot_id, ticks AS total_ticks,
                    multiIf(sealed_wall_ms > 0, sealed_wall_ms, max_ts_ms > 0, max_ts_ms, available_ms) AS at_ms
                FROM batches
                UNION ALL
                SELECT cluster, node, spool, sequence, 'quarantine', 1, rows, '', toUInt64(0), broker_ms FROM quarantine WHERE sequence > 0 AND reason != 'range'
                UNION ALL
                SELECT cluster, node, spool, arrayJoin(range(from_sequence, least(to_sequence, from_sequence + 999999) + 1)) AS sequence, reason, 2, toUInt64(0), '', toUInt64(0), available_ms FROM gaps FINAL
            )
            GROUP BY cluster, node, spool, sequence
        )
        WINDOW w AS (PARTITION BY cluster, node, spool ORDER BY sequence ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
    )
)
GROUP BY cluster, node, hour
COMMENT 'What became of each host\'s batches, by the hour in which they were sealed: stored, in quarantine, given up by the spool and why, missing (on their way, or taken out). Of what was lost the hour is when that became known; what is missing counts in the hour of the batch behind it. ticks_stored counts sampling ticks between batches that follow each other.';
