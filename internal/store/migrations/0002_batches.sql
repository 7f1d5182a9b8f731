-- The ledger of what was taken in, and what could not be.

CREATE TABLE IF NOT EXISTS batches
(
    `cluster`         LowCardinality(String) COMMENT 'identity of the batch' CODEC(ZSTD(1)),
    `node`            LowCardinality(String) COMMENT 'identity of the batch; empty: from the provider' CODEC(ZSTD(1)),
    `spool`           LowCardinality(String) COMMENT 'identity of the batch: the spool\'s random id, hex' CODEC(ZSTD(1)),
    `sequence`        UInt64 COMMENT 'identity of the batch: its number within the spool, gaps are losses' CODEC(Delta, ZSTD(1)),
    `partition`       LowCardinality(String) COMMENT 'partition of the stream that carried it' CODEC(ZSTD(1)),
    `stream`          LowCardinality(String) COMMENT 'JetStream stream' CODEC(ZSTD(1)),
    `stream_seq`      UInt64 COMMENT 'sequence in the stream' CODEC(Delta, ZSTD(1)),
    `epoch`           UInt64 COMMENT 'fencing epoch of the collector that wrote it' CODEC(ZSTD(1)),
    `digest`          FixedString(32) COMMENT 'SHA-256 of the message' CODEC(ZSTD(1)),
    `prev_digest`     FixedString(32) COMMENT 'SHA-256 of the frame before it in the spool, as the batch states; zero: the first' CODEC(ZSTD(1)),
    `boot_id`         LowCardinality(String) COMMENT 'boot of the host, empty: not known' CODEC(ZSTD(1)),
    `ticks`           UInt64 COMMENT 'sampling ticks since the agent started: a jump shows what was lost before the spool' CODEC(Delta, ZSTD(1)),
    `wire_version`    UInt32 COMMENT 'version of the wire contract' CODEC(ZSTD(1)),
    `bytes`           UInt32 COMMENT 'size of the message' CODEC(ZSTD(1)),
    `gpu_rows`        UInt32 COMMENT 'rows of kind gpu in the batch' CODEC(T64, ZSTD(1)),
    `host_rows`       UInt32 COMMENT 'rows of kind host in the batch' CODEC(T64, ZSTD(1)),
    `fabric_rows`     UInt32 COMMENT 'rows of kind fabric in the batch' CODEC(T64, ZSTD(1)),
    `flow_rows`       UInt32 COMMENT 'rows of kind flow in the batch' CODEC(T64, ZSTD(1)),
    `process_rows`    UInt32 COMMENT 'rows of kind process in the batch' CODEC(T64, ZSTD(1)),
    `collective_rows` UInt32 COMMENT 'rows of kind collective in the batch' CODEC(T64, ZSTD(1)),
    `inventory_rows`  UInt32 COMMENT 'rows of kind inventory in the batch' CODEC(T64, ZSTD(1)),
    `allocation_rows` UInt32 COMMENT 'rows of kind allocation in the batch' CODEC(T64, ZSTD(1)),
    `order_rows`      UInt32 COMMENT 'rows of kind order in the batch' CODEC(T64, ZSTD(1)),
    `min_ts_ms`       Int64 COMMENT 'earliest event time in the batch; 0: no rows' CODEC(Delta, ZSTD(1)),
    `max_ts_ms`       Int64 COMMENT 'latest event time in the batch; 0: no rows' CODEC(Delta, ZSTD(1)),
    `minutes`         Array(Int64) COMMENT 'Unix minutes that its telemetry touches: cells to be made again' CODEC(ZSTD(1)),
    `available_ms`    Int64 COMMENT 'Unix ms at which the batch could be known: broker time, in a replay the running maximum of event time' CODEC(Delta, ZSTD(1)),
    `inserted_at`     DateTime64(3) DEFAULT now64(3) COMMENT 'wall time of the insert' CODEC(Delta, ZSTD(1)),
    INDEX ix_available available_ms TYPE minmax GRANULARITY 1
)
ENGINE = {{replacing ""}}
ORDER BY (cluster, node, spool, sequence)
SETTINGS {{settings}}
COMMENT 'Every batch that is stored, one row each, written after all its rows: a batch listed here is wholly there. The detector tails it.';

CREATE TABLE IF NOT EXISTS quarantine
(
    `stream`      LowCardinality(String) COMMENT 'JetStream stream' CODEC(ZSTD(1)),
    `stream_seq`  UInt64 COMMENT 'sequence in the stream' CODEC(Delta, ZSTD(1)),
    `subject`     String COMMENT 'subject that it came on' CODEC(ZSTD(1)),
    `cluster`     LowCardinality(String) COMMENT 'identity of the batch as far as it is to be believed; empty: it is not' CODEC(ZSTD(1)),
    `node`        LowCardinality(String) COMMENT 'identity of the batch; empty: the provider, or not to be believed' CODEC(ZSTD(1)),
    `spool`       LowCardinality(String) COMMENT 'identity of the batch, hex; empty: not to be believed' CODEC(ZSTD(1)),
    `sequence`    UInt64 COMMENT 'identity of the batch; 0: not to be believed' CODEC(Delta, ZSTD(1)),
    `reason`      LowCardinality(String) COMMENT 'closed set: size, subject, version, decode, range, future, available' CODEC(ZSTD(1)),
    `detail`      String COMMENT 'what exactly, for a person' CODEC(ZSTD(1)),
    `rows`        UInt64 COMMENT 'rows it says to hold, 0: could not be told' CODEC(ZSTD(1)),
    `broker_ms`   Int64 COMMENT 'broker time of the message, Unix ms' CODEC(Delta, ZSTD(1)),
    `epoch`       UInt64 COMMENT 'fencing epoch of the collector' CODEC(ZSTD(1)),
    `bytes`       String COMMENT 'the message as it came' CODEC(ZSTD(1)),
    `inserted_at` DateTime64(3) DEFAULT now64(3) COMMENT 'wall time of the insert' CODEC(Delta, ZSTD(1))
)
ENGINE = {{replacing ""}}
ORDER BY (stream, stream_seq, reason)
SETTINGS {{settings}}
COMMENT 'Messages, or parts of messages, that could not be taken at face value, kept byte for byte. Nothing here was counted as telemetry, except under reason range: there the rows were stored with the impossible values absent.';

CREATE TABLE IF NOT EXISTS gaps
(
    `cluster`       LowCardinality(String) COMMENT 'cluster of the spool' CODEC(ZSTD(1)),
    `node`          LowCardinality(String) COMMENT 'host of the spool; empty: the provider' CODEC(ZSTD(1)),
    `spool`         LowCardinality(String) COMMENT 'the spool\'s random id, hex' CODEC(ZSTD(1)),
    `from_sequence` UInt64 COMMENT 'first sequence that will never arrive' CODEC(Delta, ZSTD(1)),
    `to_sequence`   UInt64 COMMENT 'last sequence that will never arrive; it may grow, the largest holds' CODEC(Delta, ZSTD(1)),
    `reason`        LowCardinality(String) COMMENT 'bytes: the spool was full; age: older than it keeps; corrupt: damaged on disk' CODEC(ZSTD(1)),
    `digest`        FixedString(32) COMMENT 'SHA-256 of the last frame given up, so that the chain goes on; zero: it could not be read' CODEC(ZSTD(1)),
    `available_ms`  Int64 COMMENT 'Unix ms at which the gap could be known' CODEC(Delta, ZSTD(1))
)
ENGINE = {{replacing "to_sequence"}}
ORDER BY (cluster, node, spool, from_sequence)
SETTINGS {{settings}}
COMMENT 'Sequences that a spool gave up: losses that the host itself reported.';
