-- What roles.sql lacks on a cluster with shards (store.cluster), for databases flopwatch and flopwatch_local. Apply it behind
-- roles.sql, both with ON CLUSTER where users are not replicated. Not run on a real server.
-- A question goes to the shards as the user who asked, so who reads a Distributed table needs its local one too.

GRANT CREATE DATABASE, CREATE TABLE, ALTER ADD COLUMN, ALTER MODIFY COLUMN, ALTER COMMENT COLUMN, ALTER MODIFY COMMENT, ALTER ADD INDEX, SHOW, SELECT ON flopwatch_local.* TO flopwatch_operator;
GRANT TABLE ENGINE ON Distributed TO flopwatch_operator;
GRANT CLUSTER ON *.* TO flopwatch_operator;
GRANT INSERT ON flopwatch_local.* TO flopwatch_ingest;
GRANT SELECT(cluster, node, spool, sequence) ON flopwatch_local.batches TO flopwatch_ingest;
GRANT SELECT(cluster, node, spool, sequence, reason) ON flopwatch_local.quarantine TO flopwatch_ingest;
GRANT SELECT(cluster, node, spool, from_sequence, to_sequence) ON flopwatch_local.gaps TO flopwatch_ingest;
GRANT SELECT ON flopwatch_local.* TO flopwatch_detector;
GRANT INSERT ON flopwatch_local.features_gpu_minute TO flopwatch_detector;
GRANT INSERT ON flopwatch_local.features_node_minute TO flopwatch_detector;
GRANT INSERT ON flopwatch_local.features_comm_minute TO flopwatch_detector;
GRANT INSERT ON flopwatch_local.features_flow_minute TO flopwatch_detector;
GRANT SELECT ON flopwatch_local.* TO flopwatch_auditor;
GRANT SELECT ON flopwatch_local.* TO flopwatch_views;
