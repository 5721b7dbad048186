package abandoned;

import java.util.Map;
import java.util.TreeMap;
import org.apache.kafka.streams.processor.api.ProcessingContext;
import org.apache.kafka.streams.state.KeyValueIterator;
import org.apache.kafka.streams.state.TimestampedKeyValueStore;
import org.apache.kafka.streams.state.ValueAndTimestamp;

/** The newest status of each unit: the feed as a table, which every task of every instance sees whole. */
final class Statuses {
    static final String STORE = "statuses";

    private final TimestampedKeyValueStore<String, byte[]> store;
    private final Decoder decoder;

    Statuses(ProcessingContext context, String registry) {
        this.store = context.getStateStore(STORE);
        this.decoder = new Decoder("status.avsc", registry);
    }

    /** By unit, in the order of their names. */
    Map<String, Status> all() {
        Map<String, Status> found = new TreeMap<>();
        try (KeyValueIterator<String, ValueAndTimestamp<byte[]>> all = store.all()) {
            all.forEachRemaining(entry -> found.put(entry.key, Status.of(decoder.decode(entry.value.value()))));
        }
        return found;
    }
}
