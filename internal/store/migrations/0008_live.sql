-- What a live agent sees beyond what recordings hold: clocks, heat and throttling of GPUs, links of
-- ports, what each GPU is, and what each instrument can see.

ALTER TABLE gpu_samples
    ADD COLUMN IF NOT EXISTS `mem_clock_mhz` Nullable(UInt16) COMMENT 'memory clock, MHz; NULL: not measured' CODEC(T64, ZSTD(1)) AFTER `nvdec_e4`,
    ADD COLUMN IF NOT EXISTS `temp_c` Nullable(Int64) COMMENT 'temperature of the GPU, degrees Celsius; NULL: not measured' CODEC(T64, ZSTD(1)) AFTER `mem_clock_mhz`,
    ADD COLUMN IF NOT EXISTS `clocks_event_reasons` Nullable(UInt64) COMMENT 'why clocks are where they are: bits of nvmlClocksEventReasons, 0: nothing holds them back; NULL: not measured' CODEC(T64, ZSTD(1)) AFTER `temp_c`;

ALTER TABLE fabric_samples
    ADD COLUMN IF NOT EXISTS `rate_mbps` Nullable(Int64) COMMENT 'rate of the link, Mbit/s; NULL: not known' CODEC(T64, ZSTD(1)) AFTER `rx_bytes`,
    ADD COLUMN IF NOT EXISTS `link_up` Nullable(Int64) COMMENT '1: the link is up, 0: it is down; NULL: not known' CODEC(T64, ZSTD(1)) AFTER `rate_mbps`;

ALTER TABLE batches
    ADD COLUMN IF NOT EXISTS `device_rows` UInt32 COMMENT 'rows of kind device in the batch' CODEC(T64, ZSTD(1)) AFTER `order_rows`,
    ADD COLUMN IF NOT EXISTS `status_rows` UInt32 COMMENT 'rows of kind status in the batch' CODEC(T64, ZSTD(1)) AFTER `device_rows`;

CREATE TABLE IF NOT EXISTS gpu_devices
(
    `cluster`          LowCardinality(String) COMMENT 'cluster that the batch came from' CODEC(ZSTD(1)),
    `node`             LowCardinality(String) COMMENT 'host of the GPU' CODEC(ZSTD(1)),
    `spool`            LowCardinality(String) COMMENT 'identity of the batch: the spool\'s random id, hex' CODEC(ZSTD(1)),
    `sequence`         UInt64 COMMENT 'identity of the batch: its number within the spool' CODEC(Delta, ZSTD(1)),
    `sources`          LowCardinality(String) COMMENT 'which instrument each group of columns came from, as source:column,column;...' CODEC(ZSTD(1)),
    `available_ms`     Int64 COMMENT 'Unix ms at which the row could be known: the broker\'s time, in a replay the running maximum of event time' CODEC(Delta, ZSTD(1)),
    `ts_ms`            Int64 COMMENT 'when the driver was asked, Unix ms UTC' CODEC(Delta, ZSTD(1)),
    `gpu_uuid`         LowCardinality(String) COMMENT 'the GPU\'s own id; the key' CODEC(ZSTD(1)),
    `gpu`              Int64 COMMENT 'index of the GPU on its host, an alias' CODEC(T64, ZSTD(1)),
    `gpu_model`        LowCardinality(Nullable(String)) COMMENT 'model as NVML names it; NULL: not known' CODEC(ZSTD(1)),
    `pci_bus_id`       LowCardinality(Nullable(String)) COMMENT 'PCI address; NULL: not known' CODEC(ZSTD(1)),
    `driver_version`   LowCardinality(Nullable(String)) COMMENT 'version of the driver; NULL: not known' CODEC(ZSTD(1)),
    `vbios_version`    LowCardinality(Nullable(String)) COMMENT 'version of the video BIOS; NULL: not known' CODEC(ZSTD(1)),
    `mem_total_bytes`  Nullable(UInt64) COMMENT 'device memory, bytes; NULL: not known' CODEC(T64, ZSTD(1)),
    `power_limit_mw`   Nullable(Int64) COMMENT 'default power limit of the board, milliwatts; NULL: not known' CODEC(T64, ZSTD(1)),
    `sm_clock_max_mhz` Nullable(Int64) COMMENT 'highest SM clock, MHz; NULL: not known' CODEC(T64, ZSTD(1)),
    `mig_mode`         Nullable(Int64) COMMENT '1: partitioned (MIG), 0: not; NULL: not known' CODEC(T64, ZSTD(1)),
    `nvlink_count`     Nullable(Int64) COMMENT 'NVLinks that are up; NULL: not known' CODEC(T64, ZSTD(1)),
    `capabilities`     LowCardinality(Nullable(String)) COMMENT 'what the driver can tell of this GPU, names separated by commas; NULL: not known' CODEC(ZSTD(1)),
    INDEX ix_available available_ms TYPE minmax GRANULARITY 1
)
ENGINE = {{replacing ""}}
ORDER BY (cluster, node, gpu_uuid, gpu, ts_ms, sources, available_ms, sequence)
SETTINGS {{settings}}
COMMENT 'What each GPU is, as its driver says, one row per announcement; the latest holds. Not subject to expiry.';

CREATE TABLE IF NOT EXISTS instrument_status
(
    `cluster`      LowCardinality(String) COMMENT 'cluster that the batch came from' CODEC(ZSTD(1)),
    `node`         LowCardinality(String) COMMENT 'host of the agent' CODEC(ZSTD(1)),
    `spool`        LowCardinality(String) COMMENT 'identity of the batch: the spool\'s random id, hex' CODEC(ZSTD(1)),
    `sequence`     UInt64 COMMENT 'identity of the batch: its number within the spool' CODEC(Delta, ZSTD(1)),
    `sources`      LowCardinality(String) COMMENT 'which instrument each group of columns came from, as source:column,column;...' CODEC(ZSTD(1)),
    `available_ms` Int64 COMMENT 'Unix ms at which the row could be known: the broker\'s time, in a replay the running maximum of event time' CODEC(Delta, ZSTD(1)),
    `ts_ms`        Int64 COMMENT 'when the instrument was in that state, Unix ms UTC' CODEC(Delta, ZSTD(1)),
    `instrument`   LowCardinality(String) COMMENT 'gpu, gpu/GPU-uuid, fabric, job, host, agent' CODEC(ZSTD(1)),
    `state`        LowCardinality(Nullable(String)) COMMENT 'active, degraded, stalled, lost or unavailable; never idle: what was not seen is not zero' CODEC(ZSTD(1)),
    `reason`       LowCardinality(Nullable(String)) COMMENT 'why it is not active; NULL: it is' CODEC(ZSTD(1)),
    `since_ms`     Nullable(Int64) COMMENT 'since when it is in that state, Unix ms UTC' CODEC(Delta, ZSTD(1)),
    `first_wins`   UInt64 MATERIALIZED toUInt64(9223372036854775807 - available_ms) COMMENT 'version for ReplacingMergeTree: of equal keys the row that was available first stays' CODEC(Delta, ZSTD(1)),
    `expires`      DateTime DEFAULT now() + INTERVAL 30 DAY COMMENT 'when the row may go, counted from its arrival in the store' CODEC(DoubleDelta, ZSTD(1)),
    INDEX ix_available available_ms TYPE minmax GRANULARITY 1
)
ENGINE = {{replacing "first_wins"}}
PARTITION BY toYYYYMMDD(expires)
ORDER BY (cluster, node, instrument, ts_ms, sources)
TTL expires DELETE
SETTINGS {{settings}}, ttl_only_drop_parts = 1
COMMENT 'What each instrument of each agent could see, and why not more: on every change and every few minutes. Kept 30 days from arrival.';

CREATE OR REPLACE VIEW v_gpu_devices AS
SELECT *, fromUnixTimestamp64Milli(ts_ms, 'UTC') AS time
FROM gpu_devices
ORDER BY cluster, node, gpu_uuid, ts_ms DESC, available_ms DESC, sequence DESC
LIMIT 1 BY cluster, node, gpu_uuid
COMMENT 'The latest word of the driver on each GPU.';

CREATE OR REPLACE VIEW v_instruments AS
SELECT cluster, node, instrument, state, reason, fromUnixTimestamp64Milli(ifNull(since_ms, ts_ms), 'UTC') AS since, fromUnixTimestamp64Milli(ts_ms, 'UTC') AS told, ts_ms
FROM instrument_status FINAL
ORDER BY cluster, node, instrument, ts_ms DESC
LIMIT 1 BY cluster, node, instrument
COMMENT 'The latest state of each instrument of each agent. A state that was told long ago is that of a silent agent.';

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
    sources,
    mem_clock_mhz,
    temp_c,
    clocks_event_reasons
FROM gpu_samples FINAL
COMMENT 'Samples of GPUs in natural units, one row per sample. Empty (NULL) means not measured, never zero.';
