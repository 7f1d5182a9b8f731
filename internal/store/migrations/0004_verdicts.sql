-- Verdicts: versioned, never overwritten. The replacing engine only makes a repeated write of the
-- same version harmless.

CREATE TABLE IF NOT EXISTS runs
(
    `cluster`             LowCardinality(String) COMMENT 'cluster' CODEC(ZSTD(1)),
    `run_id`              String COMMENT 'id of the run, minted once' CODEC(ZSTD(1)),
    `version`             UInt64 COMMENT 'version of the verdict, rising' CODEC(ZSTD(1)),
    `judged_ms`           Int64 COMMENT 'event time up to which evidence was looked at' CODEC(ZSTD(1)),
    `class`               LowCardinality(String) COMMENT 'kind of activity' CODEC(ZSTD(1)),
    `class_probability`   Float64 COMMENT 'probability of the class' CODEC(ZSTD(1)),
    `start_ms`            Int64 COMMENT 'first moment' CODEC(ZSTD(1)),
    `end_ms`              Nullable(Int64) COMMENT 'last moment; NULL: goes on' CODEC(ZSTD(1)),
    `flops_executed_low`  Nullable(Float64) COMMENT 'low of the 90 % interval of FLOPs, what the hardware did; NULL: cannot be told' CODEC(ZSTD(1)),
    `flops_executed_best` Nullable(Float64) COMMENT 'best of the 90 % interval of FLOPs, what the hardware did; NULL: cannot be told' CODEC(ZSTD(1)),
    `flops_executed_high` Nullable(Float64) COMMENT 'high of the 90 % interval of FLOPs, what the hardware did; NULL: cannot be told' CODEC(ZSTD(1)),
    `flops_model_low`     Nullable(Float64) COMMENT 'low of the 90 % interval of FLOPs, what the model needed; thresholds use it; NULL: cannot be told' CODEC(ZSTD(1)),
    `flops_model_best`    Nullable(Float64) COMMENT 'best of the 90 % interval of FLOPs, what the model needed; thresholds use it; NULL: cannot be told' CODEC(ZSTD(1)),
    `flops_model_high`    Nullable(Float64) COMMENT 'high of the 90 % interval of FLOPs, what the model needed; thresholds use it; NULL: cannot be told' CODEC(ZSTD(1)),
    `coverage_frac`       Nullable(Float64) COMMENT 'share of GPU-time with a usable signal; NULL: cannot be told' CODEC(ZSTD(1)),
    `superseded_by`       String COMMENT 'id of the run into which it was merged; empty: it stands' CODEC(ZSTD(1)),
    `doc`                 String COMMENT 'the line of runs.jsonl' CODEC(ZSTD(1)),
    `detector_version`    LowCardinality(String) COMMENT 'code that judged' CODEC(ZSTD(1)),
    `profile_version`     LowCardinality(String) COMMENT 'threshold profiles that were used' CODEC(ZSTD(1)),
    `config_digest`       LowCardinality(String) COMMENT 'configuration that was used' CODEC(ZSTD(1)),
    `epoch`               UInt64 COMMENT 'fencing epoch of the leader that judged' CODEC(ZSTD(1)),
    `inserted_at`         DateTime64(3) DEFAULT now64(3) COMMENT 'wall time of the insert' CODEC(ZSTD(1))
)
ENGINE = {{replacing ""}}
ORDER BY (cluster, run_id, epoch, version)
SETTINGS {{settings}}
COMMENT 'Verdicts on runs, all versions.';

CREATE TABLE IF NOT EXISTS run_members
(
    `cluster`  LowCardinality(String) COMMENT 'cluster' CODEC(ZSTD(1)),
    `run_id`   String COMMENT 'run' CODEC(ZSTD(1)),
    `version`  UInt64 COMMENT 'version of the run\'s verdict' CODEC(ZSTD(1)),
    `epoch`    UInt64 COMMENT 'fencing epoch of the leader that judged' CODEC(ZSTD(1)),
    `node`     LowCardinality(String) COMMENT 'host' CODEC(ZSTD(1)),
    `gpu`      Int64 COMMENT 'index of the GPU' CODEC(ZSTD(1)),
    `start_ms` Int64 COMMENT 'from' CODEC(ZSTD(1)),
    `end_ms`   Int64 COMMENT 'to' CODEC(ZSTD(1))
)
ENGINE = {{replacing ""}}
ORDER BY (cluster, run_id, epoch, version, node, gpu, start_ms)
SETTINGS {{settings}}
COMMENT 'GPUs and intervals of a run\'s version.';

CREATE TABLE IF NOT EXISTS findings
(
    `cluster`          LowCardinality(String) COMMENT 'cluster' CODEC(ZSTD(1)),
    `finding_id`       String COMMENT 'id of the finding: made from profile, limb and subject' CODEC(ZSTD(1)),
    `version`          UInt64 COMMENT 'version, rising' CODEC(ZSTD(1)),
    `profile`          LowCardinality(String) COMMENT 'threshold profile; empty: none' CODEC(ZSTD(1)),
    `limb`             LowCardinality(String) COMMENT 'actual, projected, capacity, changed_arrangement, cluster, red_flag, telemetry' CODEC(ZSTD(1)),
    `subject`          String COMMENT 'run, order or account' CODEC(ZSTD(1)),
    `known_at_ms`      Int64 COMMENT 'event time from which the evidence sufficed' CODEC(ZSTD(1)),
    `raised_ms`        Int64 COMMENT 'event time of the watermark when the system raised it; kept by later versions' CODEC(ZSTD(1)),
    `raised_at`        DateTime64(3) COMMENT 'wall time when the system raised it; kept by later versions' CODEC(ZSTD(1)),
    `acknowledged_at`  Nullable(DateTime64(3)) COMMENT 'wall time when a person acknowledged it; NULL: nobody has' CODEC(ZSTD(1)),
    `state`            LowCardinality(String) COMMENT 'met or inquire' CODEC(ZSTD(1)),
    `severity`         LowCardinality(String) COMMENT 'info, low, medium, high' CODEC(ZSTD(1)),
    `retracted`        Bool COMMENT 'later evidence took it back; the row stays' CODEC(ZSTD(1)),
    `doc`              String COMMENT 'the line of findings.jsonl' CODEC(ZSTD(1)),
    `detector_version` LowCardinality(String) COMMENT 'code that judged' CODEC(ZSTD(1)),
    `profile_version`  LowCardinality(String) COMMENT 'threshold profiles that were used' CODEC(ZSTD(1)),
    `config_digest`    LowCardinality(String) COMMENT 'configuration that was used' CODEC(ZSTD(1)),
    `epoch`            UInt64 COMMENT 'fencing epoch of the leader that judged' CODEC(ZSTD(1)),
    `inserted_at`      DateTime64(3) DEFAULT now64(3) COMMENT 'wall time of the insert' CODEC(ZSTD(1))
)
ENGINE = {{replacing ""}}
ORDER BY (cluster, finding_id, epoch, version)
SETTINGS {{settings}}
COMMENT 'Findings, all versions.';

CREATE TABLE IF NOT EXISTS evidence_gpu
(
    `cluster`           LowCardinality(String) COMMENT 'cluster' CODEC(ZSTD(1)),
    `finding_id`        String COMMENT 'finding that rests on the row' CODEC(ZSTD(1)),
    `node`              LowCardinality(String) COMMENT 'host' CODEC(ZSTD(1)),
    `gpu`               Int64 COMMENT 'index of the GPU' CODEC(ZSTD(1)),
    `ts_ms`             Int64 COMMENT 'event time, Unix ms UTC' CODEC(Delta, ZSTD(1)),
    `available_ms`      Int64 COMMENT 'when the row could be known' CODEC(Delta, ZSTD(1)),
    `util_frac`         Nullable(Float64) COMMENT 'util_frac; NULL: not measured' CODEC(ZSTD(1)),
    `mem_used_bytes`    Nullable(Float64) COMMENT 'mem_used_bytes; NULL: not measured' CODEC(ZSTD(1)),
    `power_w`           Nullable(Float64) COMMENT 'power_w; NULL: not measured' CODEC(ZSTD(1)),
    `sm_clock_mhz`      Nullable(Float64) COMMENT 'sm_clock_mhz; NULL: not measured' CODEC(ZSTD(1)),
    `sm_active_frac`    Nullable(Float64) COMMENT 'sm_active_frac; NULL: not measured' CODEC(ZSTD(1)),
    `sm_occupancy_frac` Nullable(Float64) COMMENT 'sm_occupancy_frac; NULL: not measured' CODEC(ZSTD(1)),
    `tensor_frac`       Nullable(Float64) COMMENT 'tensor_frac; NULL: not measured' CODEC(ZSTD(1)),
    `hmma_frac`         Nullable(Float64) COMMENT 'hmma_frac; NULL: not measured' CODEC(ZSTD(1)),
    `imma_frac`         Nullable(Float64) COMMENT 'imma_frac; NULL: not measured' CODEC(ZSTD(1)),
    `dfma_frac`         Nullable(Float64) COMMENT 'dfma_frac; NULL: not measured' CODEC(ZSTD(1)),
    `fp64_frac`         Nullable(Float64) COMMENT 'fp64_frac; NULL: not measured' CODEC(ZSTD(1)),
    `fp32_frac`         Nullable(Float64) COMMENT 'fp32_frac; NULL: not measured' CODEC(ZSTD(1)),
    `fp16_frac`         Nullable(Float64) COMMENT 'fp16_frac; NULL: not measured' CODEC(ZSTD(1)),
    `int_frac`          Nullable(Float64) COMMENT 'int_frac; NULL: not measured' CODEC(ZSTD(1)),
    `dram_frac`         Nullable(Float64) COMMENT 'dram_frac; NULL: not measured' CODEC(ZSTD(1)),
    `pcie_tx_bps`       Nullable(Float64) COMMENT 'pcie_tx_bps; NULL: not measured' CODEC(ZSTD(1)),
    `pcie_rx_bps`       Nullable(Float64) COMMENT 'pcie_rx_bps; NULL: not measured' CODEC(ZSTD(1)),
    `nvlink_tx_bps`     Nullable(Float64) COMMENT 'nvlink_tx_bps; NULL: not measured' CODEC(ZSTD(1)),
    `nvlink_rx_bps`     Nullable(Float64) COMMENT 'nvlink_rx_bps; NULL: not measured' CODEC(ZSTD(1)),
    `nvenc_frac`        Nullable(Float64) COMMENT 'nvenc_frac; NULL: not measured' CODEC(ZSTD(1)),
    `nvdec_frac`        Nullable(Float64) COMMENT 'nvdec_frac; NULL: not measured' CODEC(ZSTD(1)),
    `energy_j_total`    Nullable(Float64) COMMENT 'cumulative energy, joules; NULL: not measured' CODEC(ZSTD(1)),
    `mma_cycles_total`  Nullable(Float64) COMMENT 'cumulative tensor-pipe cycles; NULL: not measured' CODEC(ZSTD(1))
)
ENGINE = {{replacing ""}}
ORDER BY (cluster, finding_id, node, gpu, ts_ms)
SETTINGS {{settings}}
COMMENT 'Copies of the raw GPU rows that a finding rests on, in natural units: they outlive the raw rows.';

CREATE TABLE IF NOT EXISTS evidence_host
(
    `cluster`        LowCardinality(String) COMMENT 'cluster' CODEC(ZSTD(1)),
    `finding_id`     String COMMENT 'finding that rests on the row' CODEC(ZSTD(1)),
    `node`           LowCardinality(String) COMMENT 'host' CODEC(ZSTD(1)),
    `ts_ms`          Int64 COMMENT 'event time, Unix ms UTC' CODEC(Delta, ZSTD(1)),
    `available_ms`   Int64 COMMENT 'when the row could be known' CODEC(Delta, ZSTD(1)),
    `power_w`        Nullable(Float64) COMMENT 'power of the host, watts; NULL: not measured' CODEC(ZSTD(1)),
    `cpu_frac`       Nullable(Float64) COMMENT 'CPU busy; NULL: not measured' CODEC(ZSTD(1)),
    `storage_tx_bps` Nullable(Float64) COMMENT 'bytes per second to storage; NULL: not measured' CODEC(ZSTD(1)),
    `storage_rx_bps` Nullable(Float64) COMMENT 'bytes per second from storage; NULL: not measured' CODEC(ZSTD(1))
)
ENGINE = {{replacing ""}}
ORDER BY (cluster, finding_id, node, ts_ms)
SETTINGS {{settings}}
COMMENT 'Copies of the raw host rows that a finding rests on.';
