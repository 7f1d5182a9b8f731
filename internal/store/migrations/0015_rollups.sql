-- Codecs as measured (internal/store/CODECS.md has the figures and the command), roll-ups by the hour, how long cells stay,
-- and views for what analysts ask. Codecs hold for parts written from now on; merges rewrite the others.

ALTER TABLE gpu_samples
    MODIFY COLUMN `sequence` CODEC(Delta, ZSTD(3)),
    MODIFY COLUMN `available_ms` CODEC(Delta, ZSTD(3)),
    MODIFY COLUMN `ts_ms` CODEC(Delta, ZSTD(3)),
    MODIFY COLUMN `first_wins` CODEC(Delta, ZSTD(3)),
    MODIFY COLUMN `boot_ms` CODEC(Delta, ZSTD(3)),
    MODIFY COLUMN `gpu` CODEC(DoubleDelta, ZSTD(1)),
    MODIFY COLUMN `util_e4` CODEC(GCD, ZSTD(3)),
    MODIFY COLUMN `mem_used_bytes` CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN `power_mw` CODEC(GCD, T64, ZSTD(3)),
    MODIFY COLUMN `energy_mj` CODEC(GCD, Delta, T64, ZSTD(1)),
    MODIFY COLUMN `sm_clock_mhz` CODEC(GCD, T64, ZSTD(3)),
    MODIFY COLUMN `sm_active_e4` CODEC(T64, ZSTD(3)),
    MODIFY COLUMN `sm_occupancy_e4` CODEC(T64, ZSTD(3)),
    MODIFY COLUMN `tensor_e4` CODEC(T64, ZSTD(3)),
    MODIFY COLUMN `hmma_e4` CODEC(T64, ZSTD(3)),
    MODIFY COLUMN `imma_e4` CODEC(T64, ZSTD(3)),
    MODIFY COLUMN `dfma_e4` CODEC(T64, ZSTD(3)),
    MODIFY COLUMN `fp64_e4` CODEC(T64, ZSTD(3)),
    MODIFY COLUMN `fp32_e4` CODEC(T64, ZSTD(3)),
    MODIFY COLUMN `fp16_e4` CODEC(T64, ZSTD(3)),
    MODIFY COLUMN `int_e4` CODEC(T64, ZSTD(3)),
    MODIFY COLUMN `dram_e4` CODEC(T64, ZSTD(3)),
    MODIFY COLUMN `mma_cycles` CODEC(Delta, T64, ZSTD(3)),
    MODIFY COLUMN `pcie_tx_bps` CODEC(T64, ZSTD(3)),
    MODIFY COLUMN `pcie_rx_bps` CODEC(T64, ZSTD(3)),
    MODIFY COLUMN `nvlink_tx_bps` CODEC(GCD, T64, ZSTD(3)),
    MODIFY COLUMN `nvlink_rx_bps` CODEC(GCD, T64, ZSTD(3)),
    MODIFY COLUMN `temp_c` CODEC(T64, ZSTD(3)),
    MODIFY COLUMN `clocks_event_reasons` CODEC(T64, ZSTD(3)),
    MODIFY COLUMN `mem_util_e4` CODEC(GCD, ZSTD(3)),
    MODIFY COLUMN `sm_cycles_elapsed` CODEC(Delta, T64, ZSTD(3)),
    COMMENT COLUMN `power_mw` 'board power, milliwatts; kept to 64 mW: off by 32 at most; NULL: not measured',
    COMMENT COLUMN `energy_mj` 'cumulative energy, millijoules, may reset; kept to 128 mJ: off by 64 at most, however long it runs; NULL: not measured',
    COMMENT COLUMN `mma_cycles` 'cumulative tensor-pipe cycles, mean over the SMs, may reset; kept to 1,024 cycles: off by 512 at most, however long it runs; NULL: not measured',
    COMMENT COLUMN `sm_cycles_elapsed` 'GPM: cycles of the SMs, in the unit of mma_cycles, cumulative, may reset; kept to 1,024 cycles: off by 512 at most, however long it runs; NULL: not measured',
    COMMENT COLUMN `pcie_tx_bps` 'PCIe out of the GPU, bytes per second; kept to 11 significant bits: off by 0.05 % at most; NULL: not measured',
    COMMENT COLUMN `pcie_rx_bps` 'PCIe into the GPU, bytes per second; kept to 11 significant bits: off by 0.05 % at most; NULL: not measured',
    COMMENT COLUMN `nvlink_tx_bps` 'NVLink out, bytes per second; kept to 11 significant bits: off by 0.05 % at most; NULL: not measured',
    COMMENT COLUMN `nvlink_rx_bps` 'NVLink in, bytes per second; kept to 11 significant bits: off by 0.05 % at most; NULL: not measured';

ALTER TABLE gpu_health
    MODIFY COLUMN `sequence` CODEC(Delta, ZSTD(3)),
    MODIFY COLUMN `available_ms` CODEC(Delta, ZSTD(3)),
    MODIFY COLUMN `ts_ms` CODEC(Delta, ZSTD(3)),
    MODIFY COLUMN `first_wins` CODEC(Delta, ZSTD(3)),
    MODIFY COLUMN `boot_ms` CODEC(Delta, ZSTD(3)),
    MODIFY COLUMN `gpu` CODEC(DoubleDelta, ZSTD(1));

ALTER TABLE host_samples
    MODIFY COLUMN `sequence` CODEC(Delta, ZSTD(3)),
    MODIFY COLUMN `available_ms` CODEC(Delta, ZSTD(3)),
    MODIFY COLUMN `ts_ms` CODEC(Delta, ZSTD(3)),
    MODIFY COLUMN `first_wins` CODEC(Delta, ZSTD(3)),
    MODIFY COLUMN `boot_ms` CODEC(Delta, ZSTD(3));

ALTER TABLE fabric_samples
    MODIFY COLUMN `sequence` CODEC(Delta, ZSTD(3)),
    MODIFY COLUMN `available_ms` CODEC(Delta, ZSTD(3)),
    MODIFY COLUMN `ts_ms` CODEC(Delta, ZSTD(3)),
    MODIFY COLUMN `first_wins` CODEC(Delta, ZSTD(3)),
    MODIFY COLUMN `boot_ms` CODEC(Delta, ZSTD(3));

ALTER TABLE bmc_samples
    MODIFY COLUMN `sequence` CODEC(Delta, ZSTD(3)),
    MODIFY COLUMN `available_ms` CODEC(Delta, ZSTD(3)),
    MODIFY COLUMN `ts_ms` CODEC(Delta, ZSTD(3)),
    MODIFY COLUMN `first_wins` CODEC(Delta, ZSTD(3));

ALTER TABLE features_gpu_minute
    MODIFY COLUMN `version` CODEC(Delta, ZSTD(1)),
    MODIFY COLUMN `energy_j_first` CODEC(Delta, ZSTD(3)),
    MODIFY COLUMN `energy_j_last` CODEC(Delta, ZSTD(3)),
    MODIFY COLUMN `mma_cycles_first` CODEC(Delta, ZSTD(3)),
    MODIFY COLUMN `mma_cycles_last` CODEC(Delta, ZSTD(3)),
    ADD COLUMN IF NOT EXISTS `inserted_at` DateTime DEFAULT now() COMMENT 'wall time of the insert: how long the cell stays is counted from it' CODEC(Delta, ZSTD(1)) AFTER `config_digest`,
    MODIFY SETTING ttl_only_drop_parts = 1;

ALTER TABLE features_gpu_minute
    MODIFY TTL inserted_at + INTERVAL 800 DAY DELETE;

ALTER TABLE features_node_minute
    ADD COLUMN IF NOT EXISTS `inserted_at` DateTime DEFAULT now() COMMENT 'wall time of the insert: how long the cell stays is counted from it' CODEC(Delta, ZSTD(1)) AFTER `config_digest`,
    MODIFY SETTING ttl_only_drop_parts = 1;

ALTER TABLE features_node_minute
    MODIFY TTL inserted_at + INTERVAL 800 DAY DELETE;

ALTER TABLE features_comm_minute
    ADD COLUMN IF NOT EXISTS `inserted_at` DateTime DEFAULT now() COMMENT 'wall time of the insert: how long the cell stays is counted from it' CODEC(Delta, ZSTD(1)) AFTER `config_digest`,
    MODIFY SETTING ttl_only_drop_parts = 1;

ALTER TABLE features_comm_minute
    MODIFY TTL inserted_at + INTERVAL 800 DAY DELETE;

ALTER TABLE features_flow_minute
    ADD COLUMN IF NOT EXISTS `inserted_at` DateTime DEFAULT now() COMMENT 'wall time of the insert: how long the cell stays is counted from it' CODEC(Delta, ZSTD(1)) AFTER `config_digest`,
    MODIFY SETTING ttl_only_drop_parts = 1;

ALTER TABLE features_flow_minute
    MODIFY TTL inserted_at + INTERVAL 800 DAY DELETE;

CREATE TABLE IF NOT EXISTS features_gpu_hour
(
    `cluster`                LowCardinality(String) COMMENT 'cluster' CODEC(ZSTD(1)),
    `node`                   LowCardinality(String) COMMENT 'host' CODEC(ZSTD(1)),
    `gpu`                    Int64 COMMENT 'index of the GPU on its host' CODEC(DoubleDelta, ZSTD(1)),
    `hour_ms`                Int64 COMMENT 'start of the hour, Unix ms UTC' CODEC(Delta, ZSTD(1)),
    `available_ms`           Int64 COMMENT 'latest availability of a cell that contributed' CODEC(Delta, ZSTD(1)),
    `samples`                UInt32 COMMENT 'raw samples that contributed' CODEC(T64, ZSTD(1)),
    `presence`               UInt64 COMMENT 'which minutes of the hour have a cell: bit 0 is the first' CODEC(T64, ZSTD(1)),
    `util_frac_mean`         Nullable(Float64) COMMENT 'time-weighted mean of util_frac; NULL: not measured' CODEC(ZSTD(1)),
    `util_frac_sd`           Nullable(Float64) COMMENT 'time-weighted standard deviation of util_frac within the hour; NULL: not measured' CODEC(ZSTD(1)),
    `util_frac_ms`           UInt32 COMMENT 'ms that the mean of util_frac rests on; 0: not measured' CODEC(T64, ZSTD(1)),
    `mem_used_bytes_mean`    Nullable(Float64) COMMENT 'time-weighted mean of mem_used_bytes; NULL: not measured' CODEC(ZSTD(1)),
    `mem_used_bytes_sd`      Nullable(Float64) COMMENT 'time-weighted standard deviation of mem_used_bytes within the hour; NULL: not measured' CODEC(ZSTD(1)),
    `mem_used_bytes_ms`      UInt32 COMMENT 'ms that the mean of mem_used_bytes rests on; 0: not measured' CODEC(T64, ZSTD(1)),
    `power_w_mean`           Nullable(Float64) COMMENT 'time-weighted mean of power_w; NULL: not measured' CODEC(ZSTD(1)),
    `power_w_sd`             Nullable(Float64) COMMENT 'time-weighted standard deviation of power_w within the hour; NULL: not measured' CODEC(ZSTD(1)),
    `power_w_ms`             UInt32 COMMENT 'ms that the mean of power_w rests on; 0: not measured' CODEC(T64, ZSTD(1)),
    `sm_clock_mhz_mean`      Nullable(Float64) COMMENT 'time-weighted mean of sm_clock_mhz; NULL: not measured' CODEC(ZSTD(1)),
    `sm_clock_mhz_sd`        Nullable(Float64) COMMENT 'time-weighted standard deviation of sm_clock_mhz within the hour; NULL: not measured' CODEC(ZSTD(1)),
    `sm_clock_mhz_ms`        UInt32 COMMENT 'ms that the mean of sm_clock_mhz rests on; 0: not measured' CODEC(T64, ZSTD(1)),
    `sm_active_frac_mean`    Nullable(Float64) COMMENT 'time-weighted mean of sm_active_frac; NULL: not measured' CODEC(ZSTD(1)),
    `sm_active_frac_sd`      Nullable(Float64) COMMENT 'time-weighted standard deviation of sm_active_frac within the hour; NULL: not measured' CODEC(ZSTD(1)),
    `sm_active_frac_ms`      UInt32 COMMENT 'ms that the mean of sm_active_frac rests on; 0: not measured' CODEC(T64, ZSTD(1)),
    `sm_occupancy_frac_mean` Nullable(Float64) COMMENT 'time-weighted mean of sm_occupancy_frac; NULL: not measured' CODEC(ZSTD(1)),
    `sm_occupancy_frac_sd`   Nullable(Float64) COMMENT 'time-weighted standard deviation of sm_occupancy_frac within the hour; NULL: not measured' CODEC(ZSTD(1)),
    `sm_occupancy_frac_ms`   UInt32 COMMENT 'ms that the mean of sm_occupancy_frac rests on; 0: not measured' CODEC(T64, ZSTD(1)),
    `tensor_frac_mean`       Nullable(Float64) COMMENT 'time-weighted mean of tensor_frac; NULL: not measured' CODEC(ZSTD(1)),
    `tensor_frac_sd`         Nullable(Float64) COMMENT 'time-weighted standard deviation of tensor_frac within the hour; NULL: not measured' CODEC(ZSTD(1)),
    `tensor_frac_ms`         UInt32 COMMENT 'ms that the mean of tensor_frac rests on; 0: not measured' CODEC(T64, ZSTD(1)),
    `hmma_frac_mean`         Nullable(Float64) COMMENT 'time-weighted mean of hmma_frac; NULL: not measured' CODEC(ZSTD(1)),
    `hmma_frac_sd`           Nullable(Float64) COMMENT 'time-weighted standard deviation of hmma_frac within the hour; NULL: not measured' CODEC(ZSTD(1)),
    `hmma_frac_ms`           UInt32 COMMENT 'ms that the mean of hmma_frac rests on; 0: not measured' CODEC(T64, ZSTD(1)),
    `imma_frac_mean`         Nullable(Float64) COMMENT 'time-weighted mean of imma_frac; NULL: not measured' CODEC(ZSTD(1)),
    `imma_frac_sd`           Nullable(Float64) COMMENT 'time-weighted standard deviation of imma_frac within the hour; NULL: not measured' CODEC(ZSTD(1)),
    `imma_frac_ms`           UInt32 COMMENT 'ms that the mean of imma_frac rests on; 0: not measured' CODEC(T64, ZSTD(1)),
    `dfma_frac_mean`         Nullable(Float64) COMMENT 'time-weighted mean of dfma_frac; NULL: not measured' CODEC(ZSTD(1)),
    `dfma_frac_sd`           Nullable(Float64) COMMENT 'time-weighted standard deviation of dfma_frac within the hour; NULL: not measured' CODEC(ZSTD(1)),
    `dfma_frac_ms`           UInt32 COMMENT 'ms that the mean of dfma_frac rests on; 0: not measured' CODEC(T64, ZSTD(1)),
    `fp64_frac_mean`         Nullable(Float64) COMMENT 'time-weighted mean of fp64_frac; NULL: not measured' CODEC(ZSTD(1)),
    `fp64_frac_sd`           Nullable(Float64) COMMENT 'time-weighted standard deviation of fp64_frac within the hour; NULL: not measured' CODEC(ZSTD(1)),
    `fp64_frac_ms`           UInt32 COMMENT 'ms that the mean of fp64_frac rests on; 0: not measured' CODEC(T64, ZSTD(1)),
    `fp32_frac_mean`         Nullable(Float64) COMMENT 'time-weighted mean of fp32_frac; NULL: not measured' CODEC(ZSTD(1)),
    `fp32_frac_sd`           Nullable(Float64) COMMENT 'time-weighted standard deviation of fp32_frac within the hour; NULL: not measured' CODEC(ZSTD(1)),
    `fp32_frac_ms`           UInt32 COMMENT 'ms that the mean of fp32_frac rests on; 0: not measured' CODEC(T64, ZSTD(1)),
    `fp16_frac_mean`         Nullable(Float64) COMMENT 'time-weighted mean of fp16_frac; NULL: not measured' CODEC(ZSTD(1)),
    `fp16_frac_sd`           Nullable(Float64) COMMENT 'time-weighted standard deviation of fp16_frac within the hour; NULL: not measured' CODEC(ZSTD(1)),
    `fp16_frac_ms`           UInt32 COMMENT 'ms that the mean of fp16_frac rests on; 0: not measured' CODEC(T64, ZSTD(1)),
    `int_frac_mean`          Nullable(Float64) COMMENT 'time-weighted mean of int_frac; NULL: not measured' CODEC(ZSTD(1)),
    `int_frac_sd`            Nullable(Float64) COMMENT 'time-weighted standard deviation of int_frac within the hour; NULL: not measured' CODEC(ZSTD(1)),
    `int_frac_ms`            UInt32 COMMENT 'ms that the mean of int_frac rests on; 0: not measured' CODEC(T64, ZSTD(1)),
    `dram_frac_mean`         Nullable(Float64) COMMENT 'time-weighted mean of dram_frac; NULL: not measured' CODEC(ZSTD(1)),
    `dram_frac_sd`           Nullable(Float64) COMMENT 'time-weighted standard deviation of dram_frac within the hour; NULL: not measured' CODEC(ZSTD(1)),
    `dram_frac_ms`           UInt32 COMMENT 'ms that the mean of dram_frac rests on; 0: not measured' CODEC(T64, ZSTD(1)),
    `pcie_tx_bps_mean`       Nullable(Float64) COMMENT 'time-weighted mean of pcie_tx_bps; NULL: not measured' CODEC(ZSTD(1)),
    `pcie_tx_bps_sd`         Nullable(Float64) COMMENT 'time-weighted standard deviation of pcie_tx_bps within the hour; NULL: not measured' CODEC(ZSTD(1)),
    `pcie_tx_bps_ms`         UInt32 COMMENT 'ms that the mean of pcie_tx_bps rests on; 0: not measured' CODEC(T64, ZSTD(1)),
    `pcie_rx_bps_mean`       Nullable(Float64) COMMENT 'time-weighted mean of pcie_rx_bps; NULL: not measured' CODEC(ZSTD(1)),
    `pcie_rx_bps_sd`         Nullable(Float64) COMMENT 'time-weighted standard deviation of pcie_rx_bps within the hour; NULL: not measured' CODEC(ZSTD(1)),
    `pcie_rx_bps_ms`         UInt32 COMMENT 'ms that the mean of pcie_rx_bps rests on; 0: not measured' CODEC(T64, ZSTD(1)),
    `nvlink_tx_bps_mean`     Nullable(Float64) COMMENT 'time-weighted mean of nvlink_tx_bps; NULL: not measured' CODEC(ZSTD(1)),
    `nvlink_tx_bps_sd`       Nullable(Float64) COMMENT 'time-weighted standard deviation of nvlink_tx_bps within the hour; NULL: not measured' CODEC(ZSTD(1)),
    `nvlink_tx_bps_ms`       UInt32 COMMENT 'ms that the mean of nvlink_tx_bps rests on; 0: not measured' CODEC(T64, ZSTD(1)),
    `nvlink_rx_bps_mean`     Nullable(Float64) COMMENT 'time-weighted mean of nvlink_rx_bps; NULL: not measured' CODEC(ZSTD(1)),
    `nvlink_rx_bps_sd`       Nullable(Float64) COMMENT 'time-weighted standard deviation of nvlink_rx_bps within the hour; NULL: not measured' CODEC(ZSTD(1)),
    `nvlink_rx_bps_ms`       UInt32 COMMENT 'ms that the mean of nvlink_rx_bps rests on; 0: not measured' CODEC(T64, ZSTD(1)),
    `nvenc_frac_mean`        Nullable(Float64) COMMENT 'time-weighted mean of nvenc_frac; NULL: not measured' CODEC(ZSTD(1)),
    `nvenc_frac_sd`          Nullable(Float64) COMMENT 'time-weighted standard deviation of nvenc_frac within the hour; NULL: not measured' CODEC(ZSTD(1)),
    `nvenc_frac_ms`          UInt32 COMMENT 'ms that the mean of nvenc_frac rests on; 0: not measured' CODEC(T64, ZSTD(1)),
    `nvdec_frac_mean`        Nullable(Float64) COMMENT 'time-weighted mean of nvdec_frac; NULL: not measured' CODEC(ZSTD(1)),
    `nvdec_frac_sd`          Nullable(Float64) COMMENT 'time-weighted standard deviation of nvdec_frac within the hour; NULL: not measured' CODEC(ZSTD(1)),
    `nvdec_frac_ms`          UInt32 COMMENT 'ms that the mean of nvdec_frac rests on; 0: not measured' CODEC(T64, ZSTD(1)),
    `tensor_clock_mhz`       Nullable(Float64) COMMENT 'time-weighted mean of tensor_frac x sm_clock_mhz, sample by sample; NULL: not measured' CODEC(ZSTD(1)),
    `tensor_clock_ms`        UInt32 COMMENT 'ms in which both were measured' CODEC(T64, ZSTD(1)),
    `energy_j_first`         Nullable(Float64) COMMENT 'first reading of the counter of energy, joules; NULL: not measured' CODEC(Delta, ZSTD(3)),
    `energy_j_last`          Nullable(Float64) COMMENT 'last reading; NULL: not measured' CODEC(Delta, ZSTD(3)),
    `energy_j_delta`         Nullable(Float64) COMMENT 'increment from the first reading of the hour to the last, resets counted as the new value; NULL: not measured' CODEC(ZSTD(1)),
    `energy_j_first_ms`      Int64 COMMENT 'event time of the first reading; 0: not measured' CODEC(Delta, ZSTD(1)),
    `energy_j_last_ms`       Int64 COMMENT 'event time of the last reading; 0: not measured' CODEC(Delta, ZSTD(1)),
    `mma_cycles_first`       Nullable(Float64) COMMENT 'first reading of the counter of tensor-pipe cycles, mean over the SMs; NULL: not measured' CODEC(Delta, ZSTD(3)),
    `mma_cycles_last`        Nullable(Float64) COMMENT 'last reading; NULL: not measured' CODEC(Delta, ZSTD(3)),
    `mma_cycles_delta`       Nullable(Float64) COMMENT 'increment from the first reading of the hour to the last, resets counted as the new value; NULL: not measured' CODEC(ZSTD(1)),
    `mma_cycles_first_ms`    Int64 COMMENT 'event time of the first reading; 0: not measured' CODEC(Delta, ZSTD(1)),
    `mma_cycles_last_ms`     Int64 COMMENT 'event time of the last reading; 0: not measured' CODEC(Delta, ZSTD(1)),
    `version`                UInt64 COMMENT 'version of the roll-up: the highest holds' CODEC(Delta, ZSTD(1)),
    `detector_version`       LowCardinality(String) COMMENT 'code that made it' CODEC(ZSTD(1)),
    `config_digest`          LowCardinality(String) COMMENT 'configuration that made it' CODEC(ZSTD(1)),
    `inserted_at`            DateTime DEFAULT now() COMMENT 'wall time of the insert: how long the roll-up stays is counted from it' CODEC(Delta, ZSTD(1))
)
ENGINE = {{replacing "version"}}
PARTITION BY toYYYYMM(toDateTime(intDiv(hour_ms, 1000), 'UTC'))
ORDER BY (cluster, intDiv(hour_ms, 86400000), node, gpu, hour_ms)
TTL inserted_at + INTERVAL 2600 DAY DELETE
SETTINGS {{settings}}, ttl_only_drop_parts = 1
COMMENT 'One GPU in one hour, recomputed from its minute cells whenever one of them is made anew after the hour was judged; the hour in progress is not here. Means are weighted by what they rest on, deviations hold both those within minutes and those between them, counters bridge from minute to minute.';

CREATE OR REPLACE VIEW v_gpu_minutes AS
SELECT * EXCEPT (minute_ms), fromUnixTimestamp64Milli(minute_ms, 'UTC') AS time, minute_ms
FROM features_gpu_minute FINAL
COMMENT 'Minute cells of GPUs, latest version.';

CREATE OR REPLACE VIEW v_gpu_hours AS
SELECT * EXCEPT (hour_ms), fromUnixTimestamp64Milli(hour_ms, 'UTC') AS time, hour_ms, bitCount(presence) AS minutes
FROM features_gpu_hour FINAL
COMMENT 'Roll-ups of GPUs by the hour, latest version. The hour that is being judged is not here yet: v_gpu_minutes has its minutes.';

CREATE OR REPLACE VIEW v_fleet_now AS
SELECT cluster, node, gpu, gpu_uuid, fromUnixTimestamp64Milli(ts_ms, 'UTC') AS time, ts_ms,
    util_e4 / 10000 AS util_frac,
    sm_active_e4 / 10000 AS sm_active_frac,
    tensor_e4 / 10000 AS tensor_frac,
    dram_e4 / 10000 AS dram_frac,
    mem_used_bytes,
    power_mw / 1000 AS power_w,
    sm_clock_mhz,
    temp_c,
    clocks_event_reasons,
    nvlink_tx_bps,
    nvlink_rx_bps
FROM gpu_samples
WHERE ts_ms >= toUnixTimestamp64Milli(now64(3)) - 300000
ORDER BY cluster, node, gpu, gpu_uuid, gpu_samples.ts_ms DESC, available_ms
LIMIT 1 BY cluster, node, gpu, gpu_uuid
COMMENT 'The latest sample of each GPU that reported within five minutes of wall time. A GPU that is not here has not reported: that is not idleness.';

CREATE OR REPLACE VIEW v_account_hours AS
SELECT cluster, account, node, gpu, fromUnixTimestamp64Milli(hour_ms, 'UTC') AS time, hour_ms,
    greatest(least(end_ms, hour_ms + 3600000) - greatest(start_ms, hour_ms), 0) AS rented_ms,
    bitCount(presence) AS minutes,
    util_frac_mean,
    if(sm_active_frac_ms > 0, sm_active_frac_mean, util_frac_mean) AS busy_frac,
    tensor_frac_mean,
    power_w_mean,
    energy_j_delta * rented_ms / 3600000 AS energy_j,
    mma_cycles_delta * rented_ms / 3600000 AS mma_cycles
FROM features_gpu_hour FINAL
INNER JOIN
(
    SELECT cluster, account, node, toInt64OrZero(arrayJoin(splitByChar(' ', gpu_list))) AS gpu, start_ms, if(end_ms IS NULL, 9223372036854775807, assumeNotNull(end_ms)) AS end_ms
    FROM
    (
        SELECT cluster, account, node, gpu_list, start_ms, end_ms
        FROM allocations
        ORDER BY available_ms DESC, sequence DESC, ifNull(end_ms, 0) DESC
        LIMIT 1 BY cluster, account, node, gpu_list, start_ms
    )
) AS rentals USING (cluster, node, gpu)
WHERE rented_ms > 0
COMMENT 'What each account rented and how it was used, by GPU and hour. Energy and cycles of an hour that was rented in part count in that proportion. An hour of which nothing was measured is not here: coverage tells of it.';
