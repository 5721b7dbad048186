package abandoned;

import java.io.IOException;
import java.io.Reader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.time.Instant;
import java.util.List;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.streams.StreamsConfig;

/**
 * What the command line says, as {@code key=value}. What is not one of the keys below is a property of Kafka Streams, such
 * as {@code bootstrap.servers}. {@code file} names a file of more of them, where secrets belong.
 *
 * @param topic the legs' topic
 * @param alarms where verdicts go
 * @param registry the registry's base URL; null where values are in single-object encoding
 * @param window how long a window of disconnect time is
 * @param from when the first window starts, on the first start only: a time from which every unit was read. Null: the newest
 *     time that all units are known to be read from, so that nothing is ever called quiet which nobody has read
 * @param units those that are waited for; empty: those of the feed. To be named once one of the feed is read no more
 */
record Settings(
        String topic, String alarms, String registry, Duration window, Instant from, List<String> units, Properties streams) {
    private static final String TOPIC = "call-legs";

    static Settings of(String[] arguments) throws IOException {
        Properties given = new Properties();
        for (String argument : arguments) {
            String[] parts = argument.split("=", 2);
            if (parts.length < 2) {
                throw new IllegalArgumentException("\"" + argument + "\" is not key=value");
            }
            given.put(parts[0], parts[1]);
        }
        String file = take(given, "file", null);
        if (file != null) {
            try (Reader lines = Files.newBufferedReader(Path.of(file))) {
                given.load(lines);
            }
        }
        String topic = take(given, "topic", TOPIC);
        String from = take(given, "from", null);
        return new Settings(
                topic,
                take(given, "alarms", topic + ".alarms"),
                take(given, "registry", null),
                Duration.parse(take(given, "window", "PT5M")),
                from == null ? null : Instant.parse(from),
                List.of(take(given, "units", "").split(",")).stream().filter(unit -> !unit.isEmpty()).toList(),
                streams(topic, given));
    }

    /** Each leg and each alarm once: read committed, and in transactions of its own. */
    private static Properties streams(String topic, Properties given) {
        Properties streams = new Properties();
        streams.put(StreamsConfig.APPLICATION_ID_CONFIG, topic + "-abandoned-calls");
        streams.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, "localhost:9092");
        streams.put(StreamsConfig.PROCESSING_GUARANTEE_CONFIG, StreamsConfig.EXACTLY_ONCE_V2);
        streams.put(ConsumerConfig.ISOLATION_LEVEL_CONFIG, "read_committed");
        // After a kill another start goes on when this is over.
        streams.put(ConsumerConfig.SESSION_TIMEOUT_MS_CONFIG, "10000");
        streams.putAll(given);
        String interceptors = StreamsConfig.mainConsumerPrefix(ConsumerConfig.INTERCEPTOR_CLASSES_CONFIG);
        streams.put(interceptors, Position.class.getName());
        return streams;
    }

    private static String take(Properties given, String key, String otherwise) {
        Object value = given.remove(key);
        return value == null ? otherwise : value.toString();
    }
}
