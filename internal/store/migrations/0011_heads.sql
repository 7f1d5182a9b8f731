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
