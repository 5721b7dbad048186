package abandoned;

import java.time.Duration;
import java.time.Instant;
import java.util.List;
import java.util.Optional;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutionException;
import java.util.function.Supplier;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.common.errors.UnknownTopicOrPartitionException;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler.StreamThreadExceptionResponse;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Materialized;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.kstream.Repartitioned;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorSupplier;
import org.apache.kafka.streams.state.StoreBuilder;
import org.apache.kafka.streams.state.Stores;

/**
 * Says how many calls were abandoned in each queue, window by window of disconnect time; or why that is not known yet.
 *
 * <pre>
 *   call-legs, partition 0 ─▶ Forwarder ─┐  legs of queues,
 *   call-legs, partition 1 ─▶ Forwarder ─┼─ and marks ─▶ one partition ─▶ Judge ─▶ call-legs.alarms ─▶ standard output
 *   call-legs, partition 2 ─▶ Forwarder ─┘                                  ▲
 *                                 ▲                                         │
 *   call-legs.status ─────────────┴──────────── Statuses ───────────────────┘
 * </pre>
 */
public final class AbandonedCalls {
    private static final Duration TOPIC_LOOK_INTERVAL = Duration.ofMillis(500);

    private AbandonedCalls() {}

    public static void main(String[] arguments) throws Exception {
        Settings settings = Settings.of(arguments);
        int partitions = prepareTopics(settings);
        System.err.println(firstVerdict(settings, Instant.now()));
        KafkaStreams streams = new KafkaStreams(topology(settings, partitions), settings.streams());
        CountDownLatch failed = new CountDownLatch(1);
        streams.setUncaughtExceptionHandler(exception -> {
            exception.printStackTrace();
            failed.countDown();
            return StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
        Runtime.getRuntime().addShutdownHook(new Thread(streams::close));
        streams.start();
        failed.await();
        System.exit(1);
    }

    /** What one waits for after a first start. */
    private static String firstVerdict(Settings settings, Instant now) {
        long windowMs = settings.window().toMillis();
        Instant from = settings.from() == null ? now : settings.from();
        long begins = Math.floorDiv(from.toEpochMilli() + windowMs - 1, windowMs) * windowMs;
        return "On a first start the first verdict is of the window from %s%s. It comes when the window is over at %s and every"
                        .formatted(
                                Instant.ofEpochMilli(begins),
                                settings.from() == null ? " or an earlier one" : "",
                                Instant.ofEpochMilli(begins + windowMs))
                + " unit is read to its end, which is poll.settle and up to a poll.interval later."
                + " This example is for exact windows and their corrections; config/examples/alarm.py raises an alarm at once.";
    }

    static Topology topology(Settings settings, int partitions) {
        StreamsBuilder builder = new StreamsBuilder();
        builder.globalTable(
                settings.topic() + ".status",
                Consumed.with(Serdes.String(), Serdes.ByteArray()),
                Materialized.<String, byte[]>as(Stores.inMemoryKeyValueStore(Statuses.STORE)));
        builder.stream(settings.topic(), Consumed.with(Serdes.ByteArray(), Serdes.ByteArray()))
                .process(supplier(() -> new Forwarder(settings.topic(), settings.registry()), Forwarder.stores()))
                .repartition(Repartitioned.with(Serdes.String(), Json.serde(Fact.class))
                        .withName("facts")
                        .withNumberOfPartitions(1))
                .process(supplier(() -> new Judge(settings, partitions), Judge.stores()))
                .to(settings.alarms(), Produced.with(Serdes.String(), Serdes.String()));
        // What is printed was committed before.
        builder.stream(settings.alarms(), Consumed.with(Serdes.String(), Serdes.String())).foreach((queue, line) -> {
            System.out.println(line);
            System.out.flush();
        });
        return builder.build();
    }

    private static <KI, VI, KO, VO> ProcessorSupplier<KI, VI, KO, VO> supplier(
            Supplier<Processor<KI, VI, KO, VO>> processor, Set<StoreBuilder<?>> stores) {
        return new ProcessorSupplier<>() {
            @Override
            public Processor<KI, VI, KO, VO> get() {
                return processor.get();
            }

            @Override
            public Set<StoreBuilder<?>> stores() {
                return stores;
            }
        };
    }

    /** Waits for the connector's topics, which it creates itself; creates the alarms'. Gives the number of legs' partitions. */
    private static int prepareTopics(Settings settings) throws Exception {
        try (Admin admin = Admin.create(settings.streams())) {
            int partitions = partitions(admin, settings.topic());
            partitions(admin, settings.topic() + ".status");
            if (!admin.listTopics().names().get().contains(settings.alarms())) {
                NewTopic alarms = new NewTopic(settings.alarms(), Optional.of(1), Optional.empty());
                admin.createTopics(List.of(alarms)).all().get();
            }
            return partitions;
        }
    }

    private static int partitions(Admin admin, String topic) throws Exception {
        while (true) {
            try {
                return admin.describeTopics(List.of(topic)).allTopicNames().get().get(topic).partitions().size();
            } catch (ExecutionException exception) {
                if (!(exception.getCause() instanceof UnknownTopicOrPartitionException)) {
                    throw exception;
                }
                Thread.sleep(TOPIC_LOOK_INTERVAL.toMillis());
            }
        }
    }
}
