package abandoned;

import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
import java.util.Set;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.processor.PunctuationType;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.StoreBuilder;

/**
 * Reads one partition of legs: hands on those of queues, and a mark whenever it has read what a status promises.
 *
 * <p>A status can be seen before its legs, since a transaction becomes visible partition by partition. So a mark waits until
 * this partition was read up to the status's {@code outOffsets}.
 */
final class Forwarder implements Processor<byte[], byte[], String, Fact> {
    static final Duration LOOK_INTERVAL = Duration.ofMillis(200);

    private static final String STORE = "positions";
    private static final String KEY = "position";

    private final String topic;
    private final String registry;
    private final Decoder decoder;
    private final Map<String, Fact.Mark> marked = new HashMap<>();
    private ProcessorContext<String, Fact> context;
    private Statuses statuses;
    private KeyValueStore<String, Long> positions;
    private TopicPartition partition;
    private long processed = -1;

    Forwarder(String topic, String registry) {
        this.topic = topic;
        this.registry = registry;
        this.decoder = new Decoder("call-leg.avsc", registry);
    }

    static Set<StoreBuilder<?>> stores() {
        return Set.of(Memory.store(STORE, Serdes.Long()));
    }

    @Override
    public void init(ProcessorContext<String, Fact> context) {
        // Streams may begin again with the same instance, after a transaction that failed.
        marked.clear();
        processed = -1;
        this.context = context;
        statuses = new Statuses(context, registry);
        positions = context.getStateStore(STORE);
        partition = new TopicPartition(topic, context.taskId().partition());
        Position.forget(partition);
        context.schedule(LOOK_INTERVAL, PunctuationType.WALL_CLOCK_TIME, this::mark);
    }

    @Override
    public void process(Record<byte[], byte[]> leg) {
        context.recordMetadata().ifPresent(place -> processed = place.offset());
        Fact.Leg fact = Fact.Leg.of(decoder.decode(leg.value()));
        if (fact != null) {
            context.forward(new Record<>(fact.queue(), fact, leg.timestamp()));
        }
    }

    private void mark(long now) {
        long position = position();
        for (Status status : statuses.all().values()) {
            Fact.Mark mark = new Fact.Mark(status.unit(), partition.partition(), status.completeTo());
            boolean isNew = !mark.equals(marked.get(status.unit()));
            if (isNew && status.isCoveredBy(partition.partition(), position)) {
                context.forward(new Record<>(status.unit(), mark, now));
                marked.put(status.unit(), mark);
            }
        }
    }

    /** Remembered, since after a restart nothing may come that would tell it. */
    private long position() {
        Long known = positions.get(KEY);
        long before = known == null ? 0 : known;
        long position = Math.max(before, Position.after(partition, processed));
        if (position > before) {
            positions.put(KEY, position);
        }
        return position;
    }
}
