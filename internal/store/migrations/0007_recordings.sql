-- Recordings that were replayed into this database: a replay needs one of its own, because
-- parties are the operator's, not a cluster's.

CREATE TABLE IF NOT EXISTS recordings
(
    `digest`      String COMMENT 'SHA-256 of everything that was read of the recording, hex' CODEC(ZSTD(1)),
    `cluster`     String COMMENT 'cluster that it names' CODEC(ZSTD(1)),
    `inserted_at` DateTime64(3) DEFAULT now64(3) COMMENT 'wall time of the insert' CODEC(ZSTD(1))
)
ENGINE = {{replacing ""}}
ORDER BY (digest)
SETTINGS {{settings}}
COMMENT 'Recordings that were replayed into this database; none in a live one.';
