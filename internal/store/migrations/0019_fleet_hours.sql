-- What became of a fleet's batches and ticks, without reading every batch of it.

ALTER TABLE chain_hours
    ADD COLUMN IF NOT EXISTS `ticks_due` Nullable(Int64) COMMENT 'sampling ticks that were due, as the host counts them, up to the batches of the hour; NULL: checked by an earlier version' CODEC(T64, ZSTD(1)) AFTER `conflicts`,
    ADD COLUMN IF NOT EXISTS `ticks_stored` Nullable(Int64) COMMENT 'of these, with rows in the batches of the hour; NULL: checked by an earlier version' CODEC(T64, ZSTD(1)) AFTER `ticks_due`,
    ADD COLUMN IF NOT EXISTS `ticks_missed` Nullable(Int64) COMMENT 'of these, passed without a sample: the host was suspended, or overloaded; NULL: checked by an earlier version' CODEC(T64, ZSTD(1)) AFTER `ticks_stored`;

CREATE OR REPLACE VIEW v_fleet_hours AS
SELECT cluster, node, fromUnixTimestamp64Milli(hour_ms, 'UTC') AS hour, status, batches AS batches_stored, quarantined AS batches_quarantined, conflicts AS batches_conflicting, missing AS batches_missing,
    given_up AS batches_given_up, ticks_due, ticks_stored, ticks_missed, lost_batches, lost_ticks, hour_ms, checked_at
FROM (SELECT * FROM chain_hours FINAL) AS h
LEFT JOIN
(
    SELECT cluster, node, hour_ms, sumMap(map(toString(reason), batches)) AS lost_batches, sumMap(map(toString(reason), ticks)) AS lost_ticks
    FROM
    (
        SELECT * FROM losses FINAL ORDER BY cluster, node, spool, from_sequence, reason, known_ms DESC LIMIT 1 BY cluster, node, spool, from_sequence, reason
    )
    WHERE NOT gone
    GROUP BY cluster, node, hour_ms
) AS l USING (cluster, node, hour_ms)
COMMENT 'What became of each host\'s batches and ticks, by the hour in which they became available, as the hourly check counted: for a whole fleet, where v_node_hours is for some hosts. An hour that was not checked yet, or in which nothing came, is not here.';
