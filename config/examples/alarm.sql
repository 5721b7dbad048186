-- Flink SQL: the queues in which so many calls were abandoned within five minutes. A row for each such window, once it is over.
--
-- Flink 2.2 needs two jars of Maven Central in its lib/:
--     org.apache.flink:flink-sql-connector-kafka:5.0.0-2.2
--     org.apache.flink:flink-sql-avro-confluent-registry:2.2.0
-- Then: bin/sql-client.sh -f alarm.sql
--
-- It is about calls, not legs; alarm.py says by which fields. Here, too, an unknown counts neither way, and has a column of its own.
-- What it cannot say is whether nothing happened or nobody looked: that is in the topic call-legs.status.

-- Each TIMESTAMP is UTC: that is what this format makes of Avro's instants. TIMESTAMP_LTZ is refused.
CREATE TABLE legs (
    callId STRING NOT NULL,
    legId STRING NOT NULL,
    startTimeUTC TIMESTAMP(3),
    startTime STRING,
    connectTimeUTC TIMESTAMP(3),
    connectTime STRING,
    disconnectedTimeUTC TIMESTAMP(3) NOT NULL,
    disconnectedTime STRING,
    talkTimeMS BIGINT,
    talkTime STRING,
    caller STRING,
    callerName STRING,
    callee STRING,
    calleeName STRING,
    lra STRING,
    direction STRING,
    parentCallId STRING,
    transferToCallId STRING,
    dnis STRING,
    status STRING,
    callerDeviceId STRING,
    calleeDeviceId STRING,
    callerDeviceModel STRING,
    calleeDeviceModel STRING,
    callerId STRING,
    missed STRING,
    abandoned STRING,
    answered STRING,
    cause STRING,
    callerSvcName STRING,
    callerSvcType STRING,
    calleeSvcName STRING,
    calleeSvcType STRING,
    lraType BIGINT,
    calleeHoldDurationMS BIGINT,
    calleeHoldDuration STRING,
    calleeDisconnectOnHold STRING,
    callerDisconnectOnHold STRING,
    pbxId STRING,
    sipCallId STRING,
    departments ARRAY<STRING>,
    branches ARRAY<STRING>,
    recordServiceOn STRING,
    bargeServiceOn STRING,
    masterSlaveExts STRING,
    propsLastPartyDisp STRING,
    accountCode STRING,
    aaPath STRING,
    callTime BIGINT,
    extra MAP<STRING, STRING> NOT NULL,
    ingest ROW<`firstSeenAt` TIMESTAMP(3), `how` STRING, `late` BOOLEAN, `revision` INT, `windowStart` TIMESTAMP(3), `windowEnd` TIMESTAMP(3)> NOT NULL,
    -- How long a window waits for legs that are behind: orderWithinMs of the status topic, call_legs_order_within_seconds of
    -- /metrics (poll.overlap, poll.settle and two poll.interval; 35 minutes by default). With it Flink drops no leg but those with
    -- ingest.late. With less, a verdict comes sooner, and legs that lie further behind are dropped without a word:
    -- call_legs_leg_behind_seconds says how many.
    WATERMARK FOR disconnectedTimeUTC AS disconnectedTimeUTC - INTERVAL '35' MINUTE
) WITH (
    'connector' = 'kafka',
    'topic' = 'call-legs',
    'properties.bootstrap.servers' = 'localhost:9092',
    -- Java's clients read uncommitted records unless told: those of transactions that never came to be, and legs twice.
    'properties.isolation.level' = 'read_committed',
    'scan.startup.mode' = 'earliest-offset',
    -- A partition without legs holds up the others for so long. When all are quiet, the next leg ends the last window.
    'scan.watermark.idle-timeout' = '60 s',
    'format' = 'avro-confluent',
    'avro-confluent.url' = 'http://localhost:8081'
);

-- The legs that waited in a queue. A leg that was transferred or queued has a callId of its own, and its parent is the call.
CREATE TEMPORARY VIEW queue_legs AS
SELECT
    disconnectedTimeUTC,
    pbxId,
    COALESCE(NULLIF(calleeName, ''), callee) AS queue,
    COALESCE(NULLIF(parentCallId, ''), callId) AS call_id,
    abandoned = 'Abandoned' AS is_abandoned,
    abandoned IS NULL OR abandoned NOT IN ('Abandoned', '-') AS is_unknown
FROM legs
WHERE callee LIKE 'CallQueue%';

SELECT
    window_start,
    window_end,
    pbxId,
    queue,
    COUNT(DISTINCT call_id) FILTER (WHERE is_abandoned) AS abandoned_calls,
    COUNT(DISTINCT call_id) FILTER (WHERE is_unknown) AS unknown_calls
FROM HOP(TABLE queue_legs, DESCRIPTOR(disconnectedTimeUTC), INTERVAL '1' MINUTE, INTERVAL '5' MINUTE)
GROUP BY window_start, window_end, pbxId, queue
HAVING COUNT(DISTINCT call_id) FILTER (WHERE is_abandoned) >= 5;
