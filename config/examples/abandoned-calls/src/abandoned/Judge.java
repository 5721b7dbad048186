package abandoned;

import java.time.Duration;
import java.time.Instant;
import java.util.Collection;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.processor.PunctuationType;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.StoreBuilder;

/**
 * Gives each window of disconnect time its verdict, oldest first.
 *
 * <pre>
 *               judged           judgedTo   read, least mark     now
 *   ├──────┬──────┬──────┬──────┤──────┬──·······················│
 *     2 calls  none   none  1 call     waits: never judged by a clock
 * </pre>
 *
 * <p>A window is judged once the least mark of all units and partitions is at or beyond its end. What is found of it later
 * gives a correction. The clock serves only to say why a window is not judged yet, and which unit's connector fell silent.
 */
final class Judge implements Processor<String, Fact, String, String> {
    private static final String MARKS = "marks";
    private static final String NOTES = "notes";
    private static final String JUDGED_FROM = "judged from";
    private static final String JUDGED_TO = "judged to";
    private static final String NOT_KNOWN = "not known to";
    private static final String SAID = "said of ";
    private static final long NOWHERE = Long.MIN_VALUE;
    /** As far back as the connector's longest sweep looks: no leg found late is older. */
    private static final long KEPT_MS = Duration.ofDays(8).toMillis();

    private final Settings settings;
    private final long windowMs;
    private final int partitions;
    private ProcessorContext<String, String> context;
    private Statuses statuses;
    private Counts counts;
    private KeyValueStore<String, Long> marks;
    private KeyValueStore<String, String> notes;

    Judge(Settings settings, int partitions) {
        this.settings = settings;
        this.windowMs = settings.window().toMillis();
        this.partitions = partitions;
    }

    static Set<StoreBuilder<?>> stores() {
        Set<StoreBuilder<?>> stores = new HashSet<>(Counts.stores());
        stores.add(Memory.store(MARKS, Serdes.Long()));
        stores.add(Memory.store(NOTES, Serdes.String()));
        return stores;
    }

    @Override
    public void init(ProcessorContext<String, String> context) {
        this.context = context;
        statuses = new Statuses(context, settings.registry());
        counts = new Counts(context, windowMs);
        marks = context.getStateStore(MARKS);
        notes = context.getStateStore(NOTES);
        context.schedule(Forwarder.LOOK_INTERVAL, PunctuationType.WALL_CLOCK_TIME, this::look);
    }

    @Override
    public void process(Record<String, Fact> record) {
        if (record.value() instanceof Fact.Mark mark) {
            marks.put(markKey(mark.unit(), mark.partition()), mark.completeTo());
        } else if (record.value() instanceof Fact.Leg leg) {
            add(leg);
        }
    }

    private void add(Fact.Leg leg) {
        Long judgedTo = note(JUDGED_TO);
        if (judgedTo != null && leg.disconnected() < judgedTo - KEPT_MS) {
            return;
        }
        for (Counts.Change change : counts.add(leg)) {
            boolean isJudged = isBefore(change.window(), judgedTo) && !isBefore(change.window(), note(JUDGED_FROM));
            if (isJudged) {
                Map<String, Long> more = Map.of("calls", change.calls(), "before", change.before());
                say(change.queue(), "corrected", change.window(), more);
            }
        }
    }

    private void look(long now) {
        Map<String, Status> feed = statuses.all();
        feed.values().forEach(status -> tellChange(status, now));
        Collection<String> units = settings.units().isEmpty() ? feed.keySet() : settings.units();
        long readTo = units.stream().mapToLong(this::readTo).min().orElse(NOWHERE);
        if (readTo != NOWHERE) {
            judge(units, readTo);
        }
        tellUnknown(units, feed, now);
    }

    /** Up to where every partition was read for a unit. */
    private long readTo(String unit) {
        long least = Long.MAX_VALUE;
        for (int partition = 0; partition < partitions; partition++) {
            Long mark = marks.get(markKey(unit, partition));
            least = Math.min(least, mark == null ? NOWHERE : mark);
        }
        return least;
    }

    /** Where nobody says where to begin: where every unit is known to be read from then on. */
    private void begin(Collection<String> units) {
        long known = units.stream().mapToLong(this::readTo).max().orElse(NOWHERE);
        long from = settings.from() == null ? known : settings.from().toEpochMilli();
        long first = Math.floorDiv(from + windowMs - 1, windowMs) * windowMs;
        note(JUDGED_FROM, first);
        note(JUDGED_TO, first);
    }

    private void judge(Collection<String> units, long readTo) {
        if (note(JUDGED_TO) == null) {
            begin(units);
        }
        long judgedTo = note(JUDGED_TO);
        long window = judgedTo;
        for (; window + windowMs <= readTo; window += windowMs) {
            Map<String, Long> queues = counts.of(window);
            if (queues.isEmpty()) {
                say("", "none", window, Map.of());
            }
            for (Map.Entry<String, Long> queue : queues.entrySet()) {
                say(queue.getKey(), "abandoned", window, Map.of("calls", queue.getValue()));
            }
        }
        if (window > judgedTo) {
            note(JUDGED_TO, window);
            counts.forget(window - KEPT_MS);
        }
    }

    /** Says of the newest window that should be judged by now why it is not; once a window. */
    private void tellUnknown(Collection<String> units, Map<String, Status> feed, long now) {
        long window = Math.floorDiv(now, windowMs) * windowMs - 2 * windowMs;
        boolean isJudged = isBefore(window, note(JUDGED_TO));
        boolean isTold = isBefore(window, note(NOT_KNOWN));
        if (isJudged || isTold) {
            return;
        }
        Map<String, String> because = new LinkedHashMap<>();
        for (String unit : units) {
            Status status = feed.get(unit);
            String fares = status == null ? "no status" : status.says(now) + " (" + status.state() + ")";
            long readTo = readTo(unit);
            because.put(unit, fares + (readTo == NOWHERE ? ", nothing read" : ", read to " + time(readTo)));
        }
        say("", "not known yet", window, Map.of("because", because));
        note(NOT_KNOWN, window + windowMs);
    }

    private static boolean isBefore(long window, Long end) {
        return end != null && window < end;
    }

    /** Says how a unit fares whenever that changes. A start alone changes nothing: no poll has ended yet. */
    private void tellChange(Status status, long now) {
        String says = status.says(now);
        String before = notes.get(SAID + status.unit());
        if (says.equals(before) || says.equals("starting")) {
            return;
        }
        boolean isBack = says.equals("sees") && before != null;
        Map<String, Object> line = new LinkedHashMap<>();
        line.put("verdict", isBack ? "sees again" : says);
        line.put("unit", status.unit());
        line.put("state", status.state());
        line.put("at", time(now));
        say(status.unit(), line);
        notes.put(SAID + status.unit(), says);
    }

    private void say(String queue, String verdict, long window, Map<String, ?> more) {
        Map<String, Object> line = new LinkedHashMap<>();
        line.put("verdict", verdict);
        if (!queue.isEmpty()) {
            line.put("queue", queue);
        }
        line.put("from", time(window));
        line.put("to", time(window + windowMs));
        line.putAll(new TreeMap<>(more));
        say(queue, line);
    }

    private void say(String key, Map<String, Object> line) {
        context.forward(new Record<>(key, Json.text(line), context.currentSystemTimeMs()));
    }

    private static String markKey(String unit, int partition) {
        return partition + "|" + unit;
    }

    private static String time(long millis) {
        return Instant.ofEpochMilli(millis).toString();
    }

    private Long note(String name) {
        String value = notes.get(name);
        return value == null ? null : Long.valueOf(value);
    }

    private void note(String name, long value) {
        notes.put(name, Long.toString(value));
    }
}
