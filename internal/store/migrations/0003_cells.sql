-- Minute cells: recomputed from raw rows whenever a minute is touched, never summed. Float64
-- as computed, so that a judgement from cells is the same to the last bit.

CREATE TABLE IF NOT EXISTS features_gpu_minute
(
    `cluster`                LowCardinality(String) COMMENT 'cluster' CODEC(ZSTD(1)),
    `node`                   LowCardinality(String) COMMENT 'host' CODEC(ZSTD(1)),
    `gpu`                    Int64 COMMENT 'index of the GPU on its host' CODEC(T64, ZSTD(1)),
    `minute_ms`              Int64 COMMENT 'start of the minute, Unix ms UTC' CODEC(Delta, ZSTD(1)),
    `available_ms`           Int64 COMMENT 'latest availability of a row that contributed' CODEC(Delta, ZSTD(1)),
    `samples`                UInt32 COMMENT 'raw samples that contributed' CODEC(T64, ZSTD(1)),
    `util_frac_mean`         Nullable(Float64) COMMENT 'time-weighted mean of util_frac; NULL: not measured' CODEC(ZSTD(1)),
    `util_frac_sd`           Nullable(Float64) COMMENT 'time-weighted standard deviation of util_frac within the minute; NULL: not measured' CODEC(ZSTD(1)),
    `util_frac_ms`           UInt32 COMMENT 'ms that the mean of util_frac rests on; 0: not measured' CODEC(T64, ZSTD(1)),
    `mem_used_bytes_mean`    Nullable(Float64) COMMENT 'time-weighted mean of mem_used_bytes; NULL: not measured' CODEC(ZSTD(1)),
    `mem_used_bytes_sd`      Nullable(Float64) COMMENT 'time-weighted standard deviation of mem_used_bytes within the minute; NULL: not measured' CODEC(ZSTD(1)),
    `mem_used_bytes_ms`      UInt32 COMMENT 'ms that the mean of mem_used_bytes rests on; 0: not measured' CODEC(T64, ZSTD(1)),
    `power_w_mean`           Nullable(Float64) COMMENT 'time-weighted mean of power_w; NULL: not measured' CODEC(ZSTD(1)),
    `power_w_sd`             Nullable(Float64) COMMENT 'time-weighted standard deviation of power_w within the minute; NULL: not measured' CODEC(ZSTD(1)),
    `power_w_ms`             UInt32 COMMENT 'ms that the mean of power_w rests on; 0: not measured' CODEC(T64, ZSTD(1)),
    `sm_clock_mhz_mean`      Nullable(Float64) COMMENT 'time-weighted mean of sm_clock_mhz; NULL: not measured' CODEC(ZSTD(1)),
    `sm_clock_mhz_sd`        Nullable(Float64) COMMENT 'time-weighted standard deviation of sm_clock_mhz within the minute; NULL: not measured' CODEC(ZSTD(1)),
    `sm_clock_mhz_ms`        UInt32 COMMENT 'ms that the mean of sm_clock_mhz rests on; 0: not measured' CODEC(T64, ZSTD(1)),
    `sm_active_frac_mean`    Nullable(Float64) COMMENT 'time-weighted mean of sm_active_frac; NULL: not measured' CODEC(ZSTD(1)),
    `sm_active_frac_sd`      Nullable(Float64) COMMENT 'time-weighted standard deviation of sm_active_frac within the minute; NULL: not measured' CODEC(ZSTD(1)),
    `sm_active_frac_ms`      UInt32 COMMENT 'ms that the mean of sm_active_frac rests on; 0: not measured' CODEC(T64, ZSTD(1)),
    `sm_occupancy_frac_mean` Nullable(Float64) COMMENT 'time-weighted mean of sm_occupancy_frac; NULL: not measured' CODEC(ZSTD(1)),
    `sm_occupancy_frac_sd`   Nullable(Float64) COMMENT 'time-weighted standard deviation of sm_occupancy_frac within the minute; NULL: not measured' CODEC(ZSTD(1)),
    `sm_occupancy_frac_ms`   UInt32 COMMENT 'ms that the mean of sm_occupancy_frac rests on; 0: not measured' CODEC(T64, ZSTD(1)),
    `tensor_frac_mean`       Nullable(Float64) COMMENT 'time-weighted mean of tensor_frac; NULL: not measured' CODEC(ZSTD(1)),
    `tensor_frac_sd`         Nullable(Float64) COMMENT 'time-weighted standard deviation of tensor_frac within the minute; NULL: not measured' CODEC(ZSTD(1)),
    `tensor_frac_ms`         UInt32 COMMENT 'ms that the mean of tensor_frac rests on; 0: not measured' CODEC(T64, ZSTD(1)),
    `hmma_frac_mean`         Nullable(Float64) COMMENT 'time-weighted mean of hmma_frac; NULL: not measured' CODEC(ZSTD(1)),
    `hmma_frac_sd`           Nullable(Float64) COMMENT 'time-weighted standard deviation of hmma_frac within the minute; NULL: not measured' CODEC(ZSTD(1)),
    `hmma_frac_ms`           UInt32 COMMENT 'ms that the mean of hmma_frac rests on; 0: not measured' CODEC(T64, ZSTD(1)),
    `imma_frac_mean`         Nullable(Float64) COMMENT 'time-weighted mean of imma_frac; NULL: not measured' CODEC(ZSTD(1)),
    `imma_frac_sd`           Nullable(Float64) COMMENT 'time-weighted standard deviation of imma_frac within the minute; NULL: not measured' CODEC(ZSTD(1)),
    `imma_frac_ms`           UInt32 COMMENT 'ms that the mean of imma_frac rests on; 0: not measured' CODEC(T64, ZSTD(1)),
    `dfma_frac_mean`         Nullable(Float64) COMMENT 'time-weighted mean of dfma_frac; NULL: not measured' CODEC(ZSTD(1)),
    `dfma_frac_sd`           Nullable(Float64) COMMENT 'time-weighted standard deviation of dfma_frac within the minute; NULL: not measured' CODEC(ZSTD(1)),
    `dfma_frac_ms`           UInt32 COMMENT 'ms that the mean of dfma_frac rests on; 0: not measured' CODEC(T64, ZSTD(1)),
    `fp64_frac_mean`         Nullable(Float64) COMMENT 'time-weighted mean of fp64_frac; NULL: not measured' CODEC(ZSTD(1)),
    `fp64_frac_sd`           Nullable(Float64) COMMENT 'time-weighted standard deviation of fp64_frac within the minute; NULL: not measured' CODEC(ZSTD(1)),
    `fp64_frac_ms`           UInt32 COMMENT 'ms that the mean of fp64_frac rests on; 0: not measured' CODEC(T64, ZSTD(1)),
    `fp32_frac_mean`         Nullable(Float64) COMMENT 'time-weighted mean of fp32_frac; NULL: not measured' CODEC(ZSTD(1)),
    `fp32_frac_sd`           Nullable(Float64) COMMENT 'time-weighted standard deviation of fp32_frac within the minute; NULL: not measured' CODEC(ZSTD(1)),
    `fp32_frac_ms`           UInt32 COMMENT 'ms that the mean of fp32_frac rests on; 0: not measured' CODEC(T64, ZSTD(1)),
    `fp16_frac_mean`         Nullable(Float64) COMMENT 'time-weighted mean of fp16_frac; NULL: not measured' CODEC(ZSTD(1)),
    `fp16_frac_sd`           Nullable(Float64) COMMENT 'time-weighted standard deviation of fp16_frac within the minute; NULL: not measured' CODEC(ZSTD(1)),
    `fp16_frac_ms`           UInt32 COMMENT 'ms that the mean of fp16_frac rests on; 0: not measured' CODEC(T64, ZSTD(1)),
    `int_frac_mean`          Nullable(Float64) COMMENT 'time-weighted mean of int_frac; NULL: not measured' CODEC(ZSTD(1)),
    `int_frac_sd`            Nullable(Float64) COMMENT 'time-weighted standard deviation of int_frac within the minute; NULL: not measured' CODEC(ZSTD(1)),
    `int_frac_ms`            UInt32 COMMENT 'ms that the mean of int_frac rests on; 0: not measured' CODEC(T64, ZSTD(1)),
    `dram_frac_mean`         Nullable(Float64) COMMENT 'time-weighted mean of dram_frac; NULL: not measured' CODEC(ZSTD(1)),
    `dram_frac_sd`           Nullable(Float64) COMMENT 'time-weighted standard deviation of dram_frac within the minute; NULL: not measured' CODEC(ZSTD(1)),
    `dram_frac_ms`           UInt32 COMMENT 'ms that the mean of dram_frac rests on; 0: not measured' CODEC(T64, ZSTD(1)),
    `pcie_tx_bps_mean`       Nullable(Float64) COMMENT 'time-weighted mean of pcie_tx_bps; NULL: not measured' CODEC(ZSTD(1)),
    `pcie_tx_bps_sd`         Nullable(Float64) COMMENT 'time-weighted standard deviation of pcie_tx_bps within the minute; NULL: not measured' CODEC(ZSTD(1)),
    `pcie_tx_bps_ms`         UInt32 COMMENT 'ms that the mean of pcie_tx_bps rests on; 0: not measured' CODEC(T64, ZSTD(1)),
    `pcie_rx_bps_mean`       Nullable(Float64) COMMENT 'time-weighted mean of pcie_rx_bps; NULL: not measured' CODEC(ZSTD(1)),
    `pcie_rx_bps_sd`         Nullable(Float64) COMMENT 'time-weighted standard deviation of pcie_rx_bps within the minute; NULL: not measured' CODEC(ZSTD(1)),
    `pcie_rx_bps_ms`         UInt32 COMMENT 'ms that the mean of pcie_rx_bps rests on; 0: not measured' CODEC(T64, ZSTD(1)),
    `nvlink_tx_bps_mean`     Nullable(Float64) COMMENT 'time-weighted mean of nvlink_tx_bps; NULL: not measured' CODEC(ZSTD(1)),
    `nvlink_tx_bps_sd`       Nullable(Float64) COMMENT 'time-weighted standard deviation of nvlink_tx_bps within the minute; NULL: not measured' CODEC(ZSTD(1)),
    `nvlink_tx_bps_ms`       UInt32 COMMENT 'ms that the mean of nvlink_tx_bps rests on; 0: not measured' CODEC(T64, ZSTD(1)),
    `nvlink_rx_bps_mean`     Nullable(Float64) COMMENT 'time-weighted mean of nvlink_rx_bps; NULL: not measured' CODEC(ZSTD(1)),
    `nvlink_rx_bps_sd`       Nullable(Float64) COMMENT 'time-weighted standard deviation of nvlink_rx_bps within the minute; NULL: not measured' CODEC(ZSTD(1)),
    `nvlink_rx_bps_ms`       UInt32 COMMENT 'ms that the mean of nvlink_rx_bps rests on; 0: not measured' CODEC(T64, ZSTD(1)),
    `nvenc_frac_mean`        Nullable(Float64) COMMENT 'time-weighted mean of nvenc_frac; NULL: not measured' CODEC(ZSTD(1)),
    `nvenc_frac_sd`          Nullable(Float64) COMMENT 'time-weighted standard deviation of nvenc_frac within the minute; NULL: not measured' CODEC(ZSTD(1)),
    `nvenc_frac_ms`          UInt32 COMMENT 'ms that the mean of nvenc_frac rests on; 0: not measured' CODEC(T64, ZSTD(1)),
    `nvdec_frac_mean`        Nullable(Float64) COMMENT 'time-weighted mean of nvdec_frac; NULL: not measured' CODEC(ZSTD(1)),
    `nvdec_frac_sd`          Nullable(Float64) COMMENT 'time-weighted standard deviation of nvdec_frac within the minute; NULL: not measured' CODEC(ZSTD(1)),
    `nvdec_frac_ms`          UInt32 COMMENT 'ms that the mean of nvdec_frac rests on; 0: not measured' CODEC(T64, ZSTD(1)),
    `tensor_clock_mhz`       Nullable(Float64) COMMENT 'time-weighted mean of tensor_frac x sm_clock_mhz, sample by sample; NULL: not measured' CODEC(ZSTD(1)),
    `tensor_clock_ms`        UInt32 COMMENT 'ms in which both were measured' CODEC(T64, ZSTD(1)),
    `energy_j_first`         Nullable(Float64) COMMENT 'first reading of the counter of energy, joules; NULL: not measured' CODEC(ZSTD(1)),
    `energy_j_last`          Nullable(Float64) COMMENT 'last reading; NULL: not measured' CODEC(ZSTD(1)),
    `energy_j_delta`         Nullable(Float64) COMMENT 'increment from first to last, resets counted as the new value; NULL: not measured' CODEC(ZSTD(1)),
    `energy_j_first_ms`      Int64 COMMENT 'event time of the first reading; 0: not measured' CODEC(Delta, ZSTD(1)),
    `energy_j_last_ms`       Int64 COMMENT 'event time of the last reading; 0: not measured' CODEC(Delta, ZSTD(1)),
    `mma_cycles_first`       Nullable(Float64) COMMENT 'first reading of the counter of tensor-pipe cycles, mean over the SMs; NULL: not measured' CODEC(ZSTD(1)),
    `mma_cycles_last`        Nullable(Float64) COMMENT 'last reading; NULL: not measured' CODEC(ZSTD(1)),
    `mma_cycles_delta`       Nullable(Float64) COMMENT 'increment from first to last, resets counted as the new value; NULL: not measured' CODEC(ZSTD(1)),
    `mma_cycles_first_ms`    Int64 COMMENT 'event time of the first reading; 0: not measured' CODEC(Delta, ZSTD(1)),
    `mma_cycles_last_ms`     Int64 COMMENT 'event time of the last reading; 0: not measured' CODEC(Delta, ZSTD(1)),
    `version`                UInt64 COMMENT 'version of the cell: the highest holds' CODEC(T64, ZSTD(1)),
    `detector_version`       LowCardinality(String) COMMENT 'code that made it' CODEC(ZSTD(1)),
    `config_digest`          LowCardinality(String) COMMENT 'configuration that made it' CODEC(ZSTD(1))
)
ENGINE = {{replacing "version"}}
PARTITION BY toYYYYMM(toDateTime(intDiv(minute_ms, 1000), 'UTC'))
ORDER BY (cluster, intDiv(minute_ms, 3600000), node, gpu, minute_ms)
SETTINGS {{settings}}
COMMENT 'One GPU in one minute. Every later stage reads cells alone.';

CREATE TABLE IF NOT EXISTS features_node_minute
(
    `cluster`           LowCardinality(String) COMMENT 'cluster' CODEC(ZSTD(1)),
    `node`              LowCardinality(String) COMMENT 'host' CODEC(ZSTD(1)),
    `minute_ms`         Int64 COMMENT 'start of the minute, Unix ms UTC' CODEC(Delta, ZSTD(1)),
    `available_ms`      Int64 COMMENT 'latest availability of a row that contributed' CODEC(Delta, ZSTD(1)),
    `power_w`           Nullable(Float64) COMMENT 'mean power of the host, watts; NULL: not measured' CODEC(ZSTD(1)),
    `power_sd`          Nullable(Float64) COMMENT 'standard deviation of the power, watts; NULL: not measured' CODEC(ZSTD(1)),
    `power_ms`          UInt32 COMMENT 'ms that it rests on; 0: not measured' CODEC(T64, ZSTD(1)),
    `cpu_frac`          Nullable(Float64) COMMENT 'mean CPU busy; NULL: not measured' CODEC(ZSTD(1)),
    `cpu_ms`            UInt32 COMMENT 'ms that it rests on' CODEC(T64, ZSTD(1)),
    `storage_tx_bps`    Nullable(Float64) COMMENT 'mean bytes per second to storage; NULL: not measured' CODEC(ZSTD(1)),
    `storage_rx_bps`    Nullable(Float64) COMMENT 'mean bytes per second from storage; NULL: not measured' CODEC(ZSTD(1)),
    `storage_ms`        UInt32 COMMENT 'ms that it rests on' CODEC(T64, ZSTD(1)),
    `fabric_tx_bytes`   Nullable(Float64) COMMENT 'bytes sent over back-end ports (infiniband, roce); NULL: not measured' CODEC(ZSTD(1)),
    `fabric_rx_bytes`   Nullable(Float64) COMMENT 'bytes received over back-end ports; NULL: not measured' CODEC(ZSTD(1)),
    `fabric_tx_cv`      Nullable(Float64) COMMENT 'sd / mean of the sending rate within the minute: burstiness; NULL: not measured' CODEC(ZSTD(1)),
    `fabric_ms`         UInt32 COMMENT 'ms that it rests on' CODEC(T64, ZSTD(1)),
    `ethernet_tx_bytes` Nullable(Float64) COMMENT 'bytes sent over ethernet and vf ports; NULL: not measured' CODEC(ZSTD(1)),
    `ethernet_rx_bytes` Nullable(Float64) COMMENT 'bytes received over ethernet and vf ports; NULL: not measured' CODEC(ZSTD(1)),
    `ethernet_ms`       UInt32 COMMENT 'ms that it rests on' CODEC(T64, ZSTD(1)),
    `version`           UInt64 COMMENT 'version of the cell: the highest holds' CODEC(T64, ZSTD(1)),
    `detector_version`  LowCardinality(String) COMMENT 'code that made it' CODEC(ZSTD(1)),
    `config_digest`     LowCardinality(String) COMMENT 'configuration that made it' CODEC(ZSTD(1))
)
ENGINE = {{replacing "version"}}
PARTITION BY toYYYYMM(toDateTime(intDiv(minute_ms, 1000), 'UTC'))
ORDER BY (cluster, intDiv(minute_ms, 3600000), node, minute_ms)
SETTINGS {{settings}}
COMMENT 'One host in one minute: power, CPU, storage, fabric.';

CREATE TABLE IF NOT EXISTS features_comm_minute
(
    `cluster`          LowCardinality(String) COMMENT 'cluster' CODEC(ZSTD(1)),
    `node`             LowCardinality(String) COMMENT 'host' CODEC(ZSTD(1)),
    `pid`              Int64 COMMENT 'process' CODEC(T64, ZSTD(1)),
    `gpu`              Int64 COMMENT 'index of the GPU' CODEC(T64, ZSTD(1)),
    `comm`             LowCardinality(String) COMMENT 'communicator' CODEC(ZSTD(1)),
    `op`               LowCardinality(String) COMMENT 'operation' CODEC(ZSTD(1)),
    `nranks`           Int64 COMMENT 'ranks of the communicator, 0: not known' CODEC(T64, ZSTD(1)),
    `rank`             Int64 COMMENT 'rank, -1: not known' CODEC(T64, ZSTD(1)),
    `minute_ms`        Int64 COMMENT 'start of the minute, Unix ms UTC' CODEC(Delta, ZSTD(1)),
    `available_ms`     Int64 COMMENT 'latest availability of a row that contributed' CODEC(Delta, ZSTD(1)),
    `calls`            Nullable(Float64) COMMENT 'calls in the minute; NULL: not measured' CODEC(ZSTD(1)),
    `bytes`            Nullable(Float64) COMMENT 'bytes in the minute; NULL: not measured' CODEC(ZSTD(1)),
    `version`          UInt64 COMMENT 'version of the cell: the highest holds' CODEC(T64, ZSTD(1)),
    `detector_version` LowCardinality(String) COMMENT 'code that made it' CODEC(ZSTD(1)),
    `config_digest`    LowCardinality(String) COMMENT 'configuration that made it' CODEC(ZSTD(1))
)
ENGINE = {{replacing "version"}}
PARTITION BY toYYYYMM(toDateTime(intDiv(minute_ms, 1000), 'UTC'))
ORDER BY (cluster, intDiv(minute_ms, 3600000), node, pid, gpu, comm, op, minute_ms)
SETTINGS {{settings}}
COMMENT 'One process on one communicator in one minute.';

CREATE TABLE IF NOT EXISTS features_flow_minute
(
    `cluster`          LowCardinality(String) COMMENT 'cluster' CODEC(ZSTD(1)),
    `node`             LowCardinality(String) COMMENT 'host' CODEC(ZSTD(1)),
    `peer`             LowCardinality(String) COMMENT 'peer' CODEC(ZSTD(1)),
    `minute_ms`        Int64 COMMENT 'start of the minute, Unix ms UTC' CODEC(Delta, ZSTD(1)),
    `available_ms`     Int64 COMMENT 'latest availability of a row that contributed' CODEC(Delta, ZSTD(1)),
    `tx_bytes`         Nullable(Float64) COMMENT 'bytes sent to the peer in the minute; NULL: not measured' CODEC(ZSTD(1)),
    `version`          UInt64 COMMENT 'version of the cell: the highest holds' CODEC(T64, ZSTD(1)),
    `detector_version` LowCardinality(String) COMMENT 'code that made it' CODEC(ZSTD(1)),
    `config_digest`    LowCardinality(String) COMMENT 'configuration that made it' CODEC(ZSTD(1))
)
ENGINE = {{replacing "version"}}
PARTITION BY toYYYYMM(toDateTime(intDiv(minute_ms, 1000), 'UTC'))
ORDER BY (cluster, intDiv(minute_ms, 3600000), node, peer, minute_ms)
SETTINGS {{settings}}
COMMENT 'Traffic of a pair in one minute.';
