-- How exactly rows are kept, where they are read: evidence copies rows as they are kept.

ALTER TABLE gpu_samples
    COMMENT COLUMN `power_mw` 'board power, milliwatts; kept to 64 mW: off by 32 at most, what is not 0 never as 0; NULL: not measured',
    COMMENT COLUMN `energy_mj` 'cumulative energy, millijoules, may reset; kept to 128 mJ: off by 64 at most, however long it runs, what is not 0 never as 0; NULL: not measured',
    COMMENT COLUMN `mma_cycles` 'cumulative tensor-pipe cycles, mean over the SMs, may reset; kept to 1,024 cycles: off by 512 at most, however long it runs, what is not 0 never as 0; NULL: not measured',
    COMMENT COLUMN `sm_cycles_elapsed` 'GPM: cycles of the SMs, in the unit of mma_cycles, cumulative, may reset; kept to 1,024 cycles: off by 512 at most, however long it runs, what is not 0 never as 0; NULL: not measured';

ALTER TABLE evidence_gpu
    COMMENT COLUMN `power_w` 'board power, watts; kept to 0.064 W: off by 0.032 at most; NULL: not measured',
    COMMENT COLUMN `energy_j_total` 'cumulative energy, joules, may reset; kept to 0.128 J: off by 0.064 at most, however long it runs; NULL: not measured',
    COMMENT COLUMN `mma_cycles_total` 'cumulative tensor-pipe cycles, mean over the SMs, may reset; kept to 1,024 cycles: off by 512 at most, however long it runs; NULL: not measured',
    COMMENT COLUMN `pcie_tx_bps` 'PCIe out of the GPU, bytes per second; kept to 11 significant bits: off by 0.05 % at most; NULL: not measured',
    COMMENT COLUMN `pcie_rx_bps` 'PCIe into the GPU, bytes per second; kept to 11 significant bits: off by 0.05 % at most; NULL: not measured',
    COMMENT COLUMN `nvlink_tx_bps` 'NVLink out, bytes per second; kept to 11 significant bits: off by 0.05 % at most; NULL: not measured',
    COMMENT COLUMN `nvlink_rx_bps` 'NVLink in, bytes per second; kept to 11 significant bits: off by 0.05 % at most; NULL: not measured',
    MODIFY COMMENT 'Copies of the raw GPU rows that a finding rests on, in natural units: they outlive the raw rows. They are as gpu_samples keeps them, rounded as the columns say, and not the bytes that a host signed.';
