"""Raises an alarm when too many calls were abandoned in a queue, and says when it cannot know.

    pip install --requirement requirements.txt
    python alarm.py --bootstrap-servers localhost:9092 --registry http://localhost:8081 --window 300 --calls 5

Each line is a time, a word and what it is about:

    ALARM           a queue lost so many calls within the window
    over            the window has moved on, all of it was read, and it holds fewer
    unknown         a leg does not say whether its call was abandoned: it is not counted, and you are told
    blind           the API is down, refuses or shows nothing: calls may be lost that nobody sees
    unsure          legs come, but the connector does not vouch for all of them
    connector down  no status for three beats: the connector is down, or Kafka is; or it was stopped on purpose
    sees            all is well: from here on no alarm means that the phones are quiet

It counts calls, not legs. A call has many legs, and most that nobody answered mean nothing: each agent that a queue rings, each
member of a ring group and each fork is a leg of its own. So only the leg that waits in the queue counts. These fields decide:

    callee                starts with "CallQueue": the leg waited in a queue
    pbxId, calleeName     which queue
    abandoned             "Abandoned" or "-"; anything else, null too, is unknown
    parentCallId, callId  which call: a leg that was transferred or queued has a callId of its own, and its parent is the call.
                          A call that waits twice in one queue counts once, in two queues once in each
    disconnectedTimeUTC   when: the window slides over this time, not over the time at which legs arrive

A restart forgets what was said, and says it again. It forgets no call: legs are read again from a window before the time up to
which all is final (finalTo), a day back at most. Not counted are legs that the connector finds later than that (ingest.late).
A PBX that was taken out of source.pbx_ids is said to be down: its last status stays in the topic.
"""

import argparse
import time
from collections import defaultdict
from datetime import datetime, timedelta, timezone

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer

SEES = {"ok", "catching_up"}
BLIND = {"source_unreachable", "source_auth", "source_rate_limited", "source_empty"}
DAY = timedelta(days=1)


def now():
    return datetime.now(timezone.utc)


def text(instant):
    return instant.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def say(word, what):
    print(text(now()), word, what, flush=True)


class Queues:
    """The calls of each queue, as far as windows need them."""

    def __init__(self, window, calls):
        self.window, self.calls = window, calls
        self.legs = defaultdict(dict)  # queue -> (call, callId, legId) -> when the abandoned leg ended
        self.alarmed = set()

    def add(self, leg):
        if not (leg["callee"] or "").startswith("CallQueue"):
            return
        queue = f"{leg['pbxId'] or 'unknown PBX'}: {leg['calleeName'] or leg['callee']}"
        key = (leg["parentCallId"] or leg["callId"], leg["callId"], leg["legId"])
        # A leg may come again, changed (ingest.revision): its last word counts.
        self.legs[queue].pop(key, None)
        ended = leg["disconnectedTimeUTC"]
        if leg["abandoned"] == "Abandoned":
            self.legs[queue][key] = ended
            self.judge(queue, ended)
        elif leg["abandoned"] != "-":
            say("unknown", f"{queue}: call {key[0]}, leg {key[1]}/{key[2]} has abandoned = {leg['abandoned']!r}")

    def lost(self, queue):
        """When each abandoned call left the queue: the first of its legs that says so."""
        calls = {}
        for (call, _, _), ended in self.legs[queue].items():
            calls[call] = min(ended, calls.get(call, ended))
        return sorted(calls.values())

    def judge(self, queue, ended):
        """Looks at every window with the new leg in it, since legs do not come in the order of their times."""
        lost = self.lost(queue)
        for first, last in zip(lost, lost[self.calls - 1 :]):
            if queue not in self.alarmed and first <= ended <= last < first + self.window:
                self.alarmed.add(queue)
                say("ALARM", f"{queue}: {self.calls} calls abandoned from {text(first)} to {text(last)}")

    def read(self, to):
        """Everything that ended before `to` was read."""
        since = to - self.window
        for queue in sorted(self.alarmed):
            lost = sum(ended >= since for ended in self.lost(queue))
            if lost < self.calls:
                self.alarmed.remove(queue)
                say("over", f"{queue}: {lost} calls abandoned since {text(since)}")

    def forget(self, before):
        for queue, legs in self.legs.items():
            self.legs[queue] = {key: ended for key, ended in legs.items() if ended >= before}


class Units:
    """The newest status of each unit: a PBX, or a group of them, that the connector polls by itself."""

    def __init__(self):
        self.newest, self.said = {}, {}

    def look(self):
        for unit, status in self.newest.items():
            word, why = self.verdict(status)
            if word and self.said.get(unit) != (word, why):
                self.said[unit] = (word, why)
                say(word, f"{unit}: {why}, all is read to {text(status['completeTo'])}")

    @staticmethod
    def verdict(status):
        state, beat = status["state"], timedelta(milliseconds=status["nextBeatMs"])
        if state == "stopped":
            return "connector down", "stopped on purpose"
        if now() - status["at"] > 3 * beat:
            return "connector down", f"no status since {text(status['at'])}"
        if state in SEES:
            return "sees", "ok"
        if state == "starting":
            return None, None  # Nobody knows yet: what was said last still holds.
        return ("blind" if state in BLIND else "unsure"), state

    def live(self):
        """Those that the connector still reads, if any: one that is silent beside others was taken out of its configuration."""
        return [status for status in self.newest.values() if self.verdict(status)[0] != "connector down"]

    def final_to(self):
        final_to = min((status["finalTo"] for status in self.live() or self.newest.values()), default=now())
        return max(final_to, now() - DAY)


class Alarm:
    def __init__(self, options):
        self.queues, self.units = Queues(timedelta(seconds=options.window), options.calls), Units()
        self.topic, self.feed = options.topic, options.topic + ".status"
        self.value = AvroDeserializer(SchemaRegistryClient({"url": options.registry}))
        self.position = {}  # partition of legs -> the offset up to which it was read
        # TLS and passwords go here, under librdkafka's names. There is no need for isolation.level: read_committed is the default
        # of librdkafka (not of Java). Nor for zstd, with which the connector compresses: it is built in.
        self.consumer = Consumer({
            "bootstrap.servers": options.bootstrap_servers,
            "group.id": "alarm",  # Asked for, and not used: partitions are assigned, nothing is committed.
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        })

    def run(self):
        # Statuses first, since they say from where on legs are needed.
        feed = [TopicPartition(self.feed, number, OFFSET_BEGINNING) for number in self.partitions(self.feed)]
        self.consumer.assign(feed)
        ends = 0
        while ends < len(feed):
            message = self.consumer.poll(1)
            ends += message is not None and self.is_end(message)
            self.take(message)
        self.consumer.incremental_assign(self.places())
        while True:
            message = self.consumer.poll(0.5)
            self.take(message)
            if message is None or message.error() or message.topic() == self.feed:
                self.look()

    def partitions(self, topic):
        """The connector makes its topics at its first start."""
        while topic not in (topics := self.consumer.list_topics(timeout=30).topics):
            say("connector down", f"there is no topic {topic} yet")
            time.sleep(5)
        return topics[topic].partitions

    def places(self):
        """Where to begin in each partition of legs: no earlier record has a later timestamp."""
        numbers = self.partitions(self.topic)
        since = int((self.units.final_to() - self.queues.window).timestamp() * 1000)
        for number in numbers:
            self.position[number] = self.consumer.get_watermark_offsets(TopicPartition(self.topic, number), timeout=30)[1]
        asked = [TopicPartition(self.topic, number, since) for number in numbers]
        for place in self.consumer.offsets_for_times(asked, timeout=30):
            if place.offset >= 0:  # Else none is so young, and the end as it was before is the place.
                self.position[place.partition] = place.offset
        return [TopicPartition(self.topic, number, offset) for number, offset in self.position.items()]

    @staticmethod
    def is_end(message):
        return message.error() is not None and message.error().code() == KafkaError._PARTITION_EOF

    def take(self, message):
        if message is None or self.is_end(message):
            return
        if message.error():
            raise KafkaException(message.error())
        value = self.value(message.value(), None)
        if message.topic() == self.feed:
            self.units.newest[value["unit"]] = value
        else:
            self.position[message.partition()] = message.offset() + 1
            self.queues.add(value)

    def look(self):
        self.units.look()
        live = self.units.live()
        # A status can be seen before its legs: each partition has to be read as far as the status says.
        ends = [end for status in live for end in status["outOffsets"] if end["topic"] == "legs"]
        if live and all(self.position.get(end["partition"], 0) >= end["offset"] for end in ends):
            self.queues.read(min(status["completeTo"] for status in live))
        self.queues.forget(self.units.final_to() - self.queues.window)


def main():
    parser = argparse.ArgumentParser(description="Raises an alarm when too many calls were abandoned in a queue.")
    parser.add_argument("--bootstrap-servers", default="localhost:9092", help="Kafka")
    parser.add_argument("--registry", default="http://localhost:8081", help="the schema registry's base URL")
    parser.add_argument("--topic", default="call-legs", help="the topic of legs (kafka.topic)")
    parser.add_argument("--window", type=float, default=300, help="its length in seconds")
    parser.add_argument("--calls", type=int, default=5, help="how many abandoned calls within the window are too many")
    Alarm(parser.parse_args()).run()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
