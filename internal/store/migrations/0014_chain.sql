-- What became of every tick; other content under a number that is taken; and, by the hour, whether
-- what hosts signed holds, and what was lost.

ALTER TABLE batches
    MODIFY COLUMN `ticks` COMMENT 'sampling ticks that were due since the agent started, up to this batch: a jump shows what was lost before the spool',
    ADD COLUMN IF NOT EXISTS `first_tick` UInt64 COMMENT 'first tick whose rows can be in the batch: between the ticks of the batch before it and this lies what was given up before it came to the spool; 0: not stated' CODEC(Delta, ZSTD(1)) AFTER `ticks`,
    ADD COLUMN IF NOT EXISTS `missed_ticks` UInt64 COMMENT 'of ticks, those that passed without a sample: the host was suspended, or overloaded' CODEC(Delta, ZSTD(1)) AFTER `first_tick`;

ALTER TABLE quarantine
    ADD COLUMN IF NOT EXISTS `digest` FixedString(32) MATERIALIZED SHA256(bytes) COMMENT 'SHA-256 of the message' CODEC(ZSTD(1)) AFTER `bytes`,
    MODIFY COLUMN `reason` COMMENT 'closed set: size, subject, version, decode, range, future, past, available, conflict';

ALTER TABLE quarantine
    MODIFY COMMENT 'Messages, or parts of messages, that could not be taken at face value, kept byte for byte. Nothing here was counted as telemetry, except under reason range: there the rows were stored with the impossible values absent. Under reason conflict another message has the identity: a spool that was put back to an earlier state, or a forger. A message that was published again (flopwatch quarantine retry) and taken stays here too: batches lists it then, and that counts.';

CREATE TABLE IF NOT EXISTS chain_hours
(
    `cluster`      LowCardinality(String) COMMENT 'cluster of the host' CODEC(ZSTD(1)),
    `node`         LowCardinality(String) COMMENT 'the host; empty: the provider' CODEC(ZSTD(1)),
    `hour_ms`      Int64 COMMENT 'start of the hour in which the batches became available, Unix ms' CODEC(Delta, ZSTD(1)),
    `status`       LowCardinality(String) COMMENT 'verified; unsigned: in part, or wholly, and nothing else is wrong; incomplete: batches are missing; broken: see reasons' CODEC(ZSTD(1)),
    `reasons`      Array(LowCardinality(String)) COMMENT 'kinds of what is wrong: signature, unsigned, key, link, content, missing; see flopwatch chain verify' CODEC(ZSTD(1)),
    `detail`       String COMMENT 'what exactly, for a person: the first of it' CODEC(ZSTD(1)),
    `batches`      UInt64 COMMENT 'batches of the hour' CODEC(T64, ZSTD(1)),
    `verified`     UInt64 COMMENT 'of these, signed by the host and in their place' CODEC(T64, ZSTD(1)),
    `unsigned`     UInt64 COMMENT 'of these, not signed' CODEC(T64, ZSTD(1)),
    `broken`       UInt64 COMMENT 'of these, with something wrong' CODEC(T64, ZSTD(1)),
    `missing`      UInt64 COMMENT 'sequences before these of which nothing is known: on their way, or taken out' CODEC(T64, ZSTD(1)),
    `given_up`     UInt64 COMMENT 'sequences before these that the spool gave up, by its own word' CODEC(T64, ZSTD(1)),
    `quarantined`  UInt64 COMMENT 'sequences before these that are in quarantine' CODEC(T64, ZSTD(1)),
    `conflicts`    UInt64 COMMENT 'messages of the hour with other content under a sequence that was taken' CODEC(T64, ZSTD(1)),
    `node_key`     FixedString(32) COMMENT 'public key (Ed25519) of the last signed one; zero: none is signed' CODEC(ZSTD(1)),
    `heads_digest` FixedString(32) COMMENT 'SHA-256 over spool, sequence and digest of the batches, in that order: what the store held when it was looked at' CODEC(ZSTD(1)),
    `seen_ms`      Int64 COMMENT 'batches whose rows came into the store by then, by its clock, Unix ms, were looked at' CODEC(Delta, ZSTD(1)),
    `known_ms`     Int64 COMMENT 'when the latest of them was available, Unix ms' CODEC(Delta, ZSTD(1)),
    `checked_at`   DateTime64(3) DEFAULT now64(3) COMMENT 'wall time of the check; the latest holds' CODEC(Delta, ZSTD(1))
)
ENGINE = {{replacing "checked_at"}}
ORDER BY (cluster, node, hour_ms)
SETTINGS {{settings}}
COMMENT 'What the hourly check found of what each host signed, one row a host and hour. It is made anew where batches of the hour arrive later.';

CREATE TABLE IF NOT EXISTS losses
(
    `cluster`       LowCardinality(String) COMMENT 'cluster of the host' CODEC(ZSTD(1)),
    `node`          LowCardinality(String) COMMENT 'the host; empty: the provider' CODEC(ZSTD(1)),
    `spool`         LowCardinality(String) COMMENT 'the spool\'s random id, hex' CODEC(ZSTD(1)),
    `from_sequence` UInt64 COMMENT 'first sequence that is lost; under reason memory: the batch behind the loss' CODEC(Delta, ZSTD(1)),
    `to_sequence`   UInt64 COMMENT 'last sequence that is lost' CODEC(Delta, ZSTD(1)),
    `reason`        LowCardinality(String) COMMENT 'bytes, age, corrupt, disk: the spool gave it up, as in gaps; memory: given up before it came to the spool, which took nothing; quarantine: refused; conflict: sent under a sequence that was taken (a spool put back to an earlier state, or a forger), kept in quarantine; missing: nobody accounts for it' CODEC(ZSTD(1)),
    `batches`       UInt64 COMMENT 'batches that are lost; 0 of memory' CODEC(T64, ZSTD(1)),
    `ticks`         UInt64 COMMENT 'sampling ticks that are lost with them, as far as that can be told; 0: it cannot' CODEC(T64, ZSTD(1)),
    `gone`          Bool COMMENT 'it came after all, or is accounted for otherwise' CODEC(ZSTD(1)),
    `from_ms`       Int64 COMMENT 'event time from which on it is lost: what the host sealed before is stored, Unix ms' CODEC(Delta, ZSTD(1)),
    `to_ms`         Int64 COMMENT 'event time up to which it is lost, Unix ms' CODEC(Delta, ZSTD(1)),
    `hour_ms`       Int64 COMMENT 'start of the hour of chain_hours that shows it, Unix ms' CODEC(Delta, ZSTD(1)),
    `known_ms`      Int64 COMMENT 'when what shows it was available, Unix ms' CODEC(Delta, ZSTD(1)),
    `noted_at`      DateTime64(3) DEFAULT now64(3) COMMENT 'wall time of the note' CODEC(Delta, ZSTD(1))
)
ENGINE = {{replacing "noted_at"}}
ORDER BY (cluster, node, spool, from_sequence, reason, known_ms)
SETTINGS {{settings}}
COMMENT 'What hosts sampled, or ought to have, and the store does not have: one row each, and another when it is known better; of those known at a moment the last holds.';

CREATE TABLE IF NOT EXISTS chain_positions
(
    `cluster`    LowCardinality(String) COMMENT 'cluster that is checked' CODEC(ZSTD(1)),
    `through_ms` Int64 COMMENT 'hours before it were looked at, with what was in the store then, Unix ms' CODEC(Delta, ZSTD(1)),
    `seen_ms`    Int64 COMMENT 'batches whose rows came into the store by then, by its clock, Unix ms, were looked at' CODEC(Delta, ZSTD(1)),
    `instance`   String COMMENT 'the process that wrote it, for people' CODEC(ZSTD(1)),
    `checked_at` DateTime64(3) DEFAULT now64(3) COMMENT 'wall time of the check' CODEC(Delta, ZSTD(1))
)
ENGINE = {{replacing "checked_at"}}
ORDER BY cluster
SETTINGS {{settings}}
COMMENT 'How far the hourly check of each cluster has come.';

CREATE OR REPLACE VIEW v_batches AS
SELECT *, fromUnixTimestamp64Milli(available_ms, 'UTC') AS available
FROM batches FINAL
COMMENT 'Batches that are stored, one row each.';

CREATE OR REPLACE VIEW v_chain_hours AS
SELECT cluster, node, fromUnixTimestamp64Milli(hour_ms, 'UTC') AS hour, status, reasons, detail, batches, verified, unsigned, broken, missing, given_up, quarantined, conflicts,
    if(node_key = unhex(repeat('00', 32)), '', lower(hex(node_key))) AS key, hour_ms, checked_at
FROM chain_hours FINAL
COMMENT 'Whether what each host signed holds, by the hour in which it became available: the latest check.';

CREATE OR REPLACE VIEW v_losses AS
SELECT cluster, node, spool, from_sequence, to_sequence, reason, batches, ticks, fromUnixTimestamp64Milli(from_ms, 'UTC') AS lost_from, fromUnixTimestamp64Milli(to_ms, 'UTC') AS lost_to,
    fromUnixTimestamp64Milli(known_ms, 'UTC') AS known, from_ms, to_ms, known_ms
FROM
(
    SELECT * FROM losses FINAL ORDER BY cluster, node, spool, from_sequence, reason, known_ms DESC LIMIT 1 BY cluster, node, spool, from_sequence, reason
)
WHERE NOT gone
COMMENT 'What hosts sampled, or ought to have, and the store does not have, as of now.';

CREATE OR REPLACE VIEW v_node_hours AS
SELECT cluster, node, toStartOfHour(fromUnixTimestamp64Milli(at_ms, 'UTC')) AS hour,
    countIf(fate = 'stored') AS batches_stored, sumIf(rows, fate = 'stored') AS rows_stored, sum(got) AS ticks_stored,
    countIf(fate = 'quarantine') AS batches_quarantined, countIf(fate = 'bytes') AS batches_lost_full, countIf(fate = 'age') AS batches_lost_age,
    countIf(fate = 'corrupt') AS batches_lost_corrupt, countIf(fate = 'disk') AS batches_lost_disk, sum(absent) AS batches_missing,
    countIf(fate = 'conflict') AS batches_conflicting,
    sum(due) AS ticks_due, sum(late) AS ticks_missed, sumIf(due - got - late, whole) AS ticks_given_up, sumIf(due - got - late, NOT whole) AS ticks_lost
FROM
(
    SELECT cluster, node, fate, rows, at_ms, absent, whole, due, least(late_ticks, due) AS late, greatest(least(own_ticks, due) - late, 0) AS got
    FROM
    (
        SELECT cluster, node, fate, rows, at_ms, toInt64(sequence) - toInt64(previous) - 1 AS absent, fate != 'stored' OR stored_before + 1 = sequence AS whole,
            fate = 'stored' AND stored_before > 0 AND boot_id = boot_before AND total_ticks >= ticks_before AS same_run,
            if(same_run, toInt64(ticks_before), toInt64(0)) AS base,
            multiIf(fate != 'stored' OR total_ticks = 0, toInt64(0), same_run OR first_tick > 0, toInt64(total_ticks) - base, toInt64(1)) AS due,
            multiIf(first_tick > 0, toInt64(total_ticks) - greatest(base, toInt64(first_tick) - 1), same_run AND whole, due, toInt64(1)) AS own_ticks,
            if(first_tick = 0, toInt64(0), greatest(toInt64(missed_ticks) - if(same_run, toInt64(missed_before), toInt64(0)), 0)) AS late_ticks
        FROM
        (
            SELECT *, lagInFrame(sequence, 1, 0) OVER up_to AS previous,
                maxIf(sequence, fate = 'stored') OVER before AS stored_before, anyLastIf(boot_id, fate = 'stored') OVER before AS boot_before,
                anyLastIf(total_ticks, fate = 'stored') OVER before AS ticks_before, anyLastIf(missed_ticks, fate = 'stored') OVER before AS missed_before
            FROM
            (
                SELECT cluster, node, spool, sequence, argMin(fate, rank) AS fate, argMin(rows, rank) AS rows, argMin(boot_id, rank) AS boot_id, argMin(total_ticks, rank) AS total_ticks,
                    argMin(first_tick, rank) AS first_tick, argMin(missed_ticks, rank) AS missed_ticks, argMin(at_ms, rank) AS at_ms
                FROM
                (
                    SELECT cluster, node, spool, sequence, 'stored' AS fate, 0 AS rank, toUInt64(arraySum([COLUMNS('^[a-z]+_rows$')])) AS rows, boot_id, ticks AS total_ticks, first_tick, missed_ticks,
                        multiIf(sealed_wall_ms > 0, sealed_wall_ms, max_ts_ms > 0, max_ts_ms, available_ms) AS at_ms
                    FROM batches
                    UNION ALL
                    SELECT cluster, node, spool, sequence, 'quarantine', 1, rows, '', toUInt64(0), toUInt64(0), toUInt64(0), broker_ms FROM quarantine WHERE sequence > 0 AND reason NOT IN ('range', 'conflict')
                    UNION ALL
                    SELECT cluster, node, spool, arrayJoin(range(from_sequence, least(to_sequence, from_sequence + 999999) + 1)) AS sequence, reason, 2, toUInt64(0), '', toUInt64(0), toUInt64(0), toUInt64(0), available_ms FROM gaps FINAL
                )
                GROUP BY cluster, node, spool, sequence
            )
            WINDOW up_to AS (PARTITION BY cluster, node, spool ORDER BY sequence ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW),
                before AS (PARTITION BY cluster, node, spool ORDER BY sequence ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
        )
    )
    UNION ALL
    SELECT cluster, node, 'conflict', toUInt64(0), broker_ms, toInt64(0), true, toInt64(0), toInt64(0), toInt64(0) FROM quarantine FINAL WHERE reason = 'conflict'
)
GROUP BY cluster, node, hour
COMMENT 'What became of each host\'s batches and ticks, by the hour in which they were sealed: stored, in quarantine, given up by the spool and why, conflicting (other content under a sequence that was taken), missing (on their way, or taken out). Of what was lost the hour is when that became known; what is missing counts in the hour of the batch behind it. ticks_due = ticks_stored + ticks_missed + ticks_given_up + ticks_lost; the ticks of a batch count in the hour of its seal.';
