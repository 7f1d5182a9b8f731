-- A view keeps the columns that its table had when it was made: v_gpu_devices lacked those of 0010.

CREATE OR REPLACE VIEW v_gpu_devices AS
SELECT *, fromUnixTimestamp64Milli(ts_ms, 'UTC') AS time
FROM gpu_devices
ORDER BY cluster, node, gpu_uuid, ts_ms DESC, available_ms DESC, sequence DESC
LIMIT 1 BY cluster, node, gpu_uuid
COMMENT 'The latest word of the driver on each GPU.';
