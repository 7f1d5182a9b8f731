-- What roles.sql lacks on a cluster with shards (store.cluster), for databases flopwatch and flopwatch_local. Apply it behind
-- roles.sql, both with ON CLUSTER where users are not replicated. Not run on a real server; a test holds it to roles.sql.
-- A question goes to the shards as the user who asked, so who reads a Distributed table needs its local one too.

GRANT CREATE DATABASE, CREATE TABLE, ALTER ADD COLUMN, ALTER MODIFY COLUMN, ALTER TTL, ALTER SETTINGS, ALTER COMMENT COLUMN, ALTER MODIFY COMMENT, ALTER ADD INDEX, SHOW ON flopwatch_local.* TO flopwatch_operator;
GRANT SELECT ON flopwatch_local.* TO flopwatch_operator;
GRANT TABLE ENGINE ON Distributed TO flopwatch_operator;
GRANT REMOTE ON *.* TO flopwatch_operator;
GRANT CLUSTER ON *.* TO flopwatch_operator;
GRANT SELECT ON flopwatch_local.* TO flopwatch_auditor;

-- What roles.sql grants on tables that are sharded.
GRANT INSERT ON flopwatch_local.bmc_samples TO flopwatch_ingest;
GRANT INSERT ON flopwatch_local.checkpoints TO flopwatch_ingest;
GRANT INSERT ON flopwatch_local.collective_samples TO flopwatch_ingest;
GRANT INSERT ON flopwatch_local.fabric_samples TO flopwatch_ingest;
GRANT INSERT ON flopwatch_local.flow_samples TO flopwatch_ingest;
GRANT INSERT ON flopwatch_local.gpu_devices TO flopwatch_ingest;
GRANT INSERT ON flopwatch_local.gpu_events TO flopwatch_ingest;
GRANT INSERT ON flopwatch_local.gpu_health TO flopwatch_ingest;
GRANT INSERT ON flopwatch_local.gpu_holds TO flopwatch_ingest;
GRANT INSERT ON flopwatch_local.gpu_instances TO flopwatch_ingest;
GRANT INSERT ON flopwatch_local.gpu_samples TO flopwatch_ingest;
GRANT INSERT ON flopwatch_local.host_samples TO flopwatch_ingest;
GRANT INSERT ON flopwatch_local.instrument_status TO flopwatch_ingest;
GRANT INSERT ON flopwatch_local.node_facts TO flopwatch_ingest;
GRANT INSERT ON flopwatch_local.process_events TO flopwatch_ingest;
GRANT INSERT ON flopwatch_local.rdma_objects TO flopwatch_ingest;
GRANT INSERT ON flopwatch_local.tcp_samples TO flopwatch_ingest;
GRANT INSERT ON flopwatch_local.batches TO flopwatch_ingest;
GRANT INSERT ON flopwatch_local.gaps TO flopwatch_ingest;
GRANT INSERT ON flopwatch_local.quarantine TO flopwatch_ingest;
GRANT INSERT ON flopwatch_local.quarantine_dropped TO flopwatch_ingest;
GRANT SELECT(cluster, node, spool, sequence, digest, prev_digest, body_digest, node_key, signature, gap_from, gap_to, gap_reason, gap_digest, available_ms, inserted_at, boot_id, ticks, first_tick, missed_ticks, sealed_wall_ms, sealed_boot_ms, max_ts_ms) ON flopwatch_local.batches TO flopwatch_ingest;
GRANT SELECT(cluster, node, spool, sequence, reason, digest, broker_ms, stream, stream_seq, inserted_at, subject, bytes_kept) ON flopwatch_local.quarantine TO flopwatch_ingest;
GRANT SELECT(cluster, node, spool, from_sequence, to_sequence) ON flopwatch_local.gaps TO flopwatch_ingest;
GRANT SELECT, INSERT ON flopwatch_local.chain_hours TO flopwatch_ingest;
GRANT SELECT, INSERT ON flopwatch_local.losses TO flopwatch_ingest;
GRANT SELECT ON flopwatch_local.bmc_samples TO flopwatch_detector;
GRANT SELECT ON flopwatch_local.checkpoints TO flopwatch_detector;
GRANT SELECT ON flopwatch_local.collective_samples TO flopwatch_detector;
GRANT SELECT ON flopwatch_local.fabric_samples TO flopwatch_detector;
GRANT SELECT ON flopwatch_local.flow_samples TO flopwatch_detector;
GRANT SELECT ON flopwatch_local.gpu_devices TO flopwatch_detector;
GRANT SELECT ON flopwatch_local.gpu_events TO flopwatch_detector;
GRANT SELECT ON flopwatch_local.gpu_health TO flopwatch_detector;
GRANT SELECT ON flopwatch_local.gpu_holds TO flopwatch_detector;
GRANT SELECT ON flopwatch_local.gpu_instances TO flopwatch_detector;
GRANT SELECT ON flopwatch_local.gpu_samples TO flopwatch_detector;
GRANT SELECT ON flopwatch_local.host_samples TO flopwatch_detector;
GRANT SELECT ON flopwatch_local.instrument_status TO flopwatch_detector;
GRANT SELECT ON flopwatch_local.node_facts TO flopwatch_detector;
GRANT SELECT ON flopwatch_local.process_events TO flopwatch_detector;
GRANT SELECT ON flopwatch_local.rdma_objects TO flopwatch_detector;
GRANT SELECT ON flopwatch_local.tcp_samples TO flopwatch_detector;
GRANT SELECT ON flopwatch_local.batches TO flopwatch_detector;
GRANT SELECT ON flopwatch_local.gaps TO flopwatch_detector;
GRANT SELECT ON flopwatch_local.losses TO flopwatch_detector;
GRANT SELECT, INSERT ON flopwatch_local.features_comm_minute TO flopwatch_detector;
GRANT SELECT, INSERT ON flopwatch_local.features_flow_minute TO flopwatch_detector;
GRANT SELECT, INSERT ON flopwatch_local.features_gpu_hour TO flopwatch_detector;
GRANT SELECT, INSERT ON flopwatch_local.features_gpu_minute TO flopwatch_detector;
GRANT SELECT, INSERT ON flopwatch_local.features_node_minute TO flopwatch_detector;
GRANT SELECT ON flopwatch_local.batches TO flopwatch_views;
GRANT SELECT ON flopwatch_local.bmc_samples TO flopwatch_views;
GRANT SELECT ON flopwatch_local.chain_hours TO flopwatch_views;
GRANT SELECT ON flopwatch_local.checkpoints TO flopwatch_views;
GRANT SELECT ON flopwatch_local.features_gpu_hour TO flopwatch_views;
GRANT SELECT ON flopwatch_local.features_gpu_minute TO flopwatch_views;
GRANT SELECT ON flopwatch_local.gaps TO flopwatch_views;
GRANT SELECT ON flopwatch_local.gpu_devices TO flopwatch_views;
GRANT SELECT ON flopwatch_local.gpu_events TO flopwatch_views;
GRANT SELECT ON flopwatch_local.gpu_health TO flopwatch_views;
GRANT SELECT ON flopwatch_local.gpu_holds TO flopwatch_views;
GRANT SELECT ON flopwatch_local.gpu_instances TO flopwatch_views;
GRANT SELECT ON flopwatch_local.gpu_samples TO flopwatch_views;
GRANT SELECT ON flopwatch_local.instrument_status TO flopwatch_views;
GRANT SELECT ON flopwatch_local.losses TO flopwatch_views;
GRANT SELECT ON flopwatch_local.node_facts TO flopwatch_views;
GRANT SELECT ON flopwatch_local.rdma_objects TO flopwatch_views;
GRANT SELECT ON flopwatch_local.tcp_samples TO flopwatch_views;
GRANT SELECT(cluster, node, spool, sequence, rows, reason, broker_ms, subject, size, stream, stream_seq) ON flopwatch_local.quarantine TO flopwatch_views;
GRANT SELECT ON flopwatch_local.quarantine_dropped TO flopwatch_views;

-- Views that join sharded tables: a subquery is asked once, of all shards. Programs say so themselves.
CREATE SETTINGS PROFILE IF NOT EXISTS flopwatch_sharded SETTINGS distributed_product_mode = 'global' TO flopwatch_analyst, flopwatch_auditor;
