-- Parties as the identity room hands them over: sealed. No column here holds a name in clear.

CREATE TABLE IF NOT EXISTS parties
(
    `party_id`     String COMMENT 'id of the party in the provider\'s register' CODEC(ZSTD(1)),
    `version`      UInt64 COMMENT 'version of the party, rising' CODEC(ZSTD(1)),
    `envelope`     String COMMENT 'the sealed record (age); empty after shredding' CODEC(ZSTD(1)),
    `status`       LowCardinality(String) COMMENT 'verified, unverified or refused' CODEC(ZSTD(1)),
    `kind`         LowCardinality(String) COMMENT 'individual, entity or empty' CODEC(ZSTD(1)),
    `us_person`    Nullable(Bool) COMMENT 'U.S. person; NULL: not known' CODEC(ZSTD(1)),
    `countries`    Array(LowCardinality(String)) COMMENT 'countries of residence, formation, headquarters and access (ISO 3166-1)' CODEC(ZSTD(1)),
    `edges`        String COMMENT 'ownership edges, parents and resellers by party id, JSON' CODEC(ZSTD(1)),
    `verified_ms`  Nullable(Int64) COMMENT 'when it was verified; NULL: it was not' CODEC(ZSTD(1)),
    `available_ms` Int64 COMMENT 'Unix ms from which this version was known' CODEC(ZSTD(1)),
    `inserted_at`  DateTime64(3) DEFAULT now64(3) COMMENT 'wall time of the insert' CODEC(ZSTD(1))
)
ENGINE = {{replacing ""}}
ORDER BY (party_id, version)
SETTINGS {{settings}}
COMMENT 'Persons and entities of the identification program, sealed, all versions.';

CREATE TABLE IF NOT EXISTS party_accounts
(
    `account`      LowCardinality(String) COMMENT 'customer account' CODEC(ZSTD(1)),
    `party_id`     String COMMENT 'party that holds it' CODEC(ZSTD(1)),
    `version`      UInt64 COMMENT 'version, rising: the highest holds' CODEC(ZSTD(1)),
    `removed`      Bool COMMENT 'the party holds it no longer' CODEC(ZSTD(1)),
    `available_ms` Int64 COMMENT 'Unix ms from which this was known' CODEC(ZSTD(1)),
    `inserted_at`  DateTime64(3) DEFAULT now64(3) COMMENT 'wall time of the insert' CODEC(ZSTD(1))
)
ENGINE = {{replacing ""}}
ORDER BY (account, party_id, version)
SETTINGS {{settings}}
COMMENT 'Which party holds which account, all versions.';
