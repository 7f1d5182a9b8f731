-- All that an agent sees of a host: the rare counters of GPUs, events, MIG instances, who holds a GPU, TCP
-- and RDMA, checkpoints, management controllers, facts.

ALTER TABLE gpu_samples
    ADD COLUMN IF NOT EXISTS `mem_util_e4` Nullable(UInt16) COMMENT 'NVML memory utilization: share of time in which memory was read or written, times 10,000; NULL: not measured' CODEC(T64, ZSTD(1)) AFTER `clocks_event_reasons`,
    ADD COLUMN IF NOT EXISTS `sm_cycles_elapsed` Nullable(UInt64) COMMENT 'GPM: cycles of the SMs, in the unit of mma_cycles, cumulative, may reset; NULL: not measured' CODEC(Delta, T64, ZSTD(1)) AFTER `mem_util_e4`;

ALTER TABLE fabric_samples
    ADD COLUMN IF NOT EXISTS `parent_port` LowCardinality(Nullable(String)) COMMENT 'port behind which a virtual function stands; NULL: not known' CODEC(ZSTD(1)) AFTER `link_up`,
    ADD COLUMN IF NOT EXISTS `tx_packets` Nullable(UInt64) COMMENT 'packets sent, cumulative; NULL: not measured' CODEC(Delta, T64, ZSTD(1)) AFTER `parent_port`,
    ADD COLUMN IF NOT EXISTS `rx_packets` Nullable(UInt64) COMMENT 'packets received, cumulative; NULL: not measured' CODEC(Delta, T64, ZSTD(1)) AFTER `tx_packets`,
    ADD COLUMN IF NOT EXISTS `xmit_wait` Nullable(UInt64) COMMENT 'ticks in which the port had data and could not send, cumulative, may reset; NULL: not measured' CODEC(Delta, T64, ZSTD(1)) AFTER `rx_packets`,
    ADD COLUMN IF NOT EXISTS `cnp_sent` Nullable(UInt64) COMMENT 'congestion notifications sent, cumulative, may reset; NULL: not measured' CODEC(Delta, T64, ZSTD(1)) AFTER `xmit_wait`,
    ADD COLUMN IF NOT EXISTS `cnp_handled` Nullable(UInt64) COMMENT 'congestion notifications handled, cumulative, may reset; NULL: not measured' CODEC(Delta, T64, ZSTD(1)) AFTER `cnp_sent`,
    ADD COLUMN IF NOT EXISTS `ecn_marked` Nullable(UInt64) COMMENT 'packets received with the congestion mark, cumulative, may reset; NULL: not measured' CODEC(Delta, T64, ZSTD(1)) AFTER `cnp_handled`,
    ADD COLUMN IF NOT EXISTS `out_of_sequence` Nullable(UInt64) COMMENT 'packets out of sequence, cumulative, may reset; NULL: not measured' CODEC(Delta, T64, ZSTD(1)) AFTER `ecn_marked`,
    ADD COLUMN IF NOT EXISTS `ack_timeouts` Nullable(UInt64) COMMENT 'acknowledgements that did not come in time, cumulative, may reset; NULL: not measured' CODEC(Delta, T64, ZSTD(1)) AFTER `out_of_sequence`,
    ADD COLUMN IF NOT EXISTS `rnr_retries` Nullable(UInt64) COMMENT 'retries as the receiver was not ready, cumulative, may reset; NULL: not measured' CODEC(Delta, T64, ZSTD(1)) AFTER `ack_timeouts`,
    ADD COLUMN IF NOT EXISTS `symbol_errors` Nullable(UInt64) COMMENT 'symbol errors of the link, cumulative, may reset; NULL: not measured' CODEC(Delta, T64, ZSTD(1)) AFTER `rnr_retries`,
    ADD COLUMN IF NOT EXISTS `link_downed` Nullable(UInt64) COMMENT 'times the link went down, cumulative, may reset; NULL: not measured' CODEC(Delta, T64, ZSTD(1)) AFTER `symbol_errors`,
    ADD COLUMN IF NOT EXISTS `link_recovered` Nullable(UInt64) COMMENT 'times the link recovered from errors, cumulative, may reset; NULL: not measured' CODEC(Delta, T64, ZSTD(1)) AFTER `link_downed`,
    ADD COLUMN IF NOT EXISTS `rx_errors` Nullable(UInt64) COMMENT 'packets received with errors, cumulative, may reset; NULL: not measured' CODEC(Delta, T64, ZSTD(1)) AFTER `link_recovered`,
    ADD COLUMN IF NOT EXISTS `tx_discards` Nullable(UInt64) COMMENT 'packets that could not be sent, cumulative, may reset; NULL: not measured' CODEC(Delta, T64, ZSTD(1)) AFTER `rx_errors`,
    ADD COLUMN IF NOT EXISTS `rx_discards` Nullable(UInt64) COMMENT 'packets received and dropped, cumulative, may reset; NULL: not measured' CODEC(Delta, T64, ZSTD(1)) AFTER `tx_discards`;

ALTER TABLE process_events
    ADD COLUMN IF NOT EXISTS `confidence_e4` Nullable(Int64) COMMENT 'how sure the attribution to the job is, times 10,000; NULL: not known' CODEC(T64, ZSTD(1)) AFTER `rank`,
    ADD COLUMN IF NOT EXISTS `evidence` LowCardinality(Nullable(String)) COMMENT 'what names the job: cgroup, environ, podresources, dra, slurm_file, dcgm_mapping; NULL: not known' CODEC(ZSTD(1)) AFTER `confidence_e4`,
    ADD COLUMN IF NOT EXISTS `rendezvous_hash` LowCardinality(Nullable(String)) COMMENT 'keyed hash of where the processes of a run meet: equal on all its hosts; NULL: not known' CODEC(ZSTD(1)) AFTER `evidence`,
    ADD COLUMN IF NOT EXISTS `local_rank` Nullable(Int64) COMMENT 'rank on the host; NULL: not known' CODEC(T64, ZSTD(1)) AFTER `rendezvous_hash`,
    ADD COLUMN IF NOT EXISTS `local_world_size` Nullable(Int64) COMMENT 'processes of the run on the host; NULL: not known' CODEC(T64, ZSTD(1)) AFTER `local_rank`,
    ADD COLUMN IF NOT EXISTS `instance_list` LowCardinality(Nullable(String)) COMMENT 'MIG devices it was listed on, separated by blanks; NULL: not known' CODEC(ZSTD(1)) AFTER `local_world_size`,
    ADD COLUMN IF NOT EXISTS `exit_code` Nullable(Int64) COMMENT 'exit status as wait(2) gives it; NULL: not known' CODEC(T64, ZSTD(1)) AFTER `instance_list`,
    ADD COLUMN IF NOT EXISTS `nccl` LowCardinality(Nullable(String)) COMMENT 'whether its collectives can be counted: visible or not_visible (statically_linked, a reason for that, is kept for later: nothing tells it yet); NULL: not known' CODEC(ZSTD(1)) AFTER `exit_code`,
    ADD COLUMN IF NOT EXISTS `container` LowCardinality(Nullable(String)) COMMENT 'container within the job: its short id, or a keyed hash of its name; NULL: not known' CODEC(ZSTD(1)) AFTER `nccl`,
    ADD COLUMN IF NOT EXISTS `restart_count` Nullable(Int64) COMMENT 'how often the scheduler has started the job again; NULL: not known' CODEC(T64, ZSTD(1)) AFTER `container`;

ALTER TABLE collective_samples
    ADD COLUMN IF NOT EXISTS `dtype_bytes` LowCardinality(Nullable(String)) COMMENT 'bytes by element type, as bf16:123 f32:45; NULL: not known' CODEC(ZSTD(1)) AFTER `bytes`,
    ADD COLUMN IF NOT EXISTS `nccl_hash` LowCardinality(Nullable(String)) COMMENT 'the communicator\'s hash as NCCL prints it, hex; NULL: not known' CODEC(ZSTD(1)) AFTER `dtype_bytes`,
    ADD COLUMN IF NOT EXISTS `first_ms` Nullable(Int64) COMMENT 'time of the first call, Unix ms UTC; NULL: not known' CODEC(Delta, ZSTD(1)) AFTER `nccl_hash`,
    ADD COLUMN IF NOT EXISTS `last_ms` Nullable(Int64) COMMENT 'time of the last call, Unix ms UTC; NULL: not known' CODEC(Delta, ZSTD(1)) AFTER `first_ms`,
    ADD COLUMN IF NOT EXISTS `parent` LowCardinality(Nullable(String)) COMMENT 'communicator that it was split from; NULL: not known' CODEC(ZSTD(1)) AFTER `last_ms`,
    ADD COLUMN IF NOT EXISTS `graph_captured` Nullable(Int64) COMMENT '1: calls were captured into CUDA graphs, whose replays are not seen: calls and bytes are lower bounds; NULL: not known' CODEC(T64, ZSTD(1)) AFTER `parent`;

ALTER TABLE gpu_devices
    ADD COLUMN IF NOT EXISTS `serial` LowCardinality(Nullable(String)) COMMENT 'serial number of the board; NULL: not known' CODEC(ZSTD(1)) AFTER `capabilities`,
    ADD COLUMN IF NOT EXISTS `board_part` LowCardinality(Nullable(String)) COMMENT 'part number of the board; NULL: not known' CODEC(ZSTD(1)) AFTER `serial`,
    ADD COLUMN IF NOT EXISTS `architecture` LowCardinality(Nullable(String)) COMMENT 'hopper, ampere, ...; NULL: not known' CODEC(ZSTD(1)) AFTER `board_part`,
    ADD COLUMN IF NOT EXISTS `compute_capability` LowCardinality(Nullable(String)) COMMENT 'as 9.0; NULL: not known' CODEC(ZSTD(1)) AFTER `architecture`,
    ADD COLUMN IF NOT EXISTS `sm_count` Nullable(Int64) COMMENT 'streaming multiprocessors; NULL: not known' CODEC(T64, ZSTD(1)) AFTER `compute_capability`,
    ADD COLUMN IF NOT EXISTS `fabric_cluster_uuid` LowCardinality(Nullable(String)) COMMENT 'NVLink fabric that it belongs to; NULL: not known' CODEC(ZSTD(1)) AFTER `sm_count`,
    ADD COLUMN IF NOT EXISTS `fabric_clique` Nullable(Int64) COMMENT 'clique within the fabric; NULL: not known' CODEC(T64, ZSTD(1)) AFTER `fabric_cluster_uuid`,
    ADD COLUMN IF NOT EXISTS `cc_mode` LowCardinality(Nullable(String)) COMMENT 'confidential computing: off, on, devtools; NULL: not known' CODEC(ZSTD(1)) AFTER `fabric_clique`,
    ADD COLUMN IF NOT EXISTS `ecc_mode` Nullable(Int64) COMMENT '1: ECC is on, 0: off; NULL: not known' CODEC(T64, ZSTD(1)) AFTER `cc_mode`,
    ADD COLUMN IF NOT EXISTS `pcie_gen_max` Nullable(Int64) COMMENT 'highest PCIe generation of the link; NULL: not known' CODEC(T64, ZSTD(1)) AFTER `ecc_mode`,
    ADD COLUMN IF NOT EXISTS `pcie_width_max` Nullable(Int64) COMMENT 'most PCIe lanes of the link; NULL: not known' CODEC(T64, ZSTD(1)) AFTER `pcie_gen_max`,
    ADD COLUMN IF NOT EXISTS `module_id` Nullable(Int64) COMMENT 'place of the module on the board; NULL: not known' CODEC(T64, ZSTD(1)) AFTER `pcie_width_max`,
    ADD COLUMN IF NOT EXISTS `gsp_version` LowCardinality(Nullable(String)) COMMENT 'version of the GSP firmware; NULL: not known' CODEC(ZSTD(1)) AFTER `module_id`;

ALTER TABLE batches
    ADD COLUMN IF NOT EXISTS `health_rows` UInt32 COMMENT 'rows of kind health in the batch' CODEC(T64, ZSTD(1)) AFTER `status_rows`,
    ADD COLUMN IF NOT EXISTS `event_rows` UInt32 COMMENT 'rows of kind event in the batch' CODEC(T64, ZSTD(1)) AFTER `health_rows`,
    ADD COLUMN IF NOT EXISTS `instance_rows` UInt32 COMMENT 'rows of kind instance in the batch' CODEC(T64, ZSTD(1)) AFTER `event_rows`,
    ADD COLUMN IF NOT EXISTS `hold_rows` UInt32 COMMENT 'rows of kind hold in the batch' CODEC(T64, ZSTD(1)) AFTER `instance_rows`,
    ADD COLUMN IF NOT EXISTS `tcp_rows` UInt32 COMMENT 'rows of kind tcp in the batch' CODEC(T64, ZSTD(1)) AFTER `hold_rows`,
    ADD COLUMN IF NOT EXISTS `checkpoint_rows` UInt32 COMMENT 'rows of kind checkpoint in the batch' CODEC(T64, ZSTD(1)) AFTER `tcp_rows`,
    ADD COLUMN IF NOT EXISTS `rdma_rows` UInt32 COMMENT 'rows of kind rdma in the batch' CODEC(T64, ZSTD(1)) AFTER `checkpoint_rows`,
    ADD COLUMN IF NOT EXISTS `outofband_rows` UInt32 COMMENT 'rows of kind outofband in the batch' CODEC(T64, ZSTD(1)) AFTER `rdma_rows`,
    ADD COLUMN IF NOT EXISTS `fact_rows` UInt32 COMMENT 'rows of kind fact in the batch' CODEC(T64, ZSTD(1)) AFTER `outofband_rows`,
    ADD COLUMN IF NOT EXISTS `targets` Array(String) COMMENT 'other hosts that its telemetry is about: a management controller may be read from elsewhere' CODEC(ZSTD(1)) AFTER `minutes`;

CREATE TABLE IF NOT EXISTS gpu_health
(
    `cluster`                   LowCardinality(String) COMMENT 'cluster that the batch came from' CODEC(ZSTD(1)),
    `node`                      LowCardinality(String) COMMENT 'host that measured' CODEC(ZSTD(1)),
    `spool`                     LowCardinality(String) COMMENT 'identity of the batch: the spool\'s random id, hex' CODEC(ZSTD(1)),
    `sequence`                  UInt64 COMMENT 'identity of the batch: its number within the spool' CODEC(Delta, ZSTD(1)),
    `sources`                   LowCardinality(String) COMMENT 'which instrument each group of columns came from, as source:column,column;...' CODEC(ZSTD(1)),
    `available_ms`              Int64 COMMENT 'Unix ms at which the row could be known: the broker\'s time, in a replay the running maximum of event time' CODEC(Delta, ZSTD(1)),
    `ts_ms`                     Int64 COMMENT 'event time of the sample, Unix ms UTC' CODEC(Delta, ZSTD(1)),
    `gpu_uuid`                  LowCardinality(String) COMMENT 'the GPU\'s own id; the key' CODEC(ZSTD(1)),
    `gpu`                       Int64 COMMENT 'index of the GPU on its host, an alias' CODEC(T64, ZSTD(1)),
    `boot_ms`                   Nullable(Int64) COMMENT 'boot-time clock at the sample, ms; NULL: not known' CODEC(Delta, ZSTD(1)),
    `pstate`                    Nullable(Int64) COMMENT 'performance state, 0 is the highest; NULL: not known' CODEC(T64, ZSTD(1)),
    `power_limit_mw`            Nullable(Int64) COMMENT 'power limit that is enforced, milliwatts; NULL: not known' CODEC(T64, ZSTD(1)),
    `module_power_mw`           Nullable(Int64) COMMENT 'power of the whole module (Grace), milliwatts; NULL: not known' CODEC(T64, ZSTD(1)),
    `mem_temp_c`                Nullable(Int64) COMMENT 'temperature of the memory, degrees Celsius; NULL: not known' CODEC(T64, ZSTD(1)),
    `slowdown_temp_c`           Nullable(Int64) COMMENT 'temperature at which clocks fall, degrees Celsius; NULL: not known' CODEC(T64, ZSTD(1)),
    `fan_e4`                    Nullable(Int64) COMMENT 'fan speed, fraction times 10,000; NULL: not known' CODEC(T64, ZSTD(1)),
    `pcie_gen`                  Nullable(Int64) COMMENT 'PCIe generation of the link now; NULL: not known' CODEC(T64, ZSTD(1)),
    `pcie_width`                Nullable(Int64) COMMENT 'PCIe lanes of the link now; NULL: not known' CODEC(T64, ZSTD(1)),
    `pcie_replays`              Nullable(UInt64) COMMENT 'PCIe replays, cumulative, may reset; NULL: not measured' CODEC(Delta, T64, ZSTD(1)),
    `pcie_errors`               Nullable(UInt64) COMMENT 'PCIe errors, correctable and not, cumulative, may reset; NULL: not measured' CODEC(Delta, T64, ZSTD(1)),
    `pcie_tx_bytes`             Nullable(UInt64) COMMENT 'PCIe out of the GPU, bytes, cumulative, may reset; NULL: not measured' CODEC(Delta, T64, ZSTD(1)),
    `pcie_rx_bytes`             Nullable(UInt64) COMMENT 'PCIe into the GPU, bytes, cumulative, may reset; NULL: not measured' CODEC(Delta, T64, ZSTD(1)),
    `ecc_corrected_volatile`    Nullable(UInt64) COMMENT 'corrected ECC errors since the driver was loaded, cumulative, may reset; NULL: not measured' CODEC(Delta, T64, ZSTD(1)),
    `ecc_uncorrected_volatile`  Nullable(UInt64) COMMENT 'uncorrected ECC errors since the driver was loaded, cumulative, may reset; NULL: not measured' CODEC(Delta, T64, ZSTD(1)),
    `ecc_corrected_aggregate`   Nullable(UInt64) COMMENT 'corrected ECC errors in the GPU\'s life, cumulative, may reset; NULL: not measured' CODEC(Delta, T64, ZSTD(1)),
    `ecc_uncorrected_aggregate` Nullable(UInt64) COMMENT 'uncorrected ECC errors in the GPU\'s life, cumulative, may reset; NULL: not measured' CODEC(Delta, T64, ZSTD(1)),
    `rows_remapped_corrected`   Nullable(Int64) COMMENT 'memory rows remapped for corrected errors; NULL: not known' CODEC(T64, ZSTD(1)),
    `rows_remapped_uncorrected` Nullable(Int64) COMMENT 'memory rows remapped for uncorrected errors; NULL: not known' CODEC(T64, ZSTD(1)),
    `row_remap_pending`         Nullable(Int64) COMMENT '1: a reset is needed for a row to be remapped; NULL: not known' CODEC(T64, ZSTD(1)),
    `row_remap_failed`          Nullable(Int64) COMMENT '1: a row could not be remapped; NULL: not known' CODEC(T64, ZSTD(1)),
    `pages_retired`             Nullable(Int64) COMMENT 'memory pages retired (before Ampere); NULL: not known' CODEC(T64, ZSTD(1)),
    `nvlinks_up`                Nullable(Int64) COMMENT 'NVLinks that are up; NULL: not known' CODEC(T64, ZSTD(1)),
    `nvlink_tx_kib`             Nullable(UInt64) COMMENT 'NVLink out, KiB of data, cumulative, may reset; NULL: not measured' CODEC(Delta, T64, ZSTD(1)),
    `nvlink_rx_kib`             Nullable(UInt64) COMMENT 'NVLink in, KiB of data, cumulative, may reset; NULL: not measured' CODEC(Delta, T64, ZSTD(1)),
    `nvlink_errors`             Nullable(UInt64) COMMENT 'NVLink errors, cumulative, may reset: CRC, replay and recovery, from NVLink 5 on errors of what was received; NULL: not measured' CODEC(Delta, T64, ZSTD(1)),
    `power_capped_ns`           Nullable(UInt64) COMMENT 'time below the wanted clocks for want of power, ns, cumulative, may reset; NULL: not measured' CODEC(Delta, T64, ZSTD(1)),
    `thermal_capped_ns`         Nullable(UInt64) COMMENT 'time below the wanted clocks for heat, ns, cumulative, may reset; NULL: not measured' CODEC(Delta, T64, ZSTD(1)),
    `sync_boost_ns`             Nullable(UInt64) COMMENT 'time held back by a group of GPUs, ns, cumulative, may reset; NULL: not measured' CODEC(Delta, T64, ZSTD(1)),
    `hw_slowdown_ns`            Nullable(UInt64) COMMENT 'time slowed down by hardware (heat or power brake), ns, cumulative, may reset; NULL: not measured' CODEC(Delta, T64, ZSTD(1)),
    `mem_reserved_bytes`        Nullable(UInt64) COMMENT 'device memory that the driver keeps, bytes; NULL: not measured' CODEC(T64, ZSTD(1)),
    `bar1_used_bytes`           Nullable(UInt64) COMMENT 'BAR1 memory in use, bytes; NULL: not measured' CODEC(T64, ZSTD(1)),
    `sm_cycles_elapsed`         Nullable(UInt64) COMMENT 'GPM: cycles of the SMs, cumulative, may reset; NULL: not measured' CODEC(Delta, T64, ZSTD(1)),
    `sm_cycles_active`          Nullable(UInt64) COMMENT 'GPM: cycles with a warp resident, cumulative, may reset; NULL: not measured' CODEC(Delta, T64, ZSTD(1)),
    `mma_cycles`                Nullable(UInt64) COMMENT 'GPM: cycles of any tensor pipe, cumulative, may reset; NULL: not measured' CODEC(Delta, T64, ZSTD(1)),
    `dmma_cycles`               Nullable(UInt64) COMMENT 'GPM: cycles of the double-precision tensor pipe, cumulative, may reset; NULL: not measured' CODEC(Delta, T64, ZSTD(1)),
    `hmma_cycles`               Nullable(UInt64) COMMENT 'GPM: cycles of the half-precision tensor pipe, cumulative, may reset; NULL: not measured' CODEC(Delta, T64, ZSTD(1)),
    `imma_cycles`               Nullable(UInt64) COMMENT 'GPM: cycles of the integer tensor pipe, cumulative, may reset; NULL: not measured' CODEC(Delta, T64, ZSTD(1)),
    `dfma_cycles`               Nullable(UInt64) COMMENT 'GPM: DFMA cycles of the tensor pipe, cumulative, may reset; NULL: not measured' CODEC(Delta, T64, ZSTD(1)),
    `int_cycles`                Nullable(UInt64) COMMENT 'GPM: cycles of the integer pipe, cumulative, may reset; NULL: not measured' CODEC(Delta, T64, ZSTD(1)),
    `fp64_cycles`               Nullable(UInt64) COMMENT 'GPM: cycles of the FP64 pipe, cumulative, may reset; NULL: not measured' CODEC(Delta, T64, ZSTD(1)),
    `fp32_cycles`               Nullable(UInt64) COMMENT 'GPM: cycles of the FP32 pipe, cumulative, may reset; NULL: not measured' CODEC(Delta, T64, ZSTD(1)),
    `fp16_cycles`               Nullable(UInt64) COMMENT 'GPM: cycles of the FP16 pipe, cumulative, may reset; NULL: not measured' CODEC(Delta, T64, ZSTD(1)),
    `recovery_action`           Nullable(Int64) COMMENT 'what the driver asks for to recover, as NVML numbers it, 0: nothing; NULL: not known' CODEC(T64, ZSTD(1)),
    `first_wins`                UInt64 MATERIALIZED toUInt64(9223372036854775807 - available_ms) COMMENT 'version for ReplacingMergeTree: of equal keys the row that was available first stays' CODEC(Delta, ZSTD(1)),
    `expires`                   DateTime DEFAULT now() + INTERVAL 30 DAY COMMENT 'when the row may go, counted from its arrival in the store' CODEC(DoubleDelta, ZSTD(1)),
    INDEX ix_available available_ms TYPE minmax GRANULARITY 1
)
ENGINE = {{replacing "first_wins"}}
PARTITION BY toYYYYMMDD(expires)
ORDER BY (cluster, intDiv(ts_ms, 3600000), node, gpu, gpu_uuid, ts_ms, sources)
TTL expires DELETE
SETTINGS {{settings}}, ttl_only_drop_parts = 1
COMMENT 'What GPUs tell rarely: counters of errors, throttling and cycles, links. Kept 30 days from arrival.';

CREATE TABLE IF NOT EXISTS gpu_events
(
    `cluster`      LowCardinality(String) COMMENT 'cluster that the batch came from' CODEC(ZSTD(1)),
    `node`         LowCardinality(String) COMMENT 'host that measured' CODEC(ZSTD(1)),
    `spool`        LowCardinality(String) COMMENT 'identity of the batch: the spool\'s random id, hex' CODEC(ZSTD(1)),
    `sequence`     UInt64 COMMENT 'identity of the batch: its number within the spool' CODEC(Delta, ZSTD(1)),
    `sources`      LowCardinality(String) COMMENT 'which instrument each group of columns came from, as source:column,column;...' CODEC(ZSTD(1)),
    `available_ms` Int64 COMMENT 'Unix ms at which the row could be known: the broker\'s time, in a replay the running maximum of event time' CODEC(Delta, ZSTD(1)),
    `ts_ms`        Int64 COMMENT 'event time of the sample, Unix ms UTC' CODEC(Delta, ZSTD(1)),
    `gpu_uuid`     LowCardinality(String) COMMENT 'the GPU\'s own id; the key' CODEC(ZSTD(1)),
    `gpu`          Int64 COMMENT 'index of the GPU on its host, an alias' CODEC(T64, ZSTD(1)),
    `event`        LowCardinality(String) COMMENT 'xid, ecc_corrected, ecc_uncorrected, mig_config, power_source, lost, reset, ...' CODEC(ZSTD(1)),
    `code`         Int64 COMMENT 'number of the Xid; 0 where there is none' CODEC(T64, ZSTD(1)),
    `count`        Nullable(Int64) COMMENT 'how often it came at that time; NULL: not known' CODEC(T64, ZSTD(1)),
    `gi_id`        Nullable(Int64) COMMENT 'GPU instance (MIG) that it concerns; NULL: not known' CODEC(T64, ZSTD(1)),
    `ci_id`        Nullable(Int64) COMMENT 'compute instance (MIG) that it concerns; NULL: not known' CODEC(T64, ZSTD(1)),
    `detail`       LowCardinality(Nullable(String)) COMMENT 'in words; NULL: not known' CODEC(ZSTD(1)),
    `first_wins`   UInt64 MATERIALIZED toUInt64(9223372036854775807 - available_ms) COMMENT 'version for ReplacingMergeTree: of equal keys the row that was available first stays' CODEC(Delta, ZSTD(1)),
    `expires`      DateTime DEFAULT now() + INTERVAL 400 DAY COMMENT 'when the row may go, counted from its arrival in the store' CODEC(DoubleDelta, ZSTD(1)),
    INDEX ix_available available_ms TYPE minmax GRANULARITY 1
)
ENGINE = {{replacing "first_wins"}}
PARTITION BY toYYYYMMDD(expires)
ORDER BY (cluster, node, gpu_uuid, event, code, ts_ms, sources)
TTL expires DELETE
SETTINGS {{settings}}, ttl_only_drop_parts = 1
COMMENT 'What happened to GPUs: Xid errors, ECC errors, resets. Kept 400 days from arrival.';

CREATE TABLE IF NOT EXISTS gpu_instances
(
    `cluster`           LowCardinality(String) COMMENT 'cluster that the batch came from' CODEC(ZSTD(1)),
    `node`              LowCardinality(String) COMMENT 'host that measured' CODEC(ZSTD(1)),
    `spool`             LowCardinality(String) COMMENT 'identity of the batch: the spool\'s random id, hex' CODEC(ZSTD(1)),
    `sequence`          UInt64 COMMENT 'identity of the batch: its number within the spool' CODEC(Delta, ZSTD(1)),
    `sources`           LowCardinality(String) COMMENT 'which instrument each group of columns came from, as source:column,column;...' CODEC(ZSTD(1)),
    `available_ms`      Int64 COMMENT 'Unix ms at which the row could be known: the broker\'s time, in a replay the running maximum of event time' CODEC(Delta, ZSTD(1)),
    `ts_ms`             Int64 COMMENT 'event time of the sample, Unix ms UTC' CODEC(Delta, ZSTD(1)),
    `gpu_uuid`          LowCardinality(String) COMMENT 'id of the GPU that is partitioned' CODEC(ZSTD(1)),
    `gpu`               Int64 COMMENT 'index of the GPU on its host, an alias' CODEC(T64, ZSTD(1)),
    `boot_ms`           Nullable(Int64) COMMENT 'boot-time clock at the sample, ms; NULL: not known' CODEC(Delta, ZSTD(1)),
    `gi_id`             Int64 COMMENT 'GPU instance' CODEC(T64, ZSTD(1)),
    `instance_uuid`     LowCardinality(Nullable(String)) COMMENT 'the MIG device\'s own id, of its first compute instance; NULL: not known' CODEC(ZSTD(1)),
    `profile`           LowCardinality(Nullable(String)) COMMENT 'name of the profile, such as 1g.10gb; NULL: not known' CODEC(ZSTD(1)),
    `sm_count`          Nullable(Int64) COMMENT 'SMs of the instance; NULL: not known' CODEC(T64, ZSTD(1)),
    `slices`            Nullable(Int64) COMMENT 'compute slices of the instance; NULL: not known' CODEC(T64, ZSTD(1)),
    `mem_total_bytes`   Nullable(UInt64) COMMENT 'memory of the instance, bytes; NULL: not measured' CODEC(T64, ZSTD(1)),
    `mem_used_bytes`    Nullable(UInt64) COMMENT 'memory of the instance in use, bytes; NULL: not measured' CODEC(T64, ZSTD(1)),
    `sm_active_e4`      Nullable(UInt16) COMMENT 'share of time and SMs with a warp resident, of the instance, times 10,000; NULL: not measured' CODEC(T64, ZSTD(1)),
    `sm_occupancy_e4`   Nullable(UInt16) COMMENT 'resident warps over the maximum, of the instance, times 10,000; NULL: not measured' CODEC(T64, ZSTD(1)),
    `tensor_e4`         Nullable(UInt16) COMMENT 'share of cycles in which any tensor pipe was busy, of the instance, times 10,000; NULL: not measured' CODEC(T64, ZSTD(1)),
    `hmma_e4`           Nullable(UInt16) COMMENT 'half-precision tensor pipe busy, of the instance, times 10,000; NULL: not measured' CODEC(T64, ZSTD(1)),
    `imma_e4`           Nullable(UInt16) COMMENT 'integer tensor pipe busy, of the instance, times 10,000; NULL: not measured' CODEC(T64, ZSTD(1)),
    `dfma_e4`           Nullable(UInt16) COMMENT 'double-precision tensor pipe busy, of the instance, times 10,000; NULL: not measured' CODEC(T64, ZSTD(1)),
    `fp64_e4`           Nullable(UInt16) COMMENT 'FP64 pipe busy, of the instance, times 10,000; NULL: not measured' CODEC(T64, ZSTD(1)),
    `fp32_e4`           Nullable(UInt16) COMMENT 'FP32 pipe busy, of the instance, times 10,000; NULL: not measured' CODEC(T64, ZSTD(1)),
    `fp16_e4`           Nullable(UInt16) COMMENT 'FP16 pipe busy, of the instance, times 10,000; NULL: not measured' CODEC(T64, ZSTD(1)),
    `int_e4`            Nullable(UInt16) COMMENT 'integer pipe busy, of the instance, times 10,000; NULL: not measured' CODEC(T64, ZSTD(1)),
    `dram_e4`           Nullable(UInt16) COMMENT 'device memory interface busy, of the instance, times 10,000; NULL: not measured' CODEC(T64, ZSTD(1)),
    `pcie_tx_bps`       Nullable(UInt64) COMMENT 'PCIe out, bytes per second; NULL: not measured' CODEC(T64, ZSTD(1)),
    `pcie_rx_bps`       Nullable(UInt64) COMMENT 'PCIe in, bytes per second; NULL: not measured' CODEC(T64, ZSTD(1)),
    `compute_instances` Nullable(Int64) COMMENT 'compute instances within it; NULL: not known' CODEC(T64, ZSTD(1)),
    `first_wins`        UInt64 MATERIALIZED toUInt64(9223372036854775807 - available_ms) COMMENT 'version for ReplacingMergeTree: of equal keys the row that was available first stays' CODEC(Delta, ZSTD(1)),
    `expires`           DateTime DEFAULT now() + INTERVAL 30 DAY COMMENT 'when the row may go, counted from its arrival in the store' CODEC(DoubleDelta, ZSTD(1)),
    INDEX ix_available available_ms TYPE minmax GRANULARITY 1
)
ENGINE = {{replacing "first_wins"}}
PARTITION BY toYYYYMMDD(expires)
ORDER BY (cluster, intDiv(ts_ms, 3600000), node, gpu, gpu_uuid, gi_id, ts_ms, sources)
TTL expires DELETE
SETTINGS {{settings}}, ttl_only_drop_parts = 1
COMMENT 'Samples of MIG instances of GPUs. Kept 30 days from arrival.';

CREATE TABLE IF NOT EXISTS gpu_holds
(
    `cluster`       LowCardinality(String) COMMENT 'cluster that the batch came from' CODEC(ZSTD(1)),
    `node`          LowCardinality(String) COMMENT 'host that measured' CODEC(ZSTD(1)),
    `spool`         LowCardinality(String) COMMENT 'identity of the batch: the spool\'s random id, hex' CODEC(ZSTD(1)),
    `sequence`      UInt64 COMMENT 'identity of the batch: its number within the spool' CODEC(Delta, ZSTD(1)),
    `sources`       LowCardinality(String) COMMENT 'which instrument each group of columns came from, as source:column,column;...' CODEC(ZSTD(1)),
    `available_ms`  Int64 COMMENT 'Unix ms at which the row could be known: the broker\'s time, in a replay the running maximum of event time' CODEC(Delta, ZSTD(1)),
    `start_ms`      Int64 COMMENT 'since when it was seen to be held, Unix ms UTC' CODEC(Delta, ZSTD(1)),
    `gpu_uuid`      LowCardinality(String) COMMENT 'GPU, or MIG device, that is held' CODEC(ZSTD(1)),
    `job_source`    LowCardinality(String) COMMENT 'scheduler: kubernetes, slurm, ...' CODEC(ZSTD(1)),
    `job_id`        LowCardinality(String) COMMENT 'job, or pod' CODEC(ZSTD(1)),
    `gpu`           Nullable(Int64) COMMENT 'index of the GPU on its host; NULL: not known' CODEC(T64, ZSTD(1)),
    `device`        LowCardinality(Nullable(String)) COMMENT 'the device as the scheduler names it, with the replica or the slice; NULL: not known' CODEC(ZSTD(1)),
    `end_ms`        Nullable(Int64) COMMENT 'when it was seen to be let go, Unix ms UTC; NULL: still held' CODEC(Delta, ZSTD(1)),
    `seen_ms`       Nullable(Int64) COMMENT 'when the scheduler was last heard, Unix ms UTC; NULL: not known' CODEC(Delta, ZSTD(1)),
    `evidence`      LowCardinality(Nullable(String)) COMMENT 'podresources, dra, slurm_file, dcgm_mapping; NULL: not known' CODEC(ZSTD(1)),
    `confidence_e4` Nullable(Int64) COMMENT 'how sure the attribution is, times 10,000; NULL: not known' CODEC(T64, ZSTD(1)),
    `shares`        Nullable(Int64) COMMENT 'how many hold the same GPU; NULL: not known' CODEC(T64, ZSTD(1)),
    `user_hash`     LowCardinality(Nullable(String)) COMMENT 'keyed hash of the user; NULL: not known' CODEC(ZSTD(1)),
    `project_hash`  LowCardinality(Nullable(String)) COMMENT 'keyed hash of the namespace or account; NULL: not known' CODEC(ZSTD(1)),
    `workload_hash` LowCardinality(Nullable(String)) COMMENT 'keyed hash of the name of job or pod; NULL: not known' CODEC(ZSTD(1)),
    `container`     LowCardinality(Nullable(String)) COMMENT 'containers within the pod, separated by blanks: keyed hashes of their names; NULL: not known' CODEC(ZSTD(1)),
    `restart_count` Nullable(Int64) COMMENT 'how often the scheduler has started the job again; NULL: not known' CODEC(T64, ZSTD(1)),
    `expires`       DateTime DEFAULT now() + INTERVAL 400 DAY COMMENT 'when the row may go, counted from its arrival in the store' CODEC(DoubleDelta, ZSTD(1)),
    INDEX ix_available available_ms TYPE minmax GRANULARITY 1
)
ENGINE = {{replacing ""}}
PARTITION BY toYYYYMMDD(expires)
ORDER BY (cluster, node, start_ms, gpu_uuid, job_source, job_id, available_ms, sequence, ifNull(end_ms, 0))
TTL expires DELETE
SETTINGS {{settings}}, ttl_only_drop_parts = 1
COMMENT 'Who holds a GPU, at work or not, as its scheduler says. One row per announcement; of equal start and key the latest holds. Kept 400 days from arrival.';

CREATE TABLE IF NOT EXISTS tcp_samples
(
    `cluster`      LowCardinality(String) COMMENT 'cluster that the batch came from' CODEC(ZSTD(1)),
    `node`         LowCardinality(String) COMMENT 'host that measured' CODEC(ZSTD(1)),
    `spool`        LowCardinality(String) COMMENT 'identity of the batch: the spool\'s random id, hex' CODEC(ZSTD(1)),
    `sequence`     UInt64 COMMENT 'identity of the batch: its number within the spool' CODEC(Delta, ZSTD(1)),
    `sources`      LowCardinality(String) COMMENT 'which instrument each group of columns came from, as source:column,column;...' CODEC(ZSTD(1)),
    `available_ms` Int64 COMMENT 'Unix ms at which the row could be known: the broker\'s time, in a replay the running maximum of event time' CODEC(Delta, ZSTD(1)),
    `ts_ms`        Int64 COMMENT 'event time of the sample, Unix ms UTC' CODEC(Delta, ZSTD(1)),
    `peer`         LowCardinality(String) COMMENT 'keyed hash: of an address inside, or of the network of one outside' CODEC(ZSTD(1)),
    `job_source`   LowCardinality(String) COMMENT 'scheduler of the job; empty: not known' CODEC(ZSTD(1)),
    `job_id`       LowCardinality(String) COMMENT 'job; empty: not known' CODEC(ZSTD(1)),
    `tx_bytes`     Nullable(UInt64) COMMENT 'bytes that the peer acknowledged since the row before; NULL: not measured' CODEC(T64, ZSTD(1)),
    `rx_bytes`     Nullable(UInt64) COMMENT 'bytes received since the row before; NULL: not measured' CODEC(T64, ZSTD(1)),
    `retransmits`  Nullable(UInt64) COMMENT 'segments sent again since the row before; NULL: not measured' CODEC(T64, ZSTD(1)),
    `connections`  Nullable(Int64) COMMENT 'connections that were open or closed since; NULL: not known' CODEC(T64, ZSTD(1)),
    `first_wins`   UInt64 MATERIALIZED toUInt64(9223372036854775807 - available_ms) COMMENT 'version for ReplacingMergeTree: of equal keys the row that was available first stays' CODEC(Delta, ZSTD(1)),
    `expires`      DateTime DEFAULT now() + INTERVAL 30 DAY COMMENT 'when the row may go, counted from its arrival in the store' CODEC(DoubleDelta, ZSTD(1)),
    INDEX ix_available available_ms TYPE minmax GRANULARITY 1
)
ENGINE = {{replacing "first_wins"}}
PARTITION BY toYYYYMMDD(expires)
ORDER BY (cluster, intDiv(ts_ms, 3600000), node, peer, job_source, job_id, ts_ms, sources)
TTL expires DELETE
SETTINGS {{settings}}, ttl_only_drop_parts = 1
COMMENT 'TCP traffic of jobs towards peers, from the kernel\'s socket counters. Kept 30 days from arrival.';

CREATE TABLE IF NOT EXISTS checkpoints
(
    `cluster`          LowCardinality(String) COMMENT 'cluster that the batch came from' CODEC(ZSTD(1)),
    `node`             LowCardinality(String) COMMENT 'host that measured' CODEC(ZSTD(1)),
    `spool`            LowCardinality(String) COMMENT 'identity of the batch: the spool\'s random id, hex' CODEC(ZSTD(1)),
    `sequence`         UInt64 COMMENT 'identity of the batch: its number within the spool' CODEC(Delta, ZSTD(1)),
    `sources`          LowCardinality(String) COMMENT 'which instrument each group of columns came from, as source:column,column;...' CODEC(ZSTD(1)),
    `available_ms`     Int64 COMMENT 'Unix ms at which the row could be known: the broker\'s time, in a replay the running maximum of event time' CODEC(Delta, ZSTD(1)),
    `start_ms`         Int64 COMMENT 'when it was first seen to grow, Unix ms UTC' CODEC(Delta, ZSTD(1)),
    `pid`              Int64 COMMENT 'process that wrote' CODEC(T64, ZSTD(1)),
    `file`             LowCardinality(String) COMMENT 'keyed hash of the path' CODEC(ZSTD(1)),
    `end_ms`           Nullable(Int64) COMMENT 'when it was last seen to grow, Unix ms UTC; NULL: it still grows' CODEC(Delta, ZSTD(1)),
    `bytes`            Nullable(UInt64) COMMENT 'bytes written as seen; NULL: not measured' CODEC(T64, ZSTD(1)),
    `file_bytes`       Nullable(UInt64) COMMENT 'size of the file; NULL: not measured' CODEC(T64, ZSTD(1)),
    `filesystem`       LowCardinality(Nullable(String)) COMMENT 'type of the file system; NULL: not known' CODEC(ZSTD(1)),
    `job_source`       LowCardinality(Nullable(String)) COMMENT 'scheduler of the job; NULL: not known' CODEC(ZSTD(1)),
    `job_id`           LowCardinality(Nullable(String)) COMMENT 'job; NULL: not known' CODEC(ZSTD(1)),
    `process_start_ms` Nullable(Int64) COMMENT 'start of the process, Unix ms UTC; NULL: not known' CODEC(Delta, ZSTD(1)),
    `expires`          DateTime DEFAULT now() + INTERVAL 400 DAY COMMENT 'when the row may go, counted from its arrival in the store' CODEC(DoubleDelta, ZSTD(1)),
    INDEX ix_available available_ms TYPE minmax GRANULARITY 1
)
ENGINE = {{replacing ""}}
PARTITION BY toYYYYMMDD(expires)
ORDER BY (cluster, node, start_ms, pid, file, available_ms, sequence, ifNull(end_ms, 0))
TTL expires DELETE
SETTINGS {{settings}}, ttl_only_drop_parts = 1
COMMENT 'Large files that processes on GPUs wrote. One row per announcement; of equal start and key the latest holds. Kept 400 days from arrival.';

CREATE TABLE IF NOT EXISTS rdma_objects
(
    `cluster`             LowCardinality(String) COMMENT 'cluster that the batch came from' CODEC(ZSTD(1)),
    `node`                LowCardinality(String) COMMENT 'host that measured' CODEC(ZSTD(1)),
    `spool`               LowCardinality(String) COMMENT 'identity of the batch: the spool\'s random id, hex' CODEC(ZSTD(1)),
    `sequence`            UInt64 COMMENT 'identity of the batch: its number within the spool' CODEC(Delta, ZSTD(1)),
    `sources`             LowCardinality(String) COMMENT 'which instrument each group of columns came from, as source:column,column;...' CODEC(ZSTD(1)),
    `available_ms`        Int64 COMMENT 'Unix ms at which the row could be known: the broker\'s time, in a replay the running maximum of event time' CODEC(Delta, ZSTD(1)),
    `ts_ms`               Int64 COMMENT 'event time of the sample, Unix ms UTC' CODEC(Delta, ZSTD(1)),
    `device`              LowCardinality(String) COMMENT 'RDMA device' CODEC(ZSTD(1)),
    `pid`                 Int64 COMMENT 'process; 0: the kernel' CODEC(T64, ZSTD(1)),
    `queue_pairs`         Nullable(Int64) COMMENT 'queue pairs; NULL: not known' CODEC(T64, ZSTD(1)),
    `connected`           Nullable(Int64) COMMENT 'queue pairs that are ready to send; NULL: not known' CODEC(T64, ZSTD(1)),
    `memory_regions`      Nullable(Int64) COMMENT 'registered memory regions; NULL: not known' CODEC(T64, ZSTD(1)),
    `memory_region_bytes` Nullable(UInt64) COMMENT 'registered memory, bytes; NULL: not measured' CODEC(T64, ZSTD(1)),
    `completion_queues`   Nullable(Int64) COMMENT 'completion queues; NULL: not known' CODEC(T64, ZSTD(1)),
    `qp_pairs`            LowCardinality(Nullable(String)) COMMENT 'own and remote numbers of connected queue pairs, own>remote, separated by blanks, at most 64; NULL: not known' CODEC(ZSTD(1)),
    `job_source`          LowCardinality(Nullable(String)) COMMENT 'scheduler of the job; NULL: not known' CODEC(ZSTD(1)),
    `job_id`              LowCardinality(Nullable(String)) COMMENT 'job; NULL: not known' CODEC(ZSTD(1)),
    `first_wins`          UInt64 MATERIALIZED toUInt64(9223372036854775807 - available_ms) COMMENT 'version for ReplacingMergeTree: of equal keys the row that was available first stays' CODEC(Delta, ZSTD(1)),
    `expires`             DateTime DEFAULT now() + INTERVAL 30 DAY COMMENT 'when the row may go, counted from its arrival in the store' CODEC(DoubleDelta, ZSTD(1)),
    INDEX ix_available available_ms TYPE minmax GRANULARITY 1
)
ENGINE = {{replacing "first_wins"}}
PARTITION BY toYYYYMMDD(expires)
ORDER BY (cluster, intDiv(ts_ms, 3600000), node, device, pid, ts_ms, sources)
TTL expires DELETE
SETTINGS {{settings}}, ttl_only_drop_parts = 1
COMMENT 'RDMA objects that processes hold: queue pairs and registered memory. Kept 30 days from arrival.';

CREATE TABLE IF NOT EXISTS bmc_samples
(
    `cluster`         LowCardinality(String) COMMENT 'cluster that the batch came from' CODEC(ZSTD(1)),
    `node`            LowCardinality(String) COMMENT 'host that measured' CODEC(ZSTD(1)),
    `spool`           LowCardinality(String) COMMENT 'identity of the batch: the spool\'s random id, hex' CODEC(ZSTD(1)),
    `sequence`        UInt64 COMMENT 'identity of the batch: its number within the spool' CODEC(Delta, ZSTD(1)),
    `sources`         LowCardinality(String) COMMENT 'which instrument each group of columns came from, as source:column,column;...' CODEC(ZSTD(1)),
    `available_ms`    Int64 COMMENT 'Unix ms at which the row could be known: the broker\'s time, in a replay the running maximum of event time' CODEC(Delta, ZSTD(1)),
    `ts_ms`           Int64 COMMENT 'event time of the sample, Unix ms UTC' CODEC(Delta, ZSTD(1)),
    `target`          LowCardinality(String) COMMENT 'host that is measured; node is who asked' CODEC(ZSTD(1)),
    `component`       LowCardinality(String) COMMENT 'as the controller names it: GPU_SXM_1, or node for the whole host' CODEC(ZSTD(1)),
    `vantage`         LowCardinality(Nullable(String)) COMMENT 'outofband; NULL: not known' CODEC(ZSTD(1)),
    `method`          LowCardinality(Nullable(String)) COMMENT 'redfish_report, redfish_sensor, dcmi; NULL: not known' CODEC(ZSTD(1)),
    `report_ms`       Nullable(Int64) COMMENT 'when the controller says that it measured, Unix ms UTC; NULL: not known' CODEC(Delta, ZSTD(1)),
    `gpu`             Nullable(Int64) COMMENT 'index of the GPU on its host; NULL: not known' CODEC(T64, ZSTD(1)),
    `gpu_uuid`        LowCardinality(Nullable(String)) COMMENT 'the GPU\'s own id; NULL: not known' CODEC(ZSTD(1)),
    `power_mw`        Nullable(Int64) COMMENT 'power, milliwatts; NULL: not known' CODEC(T64, ZSTD(1)),
    `energy_mj`       Nullable(UInt64) COMMENT 'energy, millijoules, cumulative, may reset; NULL: not measured' CODEC(Delta, T64, ZSTD(1)),
    `temp_c`          Nullable(Int64) COMMENT 'temperature, degrees Celsius; NULL: not known' CODEC(T64, ZSTD(1)),
    `util_e4`         Nullable(UInt16) COMMENT 'utilization, times 10,000; NULL: not measured' CODEC(T64, ZSTD(1)),
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
    `pcie_tx_bps`     Nullable(UInt64) COMMENT 'PCIe out, bytes per second; NULL: not measured' CODEC(T64, ZSTD(1)),
    `pcie_rx_bps`     Nullable(UInt64) COMMENT 'PCIe in, bytes per second; NULL: not measured' CODEC(T64, ZSTD(1)),
    `nvlink_tx_bps`   Nullable(UInt64) COMMENT 'NVLink out, bytes per second; NULL: not measured' CODEC(T64, ZSTD(1)),
    `nvlink_rx_bps`   Nullable(UInt64) COMMENT 'NVLink in, bytes per second; NULL: not measured' CODEC(T64, ZSTD(1)),
    `sm_clock_mhz`    Nullable(Int64) COMMENT 'SM clock, MHz; NULL: not known' CODEC(T64, ZSTD(1)),
    `first_wins`      UInt64 MATERIALIZED toUInt64(9223372036854775807 - available_ms) COMMENT 'version for ReplacingMergeTree: of equal keys the row that was available first stays' CODEC(Delta, ZSTD(1)),
    `expires`         DateTime DEFAULT now() + INTERVAL 30 DAY COMMENT 'when the row may go, counted from its arrival in the store' CODEC(DoubleDelta, ZSTD(1)),
    INDEX ix_available available_ms TYPE minmax GRANULARITY 1
)
ENGINE = {{replacing "first_wins"}}
PARTITION BY toYYYYMMDD(expires)
ORDER BY (cluster, intDiv(ts_ms, 3600000), node, target, component, ts_ms, sources)
TTL expires DELETE
SETTINGS {{settings}}, ttl_only_drop_parts = 1
COMMENT 'What a management controller measures, beside the host. Kept 30 days from arrival.';

CREATE TABLE IF NOT EXISTS node_facts
(
    `cluster`      LowCardinality(String) COMMENT 'cluster that the batch came from' CODEC(ZSTD(1)),
    `node`         LowCardinality(String) COMMENT 'host that measured' CODEC(ZSTD(1)),
    `spool`        LowCardinality(String) COMMENT 'identity of the batch: the spool\'s random id, hex' CODEC(ZSTD(1)),
    `sequence`     UInt64 COMMENT 'identity of the batch: its number within the spool' CODEC(Delta, ZSTD(1)),
    `sources`      LowCardinality(String) COMMENT 'which instrument each group of columns came from, as source:column,column;...' CODEC(ZSTD(1)),
    `available_ms` Int64 COMMENT 'Unix ms at which the row could be known: the broker\'s time, in a replay the running maximum of event time' CODEC(Delta, ZSTD(1)),
    `ts_ms`        Int64 COMMENT 'event time of the sample, Unix ms UTC' CODEC(Delta, ZSTD(1)),
    `subject`      LowCardinality(String) COMMENT 'what it is about: host, driver, a GPU\'s id, a PCI address' CODEC(ZSTD(1)),
    `name`         LowCardinality(String) COMMENT 'name of the fact' CODEC(ZSTD(1)),
    `value`        LowCardinality(Nullable(String)) COMMENT 'its value; NULL: not known' CODEC(ZSTD(1)),
    `first_wins`   UInt64 MATERIALIZED toUInt64(9223372036854775807 - available_ms) COMMENT 'version for ReplacingMergeTree: of equal keys the row that was available first stays' CODEC(Delta, ZSTD(1)),
    `expires`      DateTime DEFAULT now() + INTERVAL 400 DAY COMMENT 'when the row may go, counted from its arrival in the store' CODEC(DoubleDelta, ZSTD(1)),
    INDEX ix_available available_ms TYPE minmax GRANULARITY 1
)
ENGINE = {{replacing "first_wins"}}
PARTITION BY toYYYYMMDD(expires)
ORDER BY (cluster, node, subject, name, ts_ms, ifNull(value, ''), sources)
TTL expires DELETE
SETTINGS {{settings}}, ttl_only_drop_parts = 1
COMMENT 'What hosts are: versions, libraries, integrity, addresses (hashed). A fact with several values is that many rows of one time. Kept 400 days from arrival.';

ALTER TABLE gaps
    MODIFY COLUMN `from_sequence` COMMENT 'first sequence that was given up',
    MODIFY COLUMN `to_sequence` COMMENT 'last sequence that was given up; it may grow, the largest holds',
    MODIFY COLUMN `reason` COMMENT 'bytes: the spool was full; disk: the file system was; age: older than it keeps; corrupt: damaged on disk';

ALTER TABLE gaps
    MODIFY COMMENT 'Sequences that a spool gave up: losses that the host itself reported, but for those that batches has: they had been sent, and the host had not heard that they were stored.';

CREATE OR REPLACE VIEW v_gpu_health AS
SELECT *, fromUnixTimestamp64Milli(ts_ms, 'UTC') AS time
FROM gpu_health FINAL
COMMENT 'What GPUs tell rarely: counters of errors, throttling and cycles, links: one row a sample. NULL means not measured, never zero.';

CREATE OR REPLACE VIEW v_gpu_events AS
SELECT *, fromUnixTimestamp64Milli(ts_ms, 'UTC') AS time
FROM gpu_events FINAL
COMMENT 'What happened to GPUs: Xid errors, ECC errors, resets: one row a sample. NULL means not measured, never zero.';

CREATE OR REPLACE VIEW v_gpu_instances AS
SELECT *, fromUnixTimestamp64Milli(ts_ms, 'UTC') AS time
FROM gpu_instances FINAL
COMMENT 'Samples of MIG instances of GPUs: one row a sample. NULL means not measured, never zero.';

CREATE OR REPLACE VIEW v_gpu_holds AS
SELECT *, fromUnixTimestamp64Milli(start_ms, 'UTC') AS started, fromUnixTimestamp64Milli(end_ms, 'UTC') AS ended
FROM gpu_holds
ORDER BY cluster, node, start_ms, gpu_uuid, job_source, job_id, available_ms DESC, sequence DESC
LIMIT 1 BY cluster, node, start_ms, gpu_uuid, job_source, job_id
COMMENT 'Who holds a GPU, at work or not, as its scheduler says: the latest word on each. Valid from started to ended; ended NULL: it went on at seen_ms, of later nothing is known. Ended when it started: taken back, as the pod is known by its own id now, in another row.';

CREATE OR REPLACE VIEW v_tcp_samples AS
SELECT *, fromUnixTimestamp64Milli(ts_ms, 'UTC') AS time
FROM tcp_samples FINAL
COMMENT 'TCP traffic of jobs towards peers, from the kernel\'s socket counters: one row a sample. NULL means not measured, never zero.';

CREATE OR REPLACE VIEW v_checkpoints AS
SELECT *, fromUnixTimestamp64Milli(start_ms, 'UTC') AS started, fromUnixTimestamp64Milli(end_ms, 'UTC') AS ended
FROM checkpoints
ORDER BY cluster, node, start_ms, pid, file, available_ms DESC, sequence DESC
LIMIT 1 BY cluster, node, start_ms, pid, file
COMMENT 'Large files that processes on GPUs wrote: the latest word on each. ended NULL: it goes on.';

CREATE OR REPLACE VIEW v_rdma_objects AS
SELECT *, fromUnixTimestamp64Milli(ts_ms, 'UTC') AS time
FROM rdma_objects FINAL
COMMENT 'RDMA objects that processes hold: queue pairs and registered memory: one row a sample. NULL means not measured, never zero.';

CREATE OR REPLACE VIEW v_bmc_samples AS
SELECT *, fromUnixTimestamp64Milli(ts_ms, 'UTC') AS time
FROM bmc_samples FINAL
COMMENT 'What a management controller measures of target, beside or in place of its own agent: one row a sample, vantage outofband. gpu NULL: no driver that we see counts that GPU; cells have it under its place on the board. NULL means not measured, never zero.';

CREATE OR REPLACE VIEW v_node_facts AS
SELECT *, fromUnixTimestamp64Milli(ts_ms, 'UTC') AS told
FROM node_facts FINAL
WHERE (cluster, node, subject, name, ts_ms) IN (SELECT cluster, node, subject, name, max(ts_ms) FROM node_facts GROUP BY cluster, node, subject, name)
COMMENT 'What hosts are: versions, libraries, integrity, addresses (hashed): the latest word on each, which may be several rows.';

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
    clocks_event_reasons,
    mem_util_e4 / 10000 AS mem_util_frac,
    sm_cycles_elapsed AS sm_cycles_elapsed_total
FROM gpu_samples FINAL
COMMENT 'Samples of GPUs in natural units, one row per sample. Empty (NULL) means not measured, never zero.';
