package abandoned;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.processor.api.ProcessingContext;
import org.apache.kafka.streams.state.KeyValueIterator;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.StoreBuilder;

/**
 * How many calls were abandoned in each queue and window.
 *
 * <p>A call counts once a queue, in the window of its first leg that says so. Legs may come in any order, more than once,
 * and changed: the last word on each of them counts.
 */
final class Counts {
    private static final String CALLS = "calls";
    private static final String COUNTS = "counts";
    /** The window, as a text in the order of time, and the queue. */
    private static final String KEY = "%013d|%s";

    /** The abandoned legs of a call in a queue: when each was disconnected. */
    record Call(Map<String, Long> legs) {
        Call with(Fact.Leg leg) {
            Map<String, Long> changed = new HashMap<>(legs);
            if (leg.abandoned()) {
                changed.put(leg.leg(), leg.disconnected());
            } else {
                changed.remove(leg.leg());
            }
            return new Call(changed);
        }

        /** Null when it was not abandoned. */
        Long abandoned() {
            return legs.values().stream().min(Long::compare).orElse(null);
        }
    }

    /** A window's new count of a queue. */
    record Change(long window, String queue, long before, long calls) {}

    private final long windowMs;
    private final KeyValueStore<String, Call> calls;
    private final KeyValueStore<String, Long> counts;

    Counts(ProcessingContext context, long windowMs) {
        this.windowMs = windowMs;
        calls = context.getStateStore(CALLS);
        counts = context.getStateStore(COUNTS);
    }

    static Set<StoreBuilder<?>> stores() {
        return Set.of(Memory.store(CALLS, Json.serde(Call.class)), Memory.store(COUNTS, Serdes.Long()));
    }

    /** What a leg changes: nothing, one window's count, or two if the call moves from one to the other. */
    List<Change> add(Fact.Leg leg) {
        String key = leg.queue() + "|" + leg.call();
        Call known = calls.get(key);
        Call before = known == null ? new Call(Map.of()) : known;
        Call after = before.with(leg);
        if (after.equals(before)) {
            return List.of();
        }
        calls.put(key, after.legs().isEmpty() ? null : after);
        Long from = windowOf(before);
        Long to = windowOf(after);
        List<Change> changes = new ArrayList<>();
        if (from != null && !from.equals(to)) {
            changes.add(change(from, leg.queue(), -1));
        }
        if (to != null && !to.equals(from)) {
            changes.add(change(to, leg.queue(), 1));
        }
        return changes;
    }

    /** The queues of the window that starts at {@code window}, by name, each with its abandoned calls. */
    Map<String, Long> of(long window) {
        Map<String, Long> found = new TreeMap<>();
        String from = KEY.formatted(window, "");
        String to = KEY.formatted(window + 1, "");
        try (KeyValueIterator<String, Long> range = counts.range(from, to)) {
            range.forEachRemaining(entry -> found.put(entry.key.substring(entry.key.indexOf('|') + 1), entry.value));
        }
        return found;
    }

    /** Forgets what ended before {@code floor}. */
    void forget(long floor) {
        List<String> old = new ArrayList<>();
        try (KeyValueIterator<String, Call> all = calls.all()) {
            all.forEachRemaining(entry -> {
                if (entry.value.legs().values().stream().allMatch(disconnected -> disconnected < floor)) {
                    old.add(entry.key);
                }
            });
        }
        old.forEach(calls::delete);
        List<String> closed = new ArrayList<>();
        try (KeyValueIterator<String, Long> range = counts.range(null, KEY.formatted(floor - windowMs, ""))) {
            range.forEachRemaining(entry -> closed.add(entry.key));
        }
        closed.forEach(counts::delete);
    }

    private Long windowOf(Call call) {
        Long abandoned = call.abandoned();
        return abandoned == null ? null : Math.floorDiv(abandoned, windowMs) * windowMs;
    }

    private Change change(long window, String queue, long by) {
        String key = KEY.formatted(window, queue);
        Long known = counts.get(key);
        long before = known == null ? 0 : known;
        counts.put(key, before + by == 0 ? null : before + by);
        return new Change(window, queue, before, before + by);
    }
}
