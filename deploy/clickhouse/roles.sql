-- Roles for flopwatch on a ClickHouse server, with the least that each program or person needs.
-- For database flopwatch. Apply as an administrator who may manage access, after `flopwatch store migrate`, and again after each
-- migration: every statement can be repeated. README.md says how, why, and what was not tried.
-- On a cluster whose users are not replicated, add ON CLUSTER to each statement, or apply it on each server.

CREATE ROLE IF NOT EXISTS flopwatch_operator;
CREATE ROLE IF NOT EXISTS flopwatch_ingest;
CREATE ROLE IF NOT EXISTS flopwatch_detector;
CREATE ROLE IF NOT EXISTS flopwatch_analyst;
CREATE ROLE IF NOT EXISTS flopwatch_auditor;
CREATE ROLE IF NOT EXISTS flopwatch_corrector;

-- Operator: runs `flopwatch store migrate`, replays recordings, vouches for keys of nodes. No DROP, no DELETE: migrations need neither.
-- CREATE OR REPLACE VIEW asks for DROP VIEW; it makes the new view under another name, which it must drop as a table, and renames
-- it, which asks for INSERT into the view: nothing can be inserted into one.
GRANT CREATE DATABASE, CREATE TABLE, CREATE VIEW, DROP VIEW, ALTER ADD COLUMN, ALTER MODIFY COLUMN, ALTER TTL, ALTER SETTINGS, ALTER COMMENT COLUMN, ALTER MODIFY COMMENT, ALTER ADD INDEX, SHOW ON flopwatch.* TO flopwatch_operator;
GRANT DROP TABLE ON flopwatch._tmp_replace_* TO flopwatch_operator;
GRANT INSERT ON flopwatch.v_* TO flopwatch_operator;
GRANT SELECT ON flopwatch.* TO flopwatch_operator;
GRANT SELECT ON system.tables TO flopwatch_operator;
GRANT SELECT ON system.columns TO flopwatch_operator;
GRANT TABLE ENGINE ON ReplacingMergeTree TO flopwatch_operator;
GRANT TABLE ENGINE ON ReplicatedReplacingMergeTree TO flopwatch_operator;
GRANT TABLE ENGINE ON View TO flopwatch_operator;
GRANT INSERT ON flopwatch.node_keys TO flopwatch_operator;
GRANT INSERT ON flopwatch.recordings TO flopwatch_operator;
GRANT INSERT ON flopwatch.schema_migrations TO flopwatch_operator;

-- Ingest: the collector, with `migrate = false`. It writes telemetry and its ledger, and reads back only which batches are there, and their heads.
GRANT INSERT ON flopwatch.allocations TO flopwatch_ingest;
GRANT INSERT ON flopwatch.bmc_samples TO flopwatch_ingest;
GRANT INSERT ON flopwatch.checkpoints TO flopwatch_ingest;
GRANT INSERT ON flopwatch.collective_samples TO flopwatch_ingest;
GRANT INSERT ON flopwatch.fabric_samples TO flopwatch_ingest;
GRANT INSERT ON flopwatch.flow_samples TO flopwatch_ingest;
GRANT INSERT ON flopwatch.gpu_devices TO flopwatch_ingest;
GRANT INSERT ON flopwatch.gpu_events TO flopwatch_ingest;
GRANT INSERT ON flopwatch.gpu_health TO flopwatch_ingest;
GRANT INSERT ON flopwatch.gpu_holds TO flopwatch_ingest;
GRANT INSERT ON flopwatch.gpu_instances TO flopwatch_ingest;
GRANT INSERT ON flopwatch.gpu_samples TO flopwatch_ingest;
GRANT INSERT ON flopwatch.host_samples TO flopwatch_ingest;
GRANT INSERT ON flopwatch.instrument_status TO flopwatch_ingest;
GRANT INSERT ON flopwatch.inventory TO flopwatch_ingest;
GRANT INSERT ON flopwatch.node_facts TO flopwatch_ingest;
GRANT INSERT ON flopwatch.orders TO flopwatch_ingest;
GRANT INSERT ON flopwatch.process_events TO flopwatch_ingest;
GRANT INSERT ON flopwatch.rdma_objects TO flopwatch_ingest;
GRANT INSERT ON flopwatch.tcp_samples TO flopwatch_ingest;
GRANT INSERT ON flopwatch.batches TO flopwatch_ingest;
GRANT INSERT ON flopwatch.gaps TO flopwatch_ingest;
GRANT INSERT ON flopwatch.quarantine TO flopwatch_ingest;
GRANT SELECT ON system.disks TO flopwatch_ingest;
GRANT SELECT ON system.parts TO flopwatch_ingest;
GRANT SELECT(database, name, engine, engine_full) ON system.tables TO flopwatch_ingest;
GRANT INSERT ON flopwatch.quarantine_dropped TO flopwatch_ingest;
GRANT SELECT(cluster, node, spool, sequence, digest, prev_digest, body_digest, node_key, signature, gap_from, gap_to, gap_reason, gap_digest, available_ms, inserted_at, boot_id, ticks, first_tick, missed_ticks, sealed_wall_ms, sealed_boot_ms, max_ts_ms) ON flopwatch.batches TO flopwatch_ingest;
GRANT SELECT(cluster, node, spool, sequence, reason, digest, broker_ms, stream, stream_seq, inserted_at, subject, bytes_kept) ON flopwatch.quarantine TO flopwatch_ingest;
GRANT SELECT(cluster, node, spool, from_sequence, to_sequence) ON flopwatch.gaps TO flopwatch_ingest;
-- The hourly check of chains is the collector's: heads of batches and notes on keys in, what it found out. No telemetry.
GRANT SELECT ON flopwatch.node_keys TO flopwatch_ingest;
GRANT SELECT, INSERT ON flopwatch.chain_hours TO flopwatch_ingest;
GRANT SELECT, INSERT ON flopwatch.chain_positions TO flopwatch_ingest;
GRANT SELECT, INSERT ON flopwatch.losses TO flopwatch_ingest;
GRANT SELECT(name, value) ON system.merge_tree_settings TO flopwatch_ingest;

-- Detector: reads telemetry and its own words, writes its own words. Not quarantine, which holds messages that nobody could check.
GRANT SELECT ON flopwatch.allocations TO flopwatch_detector;
GRANT SELECT ON flopwatch.bmc_samples TO flopwatch_detector;
GRANT SELECT ON flopwatch.checkpoints TO flopwatch_detector;
GRANT SELECT ON flopwatch.collective_samples TO flopwatch_detector;
GRANT SELECT ON flopwatch.fabric_samples TO flopwatch_detector;
GRANT SELECT ON flopwatch.flow_samples TO flopwatch_detector;
GRANT SELECT ON flopwatch.gpu_devices TO flopwatch_detector;
GRANT SELECT ON flopwatch.gpu_events TO flopwatch_detector;
GRANT SELECT ON flopwatch.gpu_health TO flopwatch_detector;
GRANT SELECT ON flopwatch.gpu_holds TO flopwatch_detector;
GRANT SELECT ON flopwatch.gpu_instances TO flopwatch_detector;
GRANT SELECT ON flopwatch.gpu_samples TO flopwatch_detector;
GRANT SELECT ON flopwatch.host_samples TO flopwatch_detector;
GRANT SELECT ON flopwatch.instrument_status TO flopwatch_detector;
GRANT SELECT ON flopwatch.inventory TO flopwatch_detector;
GRANT SELECT ON flopwatch.node_facts TO flopwatch_detector;
GRANT SELECT ON flopwatch.orders TO flopwatch_detector;
GRANT SELECT ON flopwatch.process_events TO flopwatch_detector;
GRANT SELECT ON flopwatch.rdma_objects TO flopwatch_detector;
GRANT SELECT ON flopwatch.tcp_samples TO flopwatch_detector;
GRANT SELECT ON flopwatch.batches TO flopwatch_detector;
GRANT SELECT ON flopwatch.gaps TO flopwatch_detector;
GRANT SELECT ON flopwatch.losses TO flopwatch_detector;
GRANT SELECT, INSERT ON flopwatch.detector_positions TO flopwatch_detector;
GRANT SELECT(database, absolute_delay, is_readonly, is_session_expired) ON system.replicas TO flopwatch_detector;
GRANT SELECT, INSERT ON flopwatch.evidence_gpu TO flopwatch_detector;
GRANT SELECT, INSERT ON flopwatch.evidence_host TO flopwatch_detector;
GRANT SELECT, INSERT ON flopwatch.features_comm_minute TO flopwatch_detector;
GRANT SELECT, INSERT ON flopwatch.features_flow_minute TO flopwatch_detector;
GRANT SELECT, INSERT ON flopwatch.features_gpu_hour TO flopwatch_detector;
GRANT SELECT, INSERT ON flopwatch.features_gpu_minute TO flopwatch_detector;
GRANT SELECT, INSERT ON flopwatch.features_node_minute TO flopwatch_detector;
GRANT SELECT, INSERT ON flopwatch.findings TO flopwatch_detector;
GRANT SELECT, INSERT ON flopwatch.party_accounts TO flopwatch_detector;
GRANT SELECT, INSERT ON flopwatch.parties TO flopwatch_detector;
GRANT SELECT, INSERT ON flopwatch.reviewed_findings TO flopwatch_detector;
GRANT SELECT, INSERT ON flopwatch.reviewed_runs TO flopwatch_detector;
GRANT SELECT, INSERT ON flopwatch.reviews TO flopwatch_detector;
GRANT SELECT, INSERT ON flopwatch.run_members TO flopwatch_detector;
GRANT SELECT, INSERT ON flopwatch.runs TO flopwatch_detector;
GRANT SELECT ON flopwatch.v_node_hours TO flopwatch_detector;

-- Views run with the rights of this user, which nobody can sign in as, so that analysts need no grant on a table.
CREATE USER IF NOT EXISTS flopwatch_views NOT IDENTIFIED HOST NONE;
GRANT SELECT ON flopwatch.allocations TO flopwatch_views;
GRANT SELECT ON flopwatch.batches TO flopwatch_views;
GRANT SELECT ON flopwatch.bmc_samples TO flopwatch_views;
GRANT SELECT ON flopwatch.chain_hours TO flopwatch_views;
GRANT SELECT ON flopwatch.checkpoints TO flopwatch_views;
GRANT SELECT ON flopwatch.features_gpu_hour TO flopwatch_views;
GRANT SELECT ON flopwatch.features_gpu_minute TO flopwatch_views;
GRANT SELECT ON flopwatch.findings TO flopwatch_views;
GRANT SELECT ON flopwatch.gaps TO flopwatch_views;
GRANT SELECT ON flopwatch.gpu_devices TO flopwatch_views;
GRANT SELECT ON flopwatch.gpu_events TO flopwatch_views;
GRANT SELECT ON flopwatch.gpu_health TO flopwatch_views;
GRANT SELECT ON flopwatch.gpu_holds TO flopwatch_views;
GRANT SELECT ON flopwatch.gpu_instances TO flopwatch_views;
GRANT SELECT ON flopwatch.gpu_samples TO flopwatch_views;
GRANT SELECT ON flopwatch.instrument_status TO flopwatch_views;
GRANT SELECT ON flopwatch.inventory TO flopwatch_views;
GRANT SELECT ON flopwatch.labels TO flopwatch_views;
GRANT SELECT ON flopwatch.losses TO flopwatch_views;
GRANT SELECT ON flopwatch.node_facts TO flopwatch_views;
GRANT SELECT ON flopwatch.rdma_objects TO flopwatch_views;
GRANT SELECT ON flopwatch.reviewed_findings TO flopwatch_views;
GRANT SELECT ON flopwatch.reviewed_runs TO flopwatch_views;
GRANT SELECT ON flopwatch.reviews TO flopwatch_views;
GRANT SELECT ON flopwatch.runs TO flopwatch_views;
GRANT SELECT ON flopwatch.tcp_samples TO flopwatch_views;
GRANT SELECT(cluster, node, spool, sequence, rows, reason, broker_ms, subject, size, stream, stream_seq) ON flopwatch.quarantine TO flopwatch_views;
GRANT SELECT ON flopwatch.quarantine_dropped TO flopwatch_views;
ALTER TABLE flopwatch.v_account_hours MODIFY SQL SECURITY DEFINER DEFINER = flopwatch_views;
ALTER TABLE flopwatch.v_allocations MODIFY SQL SECURITY DEFINER DEFINER = flopwatch_views;
ALTER TABLE flopwatch.v_batches MODIFY SQL SECURITY DEFINER DEFINER = flopwatch_views;
ALTER TABLE flopwatch.v_bmc_samples MODIFY SQL SECURITY DEFINER DEFINER = flopwatch_views;
ALTER TABLE flopwatch.v_chain_hours MODIFY SQL SECURITY DEFINER DEFINER = flopwatch_views;
ALTER TABLE flopwatch.v_checkpoints MODIFY SQL SECURITY DEFINER DEFINER = flopwatch_views;
ALTER TABLE flopwatch.v_findings MODIFY SQL SECURITY DEFINER DEFINER = flopwatch_views;
ALTER TABLE flopwatch.v_findings_by_profile MODIFY SQL SECURITY DEFINER DEFINER = flopwatch_views;
ALTER TABLE flopwatch.v_fleet_hours MODIFY SQL SECURITY DEFINER DEFINER = flopwatch_views;
ALTER TABLE flopwatch.v_fleet_now MODIFY SQL SECURITY DEFINER DEFINER = flopwatch_views;
ALTER TABLE flopwatch.v_gpu_devices MODIFY SQL SECURITY DEFINER DEFINER = flopwatch_views;
ALTER TABLE flopwatch.v_gpu_events MODIFY SQL SECURITY DEFINER DEFINER = flopwatch_views;
ALTER TABLE flopwatch.v_gpu_health MODIFY SQL SECURITY DEFINER DEFINER = flopwatch_views;
ALTER TABLE flopwatch.v_gpu_holds MODIFY SQL SECURITY DEFINER DEFINER = flopwatch_views;
ALTER TABLE flopwatch.v_gpu_hours MODIFY SQL SECURITY DEFINER DEFINER = flopwatch_views;
ALTER TABLE flopwatch.v_gpu_instances MODIFY SQL SECURITY DEFINER DEFINER = flopwatch_views;
ALTER TABLE flopwatch.v_gpu_minutes MODIFY SQL SECURITY DEFINER DEFINER = flopwatch_views;
ALTER TABLE flopwatch.v_gpu_samples MODIFY SQL SECURITY DEFINER DEFINER = flopwatch_views;
ALTER TABLE flopwatch.v_instruments MODIFY SQL SECURITY DEFINER DEFINER = flopwatch_views;
ALTER TABLE flopwatch.v_labels MODIFY SQL SECURITY DEFINER DEFINER = flopwatch_views;
ALTER TABLE flopwatch.v_losses MODIFY SQL SECURITY DEFINER DEFINER = flopwatch_views;
ALTER TABLE flopwatch.v_node_coverage MODIFY SQL SECURITY DEFINER DEFINER = flopwatch_views;
ALTER TABLE flopwatch.v_node_facts MODIFY SQL SECURITY DEFINER DEFINER = flopwatch_views;
ALTER TABLE flopwatch.v_node_hours MODIFY SQL SECURITY DEFINER DEFINER = flopwatch_views;
ALTER TABLE flopwatch.v_node_keys MODIFY SQL SECURITY DEFINER DEFINER = flopwatch_views;
ALTER TABLE flopwatch.v_quarantine MODIFY SQL SECURITY DEFINER DEFINER = flopwatch_views;
ALTER TABLE flopwatch.v_rdma_objects MODIFY SQL SECURITY DEFINER DEFINER = flopwatch_views;
ALTER TABLE flopwatch.v_reviews MODIFY SQL SECURITY DEFINER DEFINER = flopwatch_views;
ALTER TABLE flopwatch.v_run_terms MODIFY SQL SECURITY DEFINER DEFINER = flopwatch_views;
ALTER TABLE flopwatch.v_runs MODIFY SQL SECURITY DEFINER DEFINER = flopwatch_views;
ALTER TABLE flopwatch.v_runs_by_profile MODIFY SQL SECURITY DEFINER DEFINER = flopwatch_views;
ALTER TABLE flopwatch.v_tcp_samples MODIFY SQL SECURITY DEFINER DEFINER = flopwatch_views;

-- Analyst: the views, and nothing else.
GRANT SELECT ON flopwatch.v_account_hours TO flopwatch_analyst;
GRANT SELECT ON flopwatch.v_allocations TO flopwatch_analyst;
GRANT SELECT ON flopwatch.v_batches TO flopwatch_analyst;
GRANT SELECT ON flopwatch.v_bmc_samples TO flopwatch_analyst;
GRANT SELECT ON flopwatch.v_chain_hours TO flopwatch_analyst;
GRANT SELECT ON flopwatch.v_checkpoints TO flopwatch_analyst;
GRANT SELECT ON flopwatch.v_findings TO flopwatch_analyst;
GRANT SELECT ON flopwatch.v_findings_by_profile TO flopwatch_analyst;
GRANT SELECT ON flopwatch.v_fleet_hours TO flopwatch_analyst;
GRANT SELECT ON flopwatch.v_fleet_now TO flopwatch_analyst;
GRANT SELECT ON flopwatch.v_gpu_devices TO flopwatch_analyst;
GRANT SELECT ON flopwatch.v_gpu_events TO flopwatch_analyst;
GRANT SELECT ON flopwatch.v_gpu_health TO flopwatch_analyst;
GRANT SELECT ON flopwatch.v_gpu_holds TO flopwatch_analyst;
GRANT SELECT ON flopwatch.v_gpu_hours TO flopwatch_analyst;
GRANT SELECT ON flopwatch.v_gpu_instances TO flopwatch_analyst;
GRANT SELECT ON flopwatch.v_gpu_minutes TO flopwatch_analyst;
GRANT SELECT ON flopwatch.v_gpu_samples TO flopwatch_analyst;
GRANT SELECT ON flopwatch.v_instruments TO flopwatch_analyst;
GRANT SELECT ON flopwatch.v_labels TO flopwatch_analyst;
GRANT SELECT ON flopwatch.v_losses TO flopwatch_analyst;
GRANT SELECT ON flopwatch.v_node_coverage TO flopwatch_analyst;
GRANT SELECT ON flopwatch.v_node_facts TO flopwatch_analyst;
GRANT SELECT ON flopwatch.v_node_hours TO flopwatch_analyst;
GRANT SELECT ON flopwatch.v_node_keys TO flopwatch_analyst;
GRANT SELECT ON flopwatch.v_quarantine TO flopwatch_analyst;
GRANT SELECT ON flopwatch.v_rdma_objects TO flopwatch_analyst;
GRANT SELECT ON flopwatch.v_reviews TO flopwatch_analyst;
GRANT SELECT ON flopwatch.v_run_terms TO flopwatch_analyst;
GRANT SELECT ON flopwatch.v_runs TO flopwatch_analyst;
GRANT SELECT ON flopwatch.v_runs_by_profile TO flopwatch_analyst;
GRANT SELECT ON flopwatch.v_tcp_samples TO flopwatch_analyst;

-- Corrector: may say that a verdict is wrong (flopwatch correct), beside what its other roles let it do. A label changes no verdict.
GRANT SELECT ON flopwatch.runs TO flopwatch_corrector;
GRANT SELECT ON flopwatch.findings TO flopwatch_corrector;
GRANT SELECT, INSERT ON flopwatch.labels TO flopwatch_corrector;

-- Auditor: everything of flopwatch, raw messages in quarantine included, and what tells who could do what, and did.
GRANT SELECT ON flopwatch.* TO flopwatch_auditor;
GRANT SHOW ACCESS ON *.* TO flopwatch_auditor;
GRANT SELECT ON system.users TO flopwatch_auditor;
GRANT SELECT ON system.roles TO flopwatch_auditor;
GRANT SELECT ON system.grants TO flopwatch_auditor;
GRANT SELECT ON system.role_grants TO flopwatch_auditor;
GRANT SELECT ON system.settings_profiles TO flopwatch_auditor;
GRANT SELECT ON system.settings_profile_elements TO flopwatch_auditor;
GRANT SELECT ON system.quotas TO flopwatch_auditor;
GRANT SELECT ON system.row_policies TO flopwatch_auditor;
GRANT SELECT ON system.tables TO flopwatch_auditor;
GRANT SELECT ON system.columns TO flopwatch_auditor;
GRANT SELECT ON system.parts TO flopwatch_auditor;
GRANT SELECT ON system.detached_parts TO flopwatch_auditor;
GRANT SELECT ON system.mutations TO flopwatch_auditor;
GRANT SELECT ON system.replicas TO flopwatch_auditor;
GRANT SELECT ON system.disks TO flopwatch_auditor;
GRANT SELECT ON system.errors TO flopwatch_auditor;
GRANT SELECT ON system.query_log TO flopwatch_auditor;
GRANT SELECT ON system.session_log TO flopwatch_auditor;
GRANT SELECT ON system.part_log TO flopwatch_auditor;

-- Limits of people. readonly = 2: no writes, settings may be changed up to MAX.
CREATE SETTINGS PROFILE IF NOT EXISTS flopwatch_people SETTINGS readonly = 2 CONST, max_execution_time = 60 MIN 1 MAX 600, max_memory_usage = 4000000000 MIN 1 MAX 16000000000, max_threads = 4 MIN 1 MAX 16, max_concurrent_queries_for_user = 16 CONST, max_result_rows = 10000000 MIN 1 MAX 100000000, max_bytes_before_external_group_by = 2000000000, max_bytes_before_external_sort = 2000000000, timeout_overflow_mode = 'throw' CONST, priority = 10 MIN 1 MAX 1000 TO flopwatch_analyst, flopwatch_auditor;
-- Limits of programs: an acknowledged insert is a stored one, and a statement gone wrong ends.
CREATE SETTINGS PROFILE IF NOT EXISTS flopwatch_programs SETTINGS async_insert = 0, max_execution_time = 600, max_memory_usage = 8000000000, priority = 1 TO flopwatch_ingest, flopwatch_detector;

-- Examples of users. They cannot sign in until you say how: ALTER USER ... IDENTIFIED WITH ... HOST ...
CREATE USER IF NOT EXISTS flopwatch_operator_1 HOST NONE DEFAULT ROLE flopwatch_operator;
CREATE USER IF NOT EXISTS flopwatch_collector_1 HOST NONE DEFAULT ROLE flopwatch_ingest;
CREATE USER IF NOT EXISTS flopwatch_detector_1 HOST NONE DEFAULT ROLE flopwatch_detector;
CREATE USER IF NOT EXISTS flopwatch_analyst_1 HOST NONE DEFAULT ROLE flopwatch_analyst;
CREATE USER IF NOT EXISTS flopwatch_auditor_1 HOST NONE DEFAULT ROLE flopwatch_auditor;
GRANT flopwatch_operator TO flopwatch_operator_1;
GRANT flopwatch_ingest TO flopwatch_collector_1;
GRANT flopwatch_detector TO flopwatch_detector_1;
GRANT flopwatch_analyst TO flopwatch_analyst_1;
GRANT flopwatch_auditor TO flopwatch_auditor_1;
