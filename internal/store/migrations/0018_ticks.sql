-- Ticks are counted on when an agent starts again in the same boot: what is said of them.

ALTER TABLE batches
    COMMENT COLUMN `ticks` 'sampling ticks that were due since the first agent of the boot with this spool, or since one that could not go on counting, up to this batch: a jump shows what was lost before the spool, with an agent that was killed too';

ALTER TABLE losses
    COMMENT COLUMN `reason` 'bytes, age, corrupt, disk: the spool gave it up, as in gaps; memory: it did not come to the spool, which took nothing, or the agent was killed before; quarantine: refused; conflict: sent under a sequence that was taken (a spool put back to an earlier state, or a forger), kept in quarantine; missing: nobody accounts for it';
