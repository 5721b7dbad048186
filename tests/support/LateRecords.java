import java.time.Duration;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.common.Metric;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.TimeWindows;
import org.apache.kafka.streams.state.Stores;

/**
 * How many of a topic's first records come too late for a Kafka Streams job that counts by key in windows of five minutes, with a
 * minute of grace: Streams drops these.
 *
 * Prints "late N"; ends with 1 when not so many records come in time.
 */
public final class LateRecords {
    public static void main(String[] arguments) throws Exception {
        String bootstrap = arguments[0], topic = arguments[1], state = arguments[2];
        double records = Double.parseDouble(arguments[3]);
        long endsAt = System.currentTimeMillis() + 1_000 * Long.parseLong(arguments[4]);
        Properties settings = new Properties();
        settings.put(StreamsConfig.APPLICATION_ID_CONFIG, "late-" + topic);
        settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, bootstrap);
        settings.put(StreamsConfig.STATE_DIR_CONFIG, state);
        settings.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1);
        settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
        settings.put(StreamsConfig.METRICS_RECORDING_LEVEL_CONFIG, "DEBUG");
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.ISOLATION_LEVEL_CONFIG), "read_committed");
        settings.put(StreamsConfig.consumerPrefix(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG), "earliest");
        Duration window = Duration.ofMinutes(5);
        Duration grace = Duration.ofMinutes(1);
        StreamsBuilder builder = new StreamsBuilder();
        builder.stream(topic, Consumed.with(Serdes.Bytes(), Serdes.Bytes()))
                .groupByKey()
                .windowedBy(TimeWindows.ofSizeAndGrace(window, grace))
                .count(Materialized.<Bytes, Long>as(Stores.inMemoryWindowStore("counts", window.plus(grace), window, false))
                        .withLoggingDisabled());
        try (KafkaStreams streams = new KafkaStreams(builder.build(), settings)) {
            streams.start();
            while (sum(streams, "process-total", "KSTREAM-SOURCE") < records) {
                if (System.currentTimeMillis() > endsAt) {
                    System.err.println("only " + sum(streams, "process-total", "KSTREAM-SOURCE") + " records came");
                    System.exit(1);
                }
                Thread.sleep(100);
            }
            System.out.println("late " + (long) sum(streams, "dropped-records-total", ""));
        }
    }

    private static double sum(KafkaStreams streams, String name, String node) {
        double sum = 0;
        for (Metric metric : streams.metrics().values()) {
            String of = metric.metricName().tags().getOrDefault("processor-node-id", "");
            if (metric.metricName().name().equals(name) && of.startsWith(node) && metric.metricValue() instanceof Double value) {
                sum += value;
            }
        }
        return sum;
    }
}
