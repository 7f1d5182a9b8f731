-- Raw rows: one table a kind of record of the wire contract, columns named like its fields.
-- Natural keys prove, dedup tokens optimise: a duplicate that slips in changes no answer.

CREATE TABLE IF NOT EXISTS gpu_samples
(
    `cluster`         LowCardinality(String) COMMENT 'cluster that the batch came from' CODEC(ZSTD(1)),
    `node`            LowCardinality(String) COMMENT 'host that measured' CODEC(ZSTD(1)),
    `spool`           LowCardinality(String) COMMENT 'identity of the batch: the spool\'s random id, hex' CODEC(ZSTD(1)),
    `sequence`        UInt64 COMMENT 'identity of the batch: its number within the spool' CODEC(Delta, ZSTD(1)),
    `sources`         LowCardinality(String) COMMENT 'which instrument each group of columns came from, as source:column,column;...' CODEC(ZSTD(1)),
    `available_ms`    Int64 COMMENT 'Unix ms at which the row could be known: the broker\'s time, in a replay the running maximum of event time' CODEC(Delta, ZSTD(1)),
    `ts_ms`           Int64 COMMENT 'event time of the sample, Unix ms UTC' CODEC(Delta, ZSTD(1)),
    `gpu_uuid`        LowCardinality(String) COMMENT 'the GPU\'s own id; the key' CODEC(ZSTD(1)),
    `gpu`             Int64 COMMENT 'index of the GPU on its host, an alias' CODEC(T64, ZSTD(1)),
    `boot_ms`         Nullable(Int64) COMMENT 'boot-time clock at the sample, ms; rates use its differences; NULL: not known' CODEC(Delta, ZSTD(1)),
    `util_e4`         Nullable(UInt16) COMMENT 'NVML utilization, fraction times 10,000; NULL: not measured' CODEC(T64, ZSTD(1)),
    `mem_used_bytes`  Nullable(UInt64) COMMENT 'device memory in use, bytes; NULL: not measured' CODEC(T64, ZSTD(1)),
    `power_mw`        Nullable(UInt32) COMMENT 'board power, milliwatts; NULL: not measured' CODEC(T64, ZSTD(1)),
    `energy_mj`       Nullable(UInt64) COMMENT 'cumulative energy, millijoules, may reset; NULL: not measured' CODEC(Delta, T64, ZSTD(1)),
    `sm_clock_mhz`    Nullable(UInt16) COMMENT 'SM clock, MHz; NULL: not measured' CODEC(T64, ZSTD(1)),
    `sm_active_e4`    Nullable(UInt16) COMMENT 'share of time and SMs with a warp resident, times 10,000; NULL: not measured' CODEC(T64, ZSTD(1)),
    `sm_occupancy_e4` Nullable(UInt16) COMMENT 'resident warps over the maximum, times 10,000; NULL: not measured' CODEC(T64, ZSTD(1)),
    `tensor_e4`       Nullable(UInt16) COMMENT 'share of cycles in which any tensor pipe was busy, times 10,000; NULL: not measured' CODEC(T64, ZSTD(1)),
    `hmma_e4`         Nullable(UInt16) COMMENT 'half-precision tensor pipe busy, times 10,000; NULL: not measured' CODEC(T64, ZSTD(1)),
    `imma_e4`         Nullable(UInt16) COMMENT 'integer tensor pipe busy, times 10,000; NULL: not measured' CODEC(T64, ZSTD(1)),
    `dfma_e4`         Nullable(UInt16) COMMENT 'double-precision tensor pipe busy, times 10,000; NULL: not measured' CODEC(T64, ZSTD(1)),
    `fp64_e4`         Nullable(UInt16) COMMENT 'FP64 pipe busy, times 10,000; NULL: not measured' CODEC(T64, ZSTD(1)),
    `fp32_e4`         Nullable(UInt16) COMMENT 'FP32 pipe busy, times 10,000; NULL: not measured' CODEC(T64, ZSTD(1)),
    `fp16_e4`         Nullable(UInt16) COMMENT 'FP16 pipe busy, times 10,000; NULL: not measured' CODEC(T64, ZSTD(1)),
    `int_e4`          Nullable(UInt16) COMMENT 'integer pipe busy, times 10,000; NULL: not measured' CODEC(T64, ZSTD(1)),
    `dram_e4`         Nullable(UInt16) COMMENT 'device memory interface busy, times 10,000; NULL: not measured' CODEC(T64, ZSTD(1)),
    `mma_cycles`      Nullable(UInt64) COMMENT 'cumulative tensor-pipe cycles, mean over the SMs, may reset; NULL: not measured' CODEC(Delta, T64, ZSTD(1)),
    `pcie_tx_bps`     Nullable(UInt64) COMMENT 'PCIe out of the GPU, bytes per second; NULL: not measured' CODEC(T64, ZSTD(1)),
    `pcie_rx_bps`     Nullable(UInt64) COMMENT 'PCIe into the GPU, bytes per second; NULL: not measured' CODEC(T64, ZSTD(1)),
    `nvlink_tx_bps`   Nullable(UInt64) COMMENT 'NVLink out, bytes per second; NULL: not measured' CODEC(T64, ZSTD(1)),
    `nvlink_rx_bps`   Nullable(UInt64) COMMENT 'NVLink in, bytes per second; NULL: not measured' CODEC(T64, ZSTD(1)),
    `nvenc_e4`        Nullable(UInt16) COMMENT 'video encoder busy, times 10,000; NULL: not measured' CODEC(T64, ZSTD(1)),
    `nvdec_e4`        Nullable(UInt16) COMMENT 'video decoder busy, times 10,000; NULL: not measured' CODEC(T64, ZSTD(1)),
    `first_wins`      UInt64 MATERIALIZED toUInt64(9223372036854775807 - available_ms) COMMENT 'version for ReplacingMergeTree: of equal keys the row that was available first stays, so that a judgement as of a moment never changes through a repeat' CODEC(Delta, ZSTD(1)),
    `expires`         DateTime DEFAULT now() + INTERVAL 30 DAY COMMENT 'when the row may go, counted from its arrival in the store, never from event time: a recording of an earlier year must not vanish on arrival' CODEC(DoubleDelta, ZSTD(1)),
    INDEX ix_ts ts_ms TYPE minmax GRANULARITY 1,
    INDEX ix_available available_ms TYPE minmax GRANULARITY 1
)
ENGINE = {{replacing "first_wins"}}
PARTITION BY toYYYYMMDD(expires)
ORDER BY (cluster, intDiv(ts_ms, 3600000), node, gpu, gpu_uuid, ts_ms, sources)
TTL expires DELETE
SETTINGS {{settings}}, ttl_only_drop_parts = 1
COMMENT 'Raw samples of GPUs, scaled integers, one row per GPU and sample. Use v_gpu_samples for natural units. Kept 30 days from arrival.';

CREATE TABLE IF NOT EXISTS host_samples
(
    `cluster`        LowCardinality(String) COMMENT 'cluster that the batch came from' CODEC(ZSTD(1)),
    `node`           LowCardinality(String) COMMENT 'host that measured' CODEC(ZSTD(1)),
    `spool`          LowCardinality(String) COMMENT 'identity of the batch: the spool\'s random id, hex' CODEC(ZSTD(1)),
    `sequence`       UInt64 COMMENT 'identity of the batch: its number within the spool' CODEC(Delta, ZSTD(1)),
    `sources`        LowCardinality(String) COMMENT 'which instrument each group of columns came from, as source:column,column;...' CODEC(ZSTD(1)),
    `available_ms`   Int64 COMMENT 'Unix ms at which the row could be known: the broker\'s time, in a replay the running maximum of event time' CODEC(Delta, ZSTD(1)),
    `ts_ms`          Int64 COMMENT 'event time of the sample, Unix ms UTC' CODEC(Delta, ZSTD(1)),
    `boot_ms`        Nullable(Int64) COMMENT 'boot-time clock at the sample, ms; rates use its differences; NULL: not known' CODEC(Delta, ZSTD(1)),
    `power_mw`       Nullable(UInt32) COMMENT 'power of the whole host (BMC), milliwatts; NULL: not measured' CODEC(T64, ZSTD(1)),
    `cpu_e4`         Nullable(UInt16) COMMENT 'CPU busy, fraction times 10,000; NULL: not measured' CODEC(T64, ZSTD(1)),
    `storage_tx_bps` Nullable(UInt64) COMMENT 'to storage, bytes per second; NULL: not measured' CODEC(T64, ZSTD(1)),
    `storage_rx_bps` Nullable(UInt64) COMMENT 'from storage, bytes per second; NULL: not measured' CODEC(T64, ZSTD(1)),
    `first_wins`     UInt64 MATERIALIZED toUInt64(9223372036854775807 - available_ms) COMMENT 'version for ReplacingMergeTree: of equal keys the row that was available first stays, so that a judgement as of a moment never changes through a repeat' CODEC(Delta, ZSTD(1)),
    `expires`        DateTime DEFAULT now() + INTERVAL 30 DAY COMMENT 'when the row may go, counted from its arrival in the store, never from event time: a recording of an earlier year must not vanish on arrival' CODEC(DoubleDelta, ZSTD(1)),
    INDEX ix_ts ts_ms TYPE minmax GRANULARITY 1,
    INDEX ix_available available_ms TYPE minmax GRANULARITY 1
)
ENGINE = {{replacing "first_wins"}}
PARTITION BY toYYYYMMDD(expires)
ORDER BY (cluster, intDiv(ts_ms, 3600000), node, ts_ms, sources)
TTL expires DELETE
SETTINGS {{settings}}, ttl_only_drop_parts = 1
COMMENT 'Raw samples of hosts. Kept 30 days from arrival.';

CREATE TABLE IF NOT EXISTS fabric_samples
(
    `cluster`      LowCardinality(String) COMMENT 'cluster that the batch came from' CODEC(ZSTD(1)),
    `node`         LowCardinality(String) COMMENT 'host that measured' CODEC(ZSTD(1)),
    `spool`        LowCardinality(String) COMMENT 'identity of the batch: the spool\'s random id, hex' CODEC(ZSTD(1)),
    `sequence`     UInt64 COMMENT 'identity of the batch: its number within the spool' CODEC(Delta, ZSTD(1)),
    `sources`      LowCardinality(String) COMMENT 'which instrument each group of columns came from, as source:column,column;...' CODEC(ZSTD(1)),
    `available_ms` Int64 COMMENT 'Unix ms at which the row could be known: the broker\'s time, in a replay the running maximum of event time' CODEC(Delta, ZSTD(1)),
    `ts_ms`        Int64 COMMENT 'event time of the sample, Unix ms UTC' CODEC(Delta, ZSTD(1)),
    `port`         LowCardinality(String) COMMENT 'network port as the host names it' CODEC(ZSTD(1)),
    `fabric_kind`  LowCardinality(Nullable(String)) COMMENT 'infiniband, roce, ethernet or vf; NULL: not known' CODEC(ZSTD(1)),
    `boot_ms`      Nullable(Int64) COMMENT 'boot-time clock at the sample, ms; rates use its differences; NULL: not known' CODEC(Delta, ZSTD(1)),
    `tx_bytes`     Nullable(UInt64) COMMENT 'cumulative bytes sent, may reset; NULL: not measured' CODEC(Delta, T64, ZSTD(1)),
    `rx_bytes`     Nullable(UInt64) COMMENT 'cumulative bytes received, may reset; NULL: not measured' CODEC(Delta, T64, ZSTD(1)),
    `first_wins`   UInt64 MATERIALIZED toUInt64(9223372036854775807 - available_ms) COMMENT 'version for ReplacingMergeTree: of equal keys the row that was available first stays, so that a judgement as of a moment never changes through a repeat' CODEC(Delta, ZSTD(1)),
    `expires`      DateTime DEFAULT now() + INTERVAL 30 DAY COMMENT 'when the row may go, counted from its arrival in the store, never from event time: a recording of an earlier year must not vanish on arrival' CODEC(DoubleDelta, ZSTD(1)),
    INDEX ix_ts ts_ms TYPE minmax GRANULARITY 1,
    INDEX ix_available available_ms TYPE minmax GRANULARITY 1
)
ENGINE = {{replacing "first_wins"}}
PARTITION BY toYYYYMMDD(expires)
ORDER BY (cluster, intDiv(ts_ms, 3600000), node, port, ts_ms, sources)
TTL expires DELETE
SETTINGS {{settings}}, ttl_only_drop_parts = 1
COMMENT 'Raw readings of network ports. Kept 30 days from arrival.';

CREATE TABLE IF NOT EXISTS flow_samples
(
    `cluster`      LowCardinality(String) COMMENT 'cluster that the batch came from' CODEC(ZSTD(1)),
    `node`         LowCardinality(String) COMMENT 'host that measured' CODEC(ZSTD(1)),
    `spool`        LowCardinality(String) COMMENT 'identity of the batch: the spool\'s random id, hex' CODEC(ZSTD(1)),
    `sequence`     UInt64 COMMENT 'identity of the batch: its number within the spool' CODEC(Delta, ZSTD(1)),
    `sources`      LowCardinality(String) COMMENT 'which instrument each group of columns came from, as source:column,column;...' CODEC(ZSTD(1)),
    `available_ms` Int64 COMMENT 'Unix ms at which the row could be known: the broker\'s time, in a replay the running maximum of event time' CODEC(Delta, ZSTD(1)),
    `ts_ms`        Int64 COMMENT 'event time of the sample, Unix ms UTC' CODEC(Delta, ZSTD(1)),
    `peer`         LowCardinality(String) COMMENT 'a node\'s name, or for an address outside the keyed hash of its network' CODEC(ZSTD(1)),
    `tx_bytes`     Nullable(UInt64) COMMENT 'bytes sent to the peer since the pair\'s last row; NULL: not measured' CODEC(T64, ZSTD(1)),
    `first_wins`   UInt64 MATERIALIZED toUInt64(9223372036854775807 - available_ms) COMMENT 'version for ReplacingMergeTree: of equal keys the row that was available first stays, so that a judgement as of a moment never changes through a repeat' CODEC(Delta, ZSTD(1)),
    `expires`      DateTime DEFAULT now() + INTERVAL 30 DAY COMMENT 'when the row may go, counted from its arrival in the store, never from event time: a recording of an earlier year must not vanish on arrival' CODEC(DoubleDelta, ZSTD(1)),
    INDEX ix_ts ts_ms TYPE minmax GRANULARITY 1,
    INDEX ix_available available_ms TYPE minmax GRANULARITY 1
)
ENGINE = {{replacing "first_wins"}}
PARTITION BY toYYYYMMDD(expires)
ORDER BY (cluster, intDiv(ts_ms, 3600000), node, peer, ts_ms, sources)
TTL expires DELETE
SETTINGS {{settings}}, ttl_only_drop_parts = 1
COMMENT 'Traffic of a host towards a peer. Kept 30 days from arrival.';

CREATE TABLE IF NOT EXISTS process_events
(
    `cluster`      LowCardinality(String) COMMENT 'cluster that the batch came from' CODEC(ZSTD(1)),
    `node`         LowCardinality(String) COMMENT 'host that measured' CODEC(ZSTD(1)),
    `spool`        LowCardinality(String) COMMENT 'identity of the batch: the spool\'s random id, hex' CODEC(ZSTD(1)),
    `sequence`     UInt64 COMMENT 'identity of the batch: its number within the spool' CODEC(Delta, ZSTD(1)),
    `sources`      LowCardinality(String) COMMENT 'which instrument each group of columns came from, as source:column,column;...' CODEC(ZSTD(1)),
    `available_ms` Int64 COMMENT 'Unix ms at which the row could be known: the broker\'s time, in a replay the running maximum of event time' CODEC(Delta, ZSTD(1)),
    `start_ms`     Int64 COMMENT 'start of the process, Unix ms UTC' CODEC(Delta, ZSTD(1)),
    `pid`          Int64 COMMENT 'process id on its host' CODEC(T64, ZSTD(1)),
    `end_ms`       Nullable(Int64) COMMENT 'end of the process, Unix ms UTC; NULL: still running when this was written' CODEC(Delta, ZSTD(1)),
    `gpu_list`     LowCardinality(Nullable(String)) COMMENT 'indices of the GPUs it used, separated by blanks; NULL: not known' CODEC(ZSTD(1)),
    `exe`          LowCardinality(Nullable(String)) COMMENT 'base name of the executable; declared, evidence rather than truth' CODEC(ZSTD(1)),
    `launcher`     LowCardinality(Nullable(String)) COMMENT 'torchrun, deepspeed, mpirun, ...; declared' CODEC(ZSTD(1)),
    `job_source`   LowCardinality(Nullable(String)) COMMENT 'slurm, kubernetes, ...; NULL: not known' CODEC(ZSTD(1)),
    `job_id`       LowCardinality(Nullable(String)) COMMENT 'job id of the scheduler; declared' CODEC(ZSTD(1)),
    `user_hash`    LowCardinality(Nullable(String)) COMMENT 'keyed hash of the user' CODEC(ZSTD(1)),
    `project_hash` LowCardinality(Nullable(String)) COMMENT 'keyed hash of the project' CODEC(ZSTD(1)),
    `world_size`   Nullable(Int64) COMMENT 'declared number of ranks; NULL: not stated' CODEC(T64, ZSTD(1)),
    `rank`         Nullable(Int64) COMMENT 'declared rank; NULL: not stated' CODEC(T64, ZSTD(1)),
    `expires`      DateTime DEFAULT now() + INTERVAL 400 DAY COMMENT 'when the row may go, counted from its arrival in the store, never from event time: a recording of an earlier year must not vanish on arrival' CODEC(DoubleDelta, ZSTD(1)),
    INDEX ix_available available_ms TYPE minmax GRANULARITY 1
)
ENGINE = {{replacing ""}}
PARTITION BY toYYYYMMDD(expires)
ORDER BY (cluster, node, start_ms, pid, available_ms, sequence, ifNull(end_ms, 0))
TTL expires DELETE
SETTINGS {{settings}}, ttl_only_drop_parts = 1
COMMENT 'What became known of processes that used GPUs: one row per announcement. The latest announcement of (node, pid, start_ms) holds; earlier ones stay so that a moment can be judged again. Kept 400 days from arrival, as a process may run longer than samples are kept.';

CREATE TABLE IF NOT EXISTS collective_samples
(
    `cluster`      LowCardinality(String) COMMENT 'cluster that the batch came from' CODEC(ZSTD(1)),
    `node`         LowCardinality(String) COMMENT 'host that measured' CODEC(ZSTD(1)),
    `spool`        LowCardinality(String) COMMENT 'identity of the batch: the spool\'s random id, hex' CODEC(ZSTD(1)),
    `sequence`     UInt64 COMMENT 'identity of the batch: its number within the spool' CODEC(Delta, ZSTD(1)),
    `sources`      LowCardinality(String) COMMENT 'which instrument each group of columns came from, as source:column,column;...' CODEC(ZSTD(1)),
    `available_ms` Int64 COMMENT 'Unix ms at which the row could be known: the broker\'s time, in a replay the running maximum of event time' CODEC(Delta, ZSTD(1)),
    `ts_ms`        Int64 COMMENT 'event time of the sample, Unix ms UTC' CODEC(Delta, ZSTD(1)),
    `pid`          Int64 COMMENT 'process id' CODEC(T64, ZSTD(1)),
    `gpu`          Int64 COMMENT 'index of the GPU' CODEC(T64, ZSTD(1)),
    `comm`         LowCardinality(String) COMMENT 'digest of the communicator\'s unique id, equal on all its ranks' CODEC(ZSTD(1)),
    `op`           LowCardinality(String) COMMENT 'allreduce, reducescatter, allgather, broadcast, sendrecv, alltoall' CODEC(ZSTD(1)),
    `nranks`       Nullable(Int64) COMMENT 'ranks of the communicator; NULL: not known' CODEC(T64, ZSTD(1)),
    `rank`         Nullable(Int64) COMMENT 'rank of the process; NULL: not known' CODEC(T64, ZSTD(1)),
    `calls`        Nullable(Int64) COMMENT 'calls since the last row; NULL: not measured' CODEC(T64, ZSTD(1)),
    `bytes`        Nullable(Int64) COMMENT 'bytes since the last row; NULL: not measured' CODEC(T64, ZSTD(1)),
    `first_wins`   UInt64 MATERIALIZED toUInt64(9223372036854775807 - available_ms) COMMENT 'version for ReplacingMergeTree: of equal keys the row that was available first stays, so that a judgement as of a moment never changes through a repeat' CODEC(Delta, ZSTD(1)),
    `expires`      DateTime DEFAULT now() + INTERVAL 30 DAY COMMENT 'when the row may go, counted from its arrival in the store, never from event time: a recording of an earlier year must not vanish on arrival' CODEC(DoubleDelta, ZSTD(1)),
    INDEX ix_ts ts_ms TYPE minmax GRANULARITY 1,
    INDEX ix_available available_ms TYPE minmax GRANULARITY 1
)
ENGINE = {{replacing "first_wins"}}
PARTITION BY toYYYYMMDD(expires)
ORDER BY (cluster, intDiv(ts_ms, 3600000), node, pid, gpu, comm, op, ts_ms, sources)
TTL expires DELETE
SETTINGS {{settings}}, ttl_only_drop_parts = 1
COMMENT 'Collective calls of a process on a communicator. Kept 30 days from arrival.';

CREATE TABLE IF NOT EXISTS inventory
(
    `cluster`      LowCardinality(String) COMMENT 'cluster that the batch came from' CODEC(ZSTD(1)),
    `spool`        LowCardinality(String) COMMENT 'identity of the batch: the spool\'s random id, hex' CODEC(ZSTD(1)),
    `sequence`     UInt64 COMMENT 'identity of the batch: its number within the spool' CODEC(Delta, ZSTD(1)),
    `sources`      LowCardinality(String) COMMENT 'which instrument each group of columns came from, as source:column,column;...' CODEC(ZSTD(1)),
    `available_ms` Int64 COMMENT 'Unix ms at which the row could be known: the broker\'s time, in a replay the running maximum of event time' CODEC(Delta, ZSTD(1)),
    `node`         LowCardinality(String) COMMENT 'host that ought to report' CODEC(ZSTD(1)),
    `site`         LowCardinality(Nullable(String)) COMMENT 'datacenter' CODEC(ZSTD(1)),
    `gpu_model`    LowCardinality(Nullable(String)) COMMENT 'GPU model as NVML names it; NULL: not stated' CODEC(ZSTD(1)),
    `gpu_count`    Nullable(Int64) COMMENT 'GPUs of the host; NULL: not stated' CODEC(T64, ZSTD(1)),
    `fabric_mbps`  Nullable(Int64) COMMENT 'back-end network of the host, Mbit/s; NULL: not stated' CODEC(T64, ZSTD(1)),
    `vantage`      LowCardinality(Nullable(String)) COMMENT 'host: NVML readable; outofband: GPUs passed through to a guest' CODEC(ZSTD(1)),
    `tdp_mw`       Nullable(Int64) COMMENT 'board power limit of one GPU, milliwatts; NULL: not stated' CODEC(T64, ZSTD(1)),
    INDEX ix_available available_ms TYPE minmax GRANULARITY 1
)
ENGINE = {{replacing ""}}
ORDER BY (cluster, node, available_ms, sequence)
SETTINGS {{settings}}
COMMENT 'Expected inventory as the provider states it, all versions: the denominator of coverage. Not subject to expiry.';

CREATE TABLE IF NOT EXISTS allocations
(
    `cluster`      LowCardinality(String) COMMENT 'cluster that the batch came from' CODEC(ZSTD(1)),
    `spool`        LowCardinality(String) COMMENT 'identity of the batch: the spool\'s random id, hex' CODEC(ZSTD(1)),
    `sequence`     UInt64 COMMENT 'identity of the batch: its number within the spool' CODEC(Delta, ZSTD(1)),
    `sources`      LowCardinality(String) COMMENT 'which instrument each group of columns came from, as source:column,column;...' CODEC(ZSTD(1)),
    `available_ms` Int64 COMMENT 'Unix ms at which the row could be known: the broker\'s time, in a replay the running maximum of event time' CODEC(Delta, ZSTD(1)),
    `account`      LowCardinality(String) COMMENT 'customer account' CODEC(ZSTD(1)),
    `node`         LowCardinality(String) COMMENT 'host' CODEC(ZSTD(1)),
    `gpu_list`     LowCardinality(String) COMMENT 'indices of the rented GPUs, separated by blanks' CODEC(ZSTD(1)),
    `start_ms`     Int64 COMMENT 'start of the rental, Unix ms UTC' CODEC(Delta, ZSTD(1)),
    `end_ms`       Nullable(Int64) COMMENT 'end of the rental; NULL: goes on as far as was known' CODEC(Delta, ZSTD(1)),
    INDEX ix_available available_ms TYPE minmax GRANULARITY 1
)
ENGINE = {{replacing ""}}
ORDER BY (cluster, account, node, gpu_list, start_ms, available_ms, sequence, ifNull(end_ms, 0))
SETTINGS {{settings}}
COMMENT 'Rentals of GPUs as they took place, one row per announcement; the latest holds. Not subject to expiry.';

CREATE TABLE IF NOT EXISTS orders
(
    `cluster`      LowCardinality(String) COMMENT 'cluster that the batch came from' CODEC(ZSTD(1)),
    `spool`        LowCardinality(String) COMMENT 'identity of the batch: the spool\'s random id, hex' CODEC(ZSTD(1)),
    `sequence`     UInt64 COMMENT 'identity of the batch: its number within the spool' CODEC(Delta, ZSTD(1)),
    `sources`      LowCardinality(String) COMMENT 'which instrument each group of columns came from, as source:column,column;...' CODEC(ZSTD(1)),
    `available_ms` Int64 COMMENT 'Unix ms at which the row could be known: the broker\'s time, in a replay the running maximum of event time' CODEC(Delta, ZSTD(1)),
    `order`        LowCardinality(String) COMMENT 'id of the contract' CODEC(ZSTD(1)),
    `amended_ms`   Int64 COMMENT 'when this version was made, Unix ms UTC' CODEC(Delta, ZSTD(1)),
    `account`      LowCardinality(Nullable(String)) COMMENT 'customer account' CODEC(ZSTD(1)),
    `gpu_model`    LowCardinality(Nullable(String)) COMMENT 'GPU model ordered' CODEC(ZSTD(1)),
    `gpu_count`    Nullable(Int64) COMMENT 'GPUs ordered; NULL: not stated' CODEC(T64, ZSTD(1)),
    `fabric_mbps`  Nullable(Int64) COMMENT 'back-end network, Mbit/s; NULL: not stated' CODEC(T64, ZSTD(1)),
    `start_ms`     Nullable(Int64) COMMENT 'start of the term' CODEC(Delta, ZSTD(1)),
    `end_ms`       Nullable(Int64) COMMENT 'end of the term; NULL: not stated' CODEC(Delta, ZSTD(1)),
    `declared_use` LowCardinality(Nullable(String)) COMMENT 'use that the customer declared: evidence, not truth' CODEC(ZSTD(1)),
    INDEX ix_available available_ms TYPE minmax GRANULARITY 1
)
ENGINE = {{replacing ""}}
ORDER BY (cluster, `order`, amended_ms, available_ms, sequence)
SETTINGS {{settings}}
COMMENT 'Versions of contracts for capacity, one row a version. Not subject to expiry.';

