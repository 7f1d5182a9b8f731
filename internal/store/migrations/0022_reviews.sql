-- What people say of verdicts, and verdicts of the past under other profiles.

CREATE TABLE IF NOT EXISTS labels
(
    `cluster`     LowCardinality(String) COMMENT 'cluster' CODEC(ZSTD(1)),
    `label_id`    String COMMENT 'id of the label: made from kind, subject, other run and who' CODEC(ZSTD(1)),
    `version`     UInt64 COMMENT 'version, rising: a correction of a correction, or its withdrawal, is another' CODEC(ZSTD(1)),
    `kind`        LowCardinality(String) COMMENT 'class, same_run, other_run, flops_executed, flops_model, finding' CODEC(ZSTD(1)),
    `run_id`      String COMMENT 'run that it is about; empty: a finding' CODEC(ZSTD(1)),
    `finding_id`  String COMMENT 'finding that it is about; empty: a run' CODEC(ZSTD(1)),
    `value`       String COMMENT 'what is said: a class, the id of the other run, right or wrong; empty: see number' CODEC(ZSTD(1)),
    `number`      Nullable(Float64) COMMENT 'the FLOPs that are known; NULL: the kind has none' CODEC(ZSTD(1)),
    `because`     String COMMENT 'why, in the words of who says it' CODEC(ZSTD(1)),
    `who`         String COMMENT 'who says it: a hash of the name, not the name' CODEC(ZSTD(1)),
    `role`        LowCardinality(String) COMMENT 'as what: analyst, engineer, officer, auditor' CODEC(ZSTD(1)),
    `withdrawn`   Bool COMMENT 'who said it takes it back; the row stays' CODEC(ZSTD(1)),
    `said`        String COMMENT 'what the detector said when the label was given: class and version of the verdict' CODEC(ZSTD(1)),
    `labelled_at` DateTime64(3) COMMENT 'wall time of the label' CODEC(ZSTD(1)),
    `store_user`  LowCardinality(String) DEFAULT currentUser() COMMENT 'user of the store that wrote it, by the store\'s own word' CODEC(ZSTD(1)),
    `inserted_at` DateTime64(3) DEFAULT now64(3) COMMENT 'wall time of the insert' CODEC(ZSTD(1))
)
ENGINE = {{replacing ""}}
ORDER BY (cluster, label_id, version)
SETTINGS {{settings}}
COMMENT 'What people say of verdicts (this was inference), all versions. No verdict changes by it: calibration looks at it, and it stands beside the run.';

CREATE TABLE IF NOT EXISTS reviews
(
    `cluster`          LowCardinality(String) COMMENT 'cluster' CODEC(ZSTD(1)),
    `review_id`        String COMMENT 'id of the review' CODEC(ZSTD(1)),
    `progress`         UInt64 COMMENT 'rises with each word on it; the highest holds' CODEC(ZSTD(1)),
    `kind`             LowCardinality(String) COMMENT 'profiles: profiles changed; backtest: somebody asked' CODEC(ZSTD(1)),
    `state`            LowCardinality(String) COMMENT 'open, judged, done, or failed' CODEC(ZSTD(1)),
    `from_ms`          Int64 COMMENT 'start of the period that is judged again, Unix ms' CODEC(ZSTD(1)),
    `until_ms`         Int64 COMMENT 'its end' CODEC(ZSTD(1)),
    `judged_ms`        Int64 COMMENT 'event time up to which it was judged; 0: nothing yet' CODEC(ZSTD(1)),
    `cut_ms`           Int64 COMMENT 'minutes before this were let go from memory; 0: none' CODEC(ZSTD(1)),
    `last_ms`          Int64 COMMENT 'the moment judged last' CODEC(ZSTD(1)),
    `newest_ms`        Int64 COMMENT 'the moment at which something new was judged last' CODEC(ZSTD(1)),
    `due`              Bool COMMENT 'something came since the moment judged last' CODEC(ZSTD(1)),
    `profiles`         String COMMENT 'names of the profiles, separated by commas' CODEC(ZSTD(1)),
    `detector_version` LowCardinality(String) COMMENT 'code that judged' CODEC(ZSTD(1)),
    `profile_version`  LowCardinality(String) COMMENT 'threshold profiles that were used' CODEC(ZSTD(1)),
    `was_version`      LowCardinality(String) COMMENT 'threshold profiles that history was judged under before; empty: not known' CODEC(ZSTD(1)),
    `config_digest`    LowCardinality(String) COMMENT 'configuration that was used' CODEC(ZSTD(1)),
    `epoch`            UInt64 COMMENT 'fencing epoch of the leader that wrote it; 0: a backtest' CODEC(ZSTD(1)),
    `note`             String COMMENT 'why it failed, for people' CODEC(ZSTD(1)),
    `inserted_at`      DateTime64(3) DEFAULT now64(3) COMMENT 'wall time of the insert' CODEC(ZSTD(1))
)
ENGINE = {{replacing "progress"}}
ORDER BY (cluster, review_id)
SETTINGS {{settings}}
COMMENT 'Judgements of stored history under other profiles than it was judged under, and how far each is.';

CREATE TABLE IF NOT EXISTS reviewed_runs
(
    `cluster`             LowCardinality(String) COMMENT 'cluster' CODEC(ZSTD(1)),
    `review_id`           String COMMENT 'review that judged, see reviews' CODEC(ZSTD(1)),
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
    `epoch`               UInt64 COMMENT 'fencing epoch of the leader that judged; 0: a backtest' CODEC(ZSTD(1)),
    `inserted_at`         DateTime64(3) DEFAULT now64(3) COMMENT 'wall time of the insert' CODEC(ZSTD(1))
)
ENGINE = {{replacing ""}}
ORDER BY (cluster, review_id, run_id, version)
SETTINGS {{settings}}
COMMENT 'Verdicts of reviews on runs, all versions: beside those in runs, which nothing overwrites.';

CREATE TABLE IF NOT EXISTS reviewed_findings
(
    `cluster`          LowCardinality(String) COMMENT 'cluster' CODEC(ZSTD(1)),
    `review_id`        String COMMENT 'review that judged, see reviews' CODEC(ZSTD(1)),
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
    `epoch`            UInt64 COMMENT 'fencing epoch of the leader that judged; 0: a backtest' CODEC(ZSTD(1)),
    `inserted_at`      DateTime64(3) DEFAULT now64(3) COMMENT 'wall time of the insert' CODEC(ZSTD(1))
)
ENGINE = {{replacing ""}}
ORDER BY (cluster, review_id, finding_id, version)
SETTINGS {{settings}}
COMMENT 'Findings of reviews, all versions: beside those in findings, which nothing overwrites.';

ALTER TABLE detector_positions
    ADD COLUMN IF NOT EXISTS `profile_version` LowCardinality(String) COMMENT 'threshold profiles under which it judged; empty: not told' CODEC(ZSTD(1)) AFTER `config_digest`;

CREATE OR REPLACE VIEW v_runs AS
SELECT *,
    JSONExtract(doc, 'training_probability', 'Nullable(Float64)') AS training_probability,
    JSONExtract(doc, 'narrow_most', 'term', 'Nullable(String)') AS narrow_term,
    JSONExtract(doc, 'narrow_most', 'signal', 'Nullable(String)') AS narrow_signal,
    JSONExtract(doc, 'largest_grouping', 'flops_model', 'best', 'Nullable(Float64)') AS largest_model_best,
    JSONExtract(doc, 'largest_grouping', 'weight', 'Nullable(Float64)') AS largest_weight,
    JSONExtract(doc, 'contradiction_count', 'Nullable(Int64)') AS contradictions,
    JSONExtract(doc, 'engineering', 'mfu', 'Nullable(Float64)') AS mfu,
    JSONExtract(doc, 'engineering', 'hfu', 'Nullable(Float64)') AS hfu,
    JSONExtract(doc, 'engineering', 'goodput', 'Nullable(Float64)') AS goodput,
    JSONExtract(doc, 'engineering', 'restarts', 'Nullable(Int64)') AS restarts,
    JSONExtract(doc, 'engineering', 'restart_gpu_hours', 'Nullable(Float64)') AS restart_gpu_hours,
    JSONExtract(doc, 'engineering', 'stall_gpu_hours', 'Nullable(Float64)') AS stall_gpu_hours,
    JSONExtract(doc, 'engineering', 'idle_gpu_hours', 'Nullable(Float64)') AS idle_gpu_hours,
    JSONExtract(doc, 'engineering', 'energy_kwh', 'Nullable(Float64)') AS energy_kwh
FROM
(
    SELECT * EXCEPT (start_ms, end_ms, judged_ms), start_ms, end_ms, judged_ms,
        fromUnixTimestamp64Milli(start_ms, 'UTC') AS started,
        if(end_ms IS NULL, NULL, fromUnixTimestamp64Milli(assumeNotNull(end_ms), 'UTC')) AS ended,
        fromUnixTimestamp64Milli(judged_ms, 'UTC') AS judged
    FROM runs
    ORDER BY cluster, run_id, epoch DESC, version DESC
    LIMIT 1 BY cluster, run_id
)
COMMENT 'The latest verdict on each run; superseded_by names the run that it was merged into. Figures for engineers are NULL where they cannot be told.';

CREATE OR REPLACE VIEW v_run_terms AS
SELECT cluster, run_id, JSONExtractString(term_json, 'name') AS term, JSONExtractFloat(term_json, 'log_sd') AS log_sd, JSONExtractFloat(term_json, 'half_width') AS half_width,
    JSONExtract(term_json, 'narrow', 'Nullable(String)') AS narrow
FROM
(
    SELECT cluster, run_id, arrayJoin(JSONExtractArrayRaw(doc, 'terms')) AS term_json
    FROM
    (
        SELECT cluster, run_id, doc
        FROM runs
        ORDER BY cluster, run_id, epoch DESC, version DESC
        LIMIT 1 BY cluster, run_id
    )
)
COMMENT 'What the interval of each run\'s model FLOPs is made of, by the latest verdict, and what would narrow it.';

CREATE OR REPLACE VIEW v_labels AS
SELECT *
FROM labels
ORDER BY cluster, label_id, version DESC
LIMIT 1 BY cluster, label_id
COMMENT 'What people say of verdicts, the latest word of each; withdrawn ones are marked.';

CREATE OR REPLACE VIEW v_reviews AS
SELECT *
FROM reviews FINAL
COMMENT 'Judgements of stored history under other profiles, and how far each is.';

CREATE OR REPLACE VIEW v_runs_by_profile AS
SELECT *
FROM
(
    SELECT '' AS review_id, cluster, run_id, version, judged_ms, class, class_probability, start_ms, end_ms, flops_executed_low, flops_executed_best, flops_executed_high, flops_model_low, flops_model_best, flops_model_high, coverage_frac, superseded_by, doc, detector_version, profile_version, config_digest, epoch, inserted_at
    FROM runs
    UNION ALL
    SELECT review_id, cluster, run_id, version, judged_ms, class, class_probability, start_ms, end_ms, flops_executed_low, flops_executed_best, flops_executed_high, flops_model_low, flops_model_best, flops_model_high, coverage_frac, superseded_by, doc, detector_version, profile_version, config_digest, epoch, inserted_at
    FROM reviewed_runs
)
ORDER BY cluster, run_id, profile_version, version DESC, epoch DESC, review_id
LIMIT 1 BY cluster, run_id, profile_version
COMMENT 'The latest verdict on each run under each set of profiles (profile_version), live or of a review: those of old profiles stay.';

CREATE OR REPLACE VIEW v_findings_by_profile AS
SELECT *
FROM
(
    SELECT '' AS review_id, cluster, finding_id, version, profile, limb, subject, known_at_ms, raised_ms, raised_at, acknowledged_at, state, severity, retracted, doc, detector_version, profile_version, config_digest, epoch, inserted_at
    FROM findings
    UNION ALL
    SELECT review_id, cluster, finding_id, version, profile, limb, subject, known_at_ms, raised_ms, raised_at, acknowledged_at, state, severity, retracted, doc, detector_version, profile_version, config_digest, epoch, inserted_at
    FROM reviewed_findings
)
ORDER BY cluster, finding_id, profile_version, version DESC, epoch DESC, review_id
LIMIT 1 BY cluster, finding_id, profile_version
COMMENT 'The latest version of each finding under each set of profiles (profile_version), live or of a review: those of old profiles stay.';
