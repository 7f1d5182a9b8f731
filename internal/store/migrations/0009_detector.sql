-- The detector that follows the store live: how far it has judged, and how it finds batches
-- whose rows appear late.

CREATE TABLE IF NOT EXISTS detector_positions
(
    `cluster`       LowCardinality(String) COMMENT 'cluster that is judged' CODEC(ZSTD(1)),
    `epoch`         UInt64 COMMENT 'fencing epoch of the detector that wrote it' CODEC(ZSTD(1)),
    `judged_ms`     UInt64 COMMENT 'event time up to which everything was judged and stored, Unix ms; 0: nothing yet' CODEC(ZSTD(1)),
    `start_ms`      Int64 COMMENT 'start of the period that is judged, Unix ms' CODEC(ZSTD(1)),
    `cut_ms`        Int64 COMMENT 'minutes before this were let go from memory, Unix ms; 0: none' CODEC(ZSTD(1)),
    `available_ms`  Int64 COMMENT 'batches that were available by then, Unix ms, were taken in' CODEC(ZSTD(1)),
    `last_ms`       Int64 COMMENT 'the moment judged last: a silent fleet is judged more rarely' CODEC(ZSTD(1)),
    `newest_ms`     Int64 COMMENT 'the moment at which something new was judged last' CODEC(ZSTD(1)),
    `due`           Bool COMMENT 'something came since the moment judged last' CODEC(ZSTD(1)),
    `seen_ms`       Int64 COMMENT 'latest inserted_at of the batches that were seen, Unix ms' CODEC(ZSTD(1)),
    `instance`      String COMMENT 'the process that wrote it, for people' CODEC(ZSTD(1)),
    `config_digest` LowCardinality(String) COMMENT 'configuration under which it judged' CODEC(ZSTD(1)),
    `inserted_at`   DateTime64(3) DEFAULT now64(3) COMMENT 'wall time of the insert' CODEC(ZSTD(1))
)
ENGINE = {{replacing "judged_ms"}}
ORDER BY (cluster, epoch)
SETTINGS {{settings}}
COMMENT 'How far each leading detector has judged: one row an epoch, the one that judged furthest. The highest epoch holds.';

ALTER TABLE batches
    ADD INDEX IF NOT EXISTS ix_inserted inserted_at TYPE minmax GRANULARITY 1;
