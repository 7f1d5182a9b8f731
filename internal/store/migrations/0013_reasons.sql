-- The reasons for quarantine, since a clock of long ago is one.

ALTER TABLE quarantine
    MODIFY COLUMN `reason` COMMENT 'closed set: size, subject, version, decode, range, future, past, available';

ALTER TABLE quarantine
    MODIFY COMMENT 'Messages, or parts of messages, that could not be taken at face value, kept byte for byte. Nothing here was counted as telemetry, except under reason range: there the rows were stored with the impossible values absent. A message that was published again (flopwatch quarantine retry) and taken stays here too: batches lists it then, and that counts.';
