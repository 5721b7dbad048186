"""Spark Structured Streaming: the queues in which so many calls were abandoned within five minutes, each window once it is over.

    pip install pyspark==4.2.0
    python spark.py --bootstrap-servers localhost:9092 --registry http://localhost:8081 --order-within 2100

It needs Java 17 or later; its two packages come from Maven Central at the start. It is about calls, not legs; alarm.py says by which
fields. Here, too, an unknown counts neither way, and is told beside. What it cannot say is whether nothing happened or nobody looked:
that is in the topic call-legs.status.

A restart reads the topic from its beginning, unless --checkpoint names a directory that lasts.
"""

import argparse
import json
import urllib.request

from pyspark.sql import SparkSession
from pyspark.sql.avro.functions import from_avro
from pyspark.sql.functions import coalesce, col, collect_set, date_format, expr, lit, size, when, window

PACKAGES = "org.apache.spark:spark-sql-kafka-0-10_2.13:4.2.0,org.apache.spark:spark-avro_2.13:4.2.0"


def schema(registry, topic):
    """The newest schema of the topic's values. Spark decodes all of them with this one: start it again after an upgrade of call-legs."""
    with urllib.request.urlopen(f"{registry}/subjects/{topic}-value/versions/latest") as answer:
        return json.load(answer)["schema"]


def tell(rows, _):
    # As texts, in the session's zone: collected instants would be in this machine's.
    times = [date_format(f"window.{name}", "yyyy-MM-dd'T'HH:mm:ss'Z'").alias(name) for name in ("start", "end")]
    for row in rows.select("*", *times).orderBy("window", "queue").collect():
        unknown = f", {row.unknown} more are unknown" if row.unknown else ""
        print(f"ALARM {row.pbxId}: {row.queue}: {row.abandoned} calls abandoned from {row.start} to {row.end}{unknown}", flush=True)


def main():
    parser = argparse.ArgumentParser(description="Says in which queues too many calls were abandoned.")
    parser.add_argument("--bootstrap-servers", default="localhost:9092", help="Kafka")
    parser.add_argument("--registry", default="http://localhost:8081", help="the schema registry's base URL")
    parser.add_argument("--topic", default="call-legs", help="the topic of legs (kafka.topic)")
    parser.add_argument("--calls", type=int, default=5, help="how many abandoned calls within the window are too many")
    # With less a verdict comes sooner, and legs that lie further behind are dropped without a word.
    parser.add_argument("--order-within", type=float, default=2100, help="seconds that a window waits for legs that are behind: "
                        "call_legs_order_within_seconds of /metrics, orderWithinMs of the status topic. Dropped are ingest.late ones only")
    parser.add_argument("--checkpoint", help="a directory for what was read and counted")
    options = parser.parse_args()

    builder = SparkSession.builder.appName("call-legs alarm").config("spark.jars.packages", PACKAGES)
    # By default Spark cuts its state into 200 parts, which is far too many for this.
    spark = builder.config("spark.sql.session.timeZone", "UTC").config("spark.sql.shuffle.partitions", 2).getOrCreate()
    records = (
        spark.readStream.format("kafka")
        .option("kafka.bootstrap.servers", options.bootstrap_servers)
        # Java's clients read uncommitted records unless told: those of transactions that never came to be, and legs twice.
        .option("kafka.isolation.level", "read_committed")
        .option("subscribe", options.topic)
        .option("startingOffsets", "earliest")
        .load()
    )
    # Before the Avro record: a zero byte and the schema's id in 4 bytes.
    legs = records.select(from_avro(expr("substring(value, 6)"), schema(options.registry, options.topic)).alias("leg")).select("leg.*")
    waited = legs.where(col("callee").startswith("CallQueue"))
    call = coalesce(when(col("parentCallId") != "", col("parentCallId")), col("callId"))
    said = coalesce(col("abandoned"), lit(""))
    counts = (
        waited.withWatermark("disconnectedTimeUTC", f"{options.order_within} seconds")
        .groupBy(
            window("disconnectedTimeUTC", "5 minutes", "1 minute"),
            "pbxId",
            coalesce(when(col("calleeName") != "", col("calleeName")), col("callee")).alias("queue"),
        )
        .agg(
            size(collect_set(when(said == "Abandoned", call))).alias("abandoned"),
            size(collect_set(when(~said.isin("Abandoned", "-"), call))).alias("unknown"),
        )
        .where(col("abandoned") >= options.calls)
    )
    query = counts.writeStream.outputMode("append").foreachBatch(tell).trigger(processingTime="1 second")
    if options.checkpoint:
        query = query.option("checkpointLocation", options.checkpoint)
    query.start().awaitTermination()


if __name__ == "__main__":
    main()
