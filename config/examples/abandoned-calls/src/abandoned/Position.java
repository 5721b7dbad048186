package abandoned;

import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.kafka.clients.consumer.ConsumerInterceptor;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.common.TopicPartition;

/**
 * How far a partition was read, the ends of transactions and what was never committed included: a processor of Streams
 * sees records alone, so it would wait for ever for an offset behind the last of them.
 *
 * <pre>
 *   leg 7 │ leg 8 │ end of transaction 9 │        after leg 8 was processed: 10, not 9
 * </pre>
 */
public final class Position implements ConsumerInterceptor<byte[], byte[]> {
    /** What the consumer has handed out: the last record's offset, and where it reads on. */
    private record Fetched(long last, long next) {}

    private static final Map<TopicPartition, Fetched> FETCHED = new ConcurrentHashMap<>();
    private static final long NONE = -1;

    /** To be called before a task's first record: what an earlier one of this process has fetched may come again. */
    static void forget(TopicPartition partition) {
        FETCHED.remove(partition);
    }

    /** Up to where all was processed, if the last record was the one at {@code processed}; each is -1 when there is none. */
    static long after(TopicPartition partition, long processed) {
        Fetched fetched = FETCHED.get(partition);
        boolean isAllProcessed = fetched != null && processed >= fetched.last;
        if (isAllProcessed) {
            return fetched.next;
        }
        return processed == NONE ? NONE : processed + 1;
    }

    @Override
    public ConsumerRecords<byte[], byte[]> onConsume(ConsumerRecords<byte[], byte[]> records) {
        records.nextOffsets().forEach((partition, next) -> {
            List<ConsumerRecord<byte[], byte[]>> some = records.records(partition);
            Fetched before = FETCHED.getOrDefault(partition, new Fetched(NONE, NONE));
            long last = some.isEmpty() ? before.last : some.get(some.size() - 1).offset();
            FETCHED.put(partition, new Fetched(last, next.offset()));
        });
        return records;
    }

    @Override
    public void onCommit(Map<TopicPartition, OffsetAndMetadata> offsets) {}

    @Override
    public void close() {}

    @Override
    public void configure(Map<String, ?> configs) {}
}
