-- At which period a GPU's or a host's work repeats: trainings go in steps.

ALTER TABLE features_gpu_minute
    ADD COLUMN IF NOT EXISTS `rhythm_ms` Nullable(Float64) COMMENT 'period at which the signal rhythm_of repeated over the minutes that end with this one, eleven at most, ms; NULL: none was found, too little was sampled to look for one, or an earlier version made the cell' CODEC(ZSTD(1)) AFTER `mma_cycles_last_ms`,
    ADD COLUMN IF NOT EXISTS `rhythm_power` Nullable(Float64) COMMENT 'share of the signal\'s variance at that period, 0 to 1; NULL: none was found' CODEC(ZSTD(1)) AFTER `rhythm_ms`,
    ADD COLUMN IF NOT EXISTS `rhythm_crest_ms` Nullable(Float64) COMMENT 'how long after the start of the minute, by the host\'s clock, a crest comes, ms, less than rhythm_ms; NULL: none was found' CODEC(ZSTD(1)) AFTER `rhythm_power`,
    ADD COLUMN IF NOT EXISTS `rhythm_cadence_ms` Nullable(Float64) COMMENT 'time between the samples that it was found in, ms; NULL: none was found' CODEC(ZSTD(1)) AFTER `rhythm_crest_ms`,
    ADD COLUMN IF NOT EXISTS `rhythm_folded` Bool COMMENT 'whether the samples are too far apart to tell the period from a shorter one: it compares with periods at the same rhythm_cadence_ms alone' CODEC(ZSTD(1)) AFTER `rhythm_cadence_ms`,
    ADD COLUMN IF NOT EXISTS `rhythm_of` LowCardinality(String) COMMENT 'signal that repeats; empty: none was found' CODEC(ZSTD(1)) AFTER `rhythm_folded`;

ALTER TABLE features_gpu_hour
    ADD COLUMN IF NOT EXISTS `rhythm_ms` Nullable(Float64) COMMENT 'period that minutes of the hour had, the middle one, ms; NULL: none had one, or an earlier version made the roll-up' CODEC(ZSTD(1)) AFTER `mma_cycles_last_ms`,
    ADD COLUMN IF NOT EXISTS `rhythm_power` Nullable(Float64) COMMENT 'share of the signal\'s variance at that period, 0 to 1, mean of the minutes; NULL: none had one' CODEC(ZSTD(1)) AFTER `rhythm_ms`,
    ADD COLUMN IF NOT EXISTS `rhythm_share` Nullable(Float64) COMMENT 'share of the minutes with a cell that had that period, within a twentieth of it; NULL: none had one' CODEC(ZSTD(1)) AFTER `rhythm_power`,
    ADD COLUMN IF NOT EXISTS `rhythm_cadence_ms` Nullable(Float64) COMMENT 'time between the samples that it was found in, ms; NULL: none was found' CODEC(ZSTD(1)) AFTER `rhythm_share`,
    ADD COLUMN IF NOT EXISTS `rhythm_folded` Bool COMMENT 'whether the samples are too far apart to tell the period from a shorter one' CODEC(ZSTD(1)) AFTER `rhythm_cadence_ms`,
    ADD COLUMN IF NOT EXISTS `rhythm_of` LowCardinality(String) COMMENT 'signal that repeats in most of them; empty: none was found' CODEC(ZSTD(1)) AFTER `rhythm_folded`;

ALTER TABLE features_node_minute
    ADD COLUMN IF NOT EXISTS `rhythm_ms` Nullable(Float64) COMMENT 'period at which what rhythm_of names repeated over the minutes that end with this one, eleven at most, ms; NULL: none was found, too little was sampled to look for one, or an earlier version made the cell' CODEC(ZSTD(1)) AFTER `ethernet_ms`,
    ADD COLUMN IF NOT EXISTS `rhythm_power` Nullable(Float64) COMMENT 'share of the variance at that period, 0 to 1; NULL: none was found' CODEC(ZSTD(1)) AFTER `rhythm_ms`,
    ADD COLUMN IF NOT EXISTS `rhythm_crest_ms` Nullable(Float64) COMMENT 'how long after the start of the minute, by the host\'s clock, a crest comes, ms, less than rhythm_ms; NULL: none was found' CODEC(ZSTD(1)) AFTER `rhythm_power`,
    ADD COLUMN IF NOT EXISTS `rhythm_cadence_ms` Nullable(Float64) COMMENT 'time between the samples that it was found in, ms; NULL: none was found' CODEC(ZSTD(1)) AFTER `rhythm_crest_ms`,
    ADD COLUMN IF NOT EXISTS `rhythm_folded` Bool COMMENT 'whether the samples are too far apart to tell the period from a shorter one: it compares with periods at the same rhythm_cadence_ms alone' CODEC(ZSTD(1)) AFTER `rhythm_cadence_ms`,
    ADD COLUMN IF NOT EXISTS `rhythm_of` LowCardinality(String) COMMENT 'what repeats: fabric, the bytes of ports, or power_w, the watts of the host; empty: none was found' CODEC(ZSTD(1)) AFTER `rhythm_folded`;

CREATE OR REPLACE VIEW v_gpu_minutes AS
SELECT * EXCEPT (minute_ms), fromUnixTimestamp64Milli(minute_ms, 'UTC') AS time, minute_ms
FROM features_gpu_minute FINAL
COMMENT 'Minute cells of GPUs, latest version.';

CREATE OR REPLACE VIEW v_gpu_hours AS
SELECT * EXCEPT (hour_ms), fromUnixTimestamp64Milli(hour_ms, 'UTC') AS time, hour_ms, bitCount(presence) AS minutes
FROM features_gpu_hour FINAL
COMMENT 'Roll-ups of GPUs by the hour, latest version. The hour that is being judged is not here yet: v_gpu_minutes has its minutes.';
