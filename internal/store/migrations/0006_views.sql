-- Views are the stable interface for analysts.

CREATE OR REPLACE VIEW v_gpu_samples AS
SELECT cluster,
    node,
    gpu,
    gpu_uuid,
    fromUnixTimestamp64Milli(ts_ms, 'UTC') AS time,
    ts_ms,
    available_ms,
    util_e4 / 10000 AS util_frac,
    mem_used_bytes,
    power_mw / 1000 AS power_w,
    energy_mj / 1000 AS energy_j_total,
    sm_clock_mhz,
    sm_active_e4 / 10000 AS sm_active_frac,
    sm_occupancy_e4 / 10000 AS sm_occupancy_frac,
    tensor_e4 / 10000 AS tensor_frac,
    hmma_e4 / 10000 AS hmma_frac,
    imma_e4 / 10000 AS imma_frac,
    dfma_e4 / 10000 AS dfma_frac,
    fp64_e4 / 10000 AS fp64_frac,
    fp32_e4 / 10000 AS fp32_frac,
    fp16_e4 / 10000 AS fp16_frac,
    int_e4 / 10000 AS int_frac,
    dram_e4 / 10000 AS dram_frac,
    mma_cycles AS mma_cycles_total,
    pcie_tx_bps,
    pcie_rx_bps,
    nvlink_tx_bps,
    nvlink_rx_bps,
    nvenc_e4 / 10000 AS nvenc_frac,
    nvdec_e4 / 10000 AS nvdec_frac,
    sources
FROM gpu_samples FINAL
COMMENT 'Samples of GPUs in natural units, one row per sample. Empty (NULL) means not measured, never zero.';

CREATE OR REPLACE VIEW v_gpu_minutes AS
SELECT * EXCEPT (minute_ms), fromUnixTimestamp64Milli(minute_ms, 'UTC') AS time, minute_ms
FROM features_gpu_minute FINAL
COMMENT 'Minute cells of GPUs, latest version.';

CREATE OR REPLACE VIEW v_runs AS
SELECT * EXCEPT (start_ms, end_ms, judged_ms), start_ms, end_ms, judged_ms,
    fromUnixTimestamp64Milli(start_ms, 'UTC') AS started,
    if(end_ms IS NULL, NULL, fromUnixTimestamp64Milli(assumeNotNull(end_ms), 'UTC')) AS ended,
    fromUnixTimestamp64Milli(judged_ms, 'UTC') AS judged
FROM runs
ORDER BY cluster, run_id, epoch DESC, version DESC
LIMIT 1 BY cluster, run_id
COMMENT 'The latest verdict on each run; superseded_by names the run that it was merged into.';

CREATE OR REPLACE VIEW v_findings AS
SELECT * EXCEPT (known_at_ms), known_at_ms, fromUnixTimestamp64Milli(known_at_ms, 'UTC') AS evidence_sufficed_from
FROM findings
ORDER BY cluster, finding_id, epoch DESC, version DESC
LIMIT 1 BY cluster, finding_id
COMMENT 'The latest version of each finding: evidence_sufficed_from (event time), raised_at (the system), acknowledged_at (a person) are three different moments.';

CREATE OR REPLACE VIEW v_batches AS
SELECT *, fromUnixTimestamp64Milli(available_ms, 'UTC') AS available
FROM batches FINAL
COMMENT 'Batches that are stored, one row each.';

CREATE OR REPLACE VIEW v_node_coverage AS
SELECT cluster, node, hour, expected_gpus, seen_gpus, gpu_minutes,
    if(expected_gpus > 0, gpu_minutes / (expected_gpus * 60), NULL) AS coverage_frac,
    listed
FROM
(
    SELECT cluster, node, hour, max(e) AS expected_gpus, max(s) AS seen_gpus, max(m) AS gpu_minutes, max(l) AS listed
    FROM
    (
        SELECT i.cluster AS cluster, i.node AS node, h.hour AS hour, toInt64(ifNull(i.gpu_count, 0)) AS e, toUInt64(0) AS s, toUInt64(0) AS m, true AS l
        FROM (SELECT cluster, node, argMax(gpu_count, (available_ms, sequence)) AS gpu_count FROM inventory GROUP BY cluster, node) AS i
        INNER JOIN (SELECT DISTINCT cluster, toStartOfHour(toDateTime(intDiv(minute_ms, 1000), 'UTC')) AS hour FROM features_gpu_minute) AS h ON i.cluster = h.cluster
        UNION ALL
        SELECT cluster, node, toStartOfHour(toDateTime(intDiv(minute_ms, 1000), 'UTC')) AS hour, toInt64(0) AS e, uniqExact(gpu) AS s, uniqExact((gpu, minute_ms)) AS m, false AS l
        FROM features_gpu_minute GROUP BY cluster, node, hour
    )
    GROUP BY cluster, node, hour
)
ORDER BY cluster, node, hour
COMMENT 'Per host and hour of event time: GPUs expected by the inventory, GPUs seen, GPU-minutes with data, coverage (NULL: nothing was expected). listed is false for a host that the inventory lacks.';
