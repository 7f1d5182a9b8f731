-- What was rented, also where nothing was measured.

CREATE OR REPLACE VIEW v_allocations AS
SELECT cluster, account, node, arrayMap(g -> toInt64OrZero(g), splitByChar(' ', toString(gpu_list))) AS gpus, fromUnixTimestamp64Milli(start_ms, 'UTC') AS started,
    if(end_ms IS NULL, NULL, fromUnixTimestamp64Milli(assumeNotNull(end_ms), 'UTC')) AS ended, start_ms, end_ms
FROM
(
    SELECT cluster, account, node, gpu_list, start_ms, end_ms
    FROM allocations
    ORDER BY available_ms DESC, sequence DESC, ifNull(end_ms, 0) DESC
    LIMIT 1 BY cluster, account, node, gpu_list, start_ms
)
COMMENT 'Rentals of GPUs, as they were announced last, whether anything was measured of them or not.';
