// Reads a topic from its beginning to its present end and prints one JSON object a line, in the order of partitions and
// offsets. This is the foreign consumer of the integration tests: the Java client and Java Avro, no code of the connector.
//
//   java -cp 'libs/*' ReadTopic.java --bootstrap SERVERS --topic TOPIC --time-max-s SECONDS [--read-uncommitted]
//        (--registry URL | --schema FILE.avsc ... | --raw)
//
//   --registry  values are Confluent-framed: 0x00, schema id, Avro; schemas come from {URL}/schemas/ids/{id}
//   --schema    values are Avro single-object encodings of one of these schemas
//   --raw       values are printed as hexadecimal digits
//
// A line has: partition, offset, timestamp, timestampType, key (null when the message has none), javaPartition (where Java's
// producer would put that key; null without key), headers ({name: {hex, text}}, text null when it is not UTF-8), value (null
// for a tombstone), and schemaId or schemaFingerprint, whichever the framing has. Values keep all fields in the order of the
// schema they were written with; logical types are their plain numbers, unions their plain values, bytes hexadecimal digits.
//
// Whatever cannot be read to the last byte ends the program with exit code 1 and one sentence: it decodes nothing leniently.

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.PrintStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.time.Duration;
import java.time.Instant;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.apache.avro.Schema;
import org.apache.avro.SchemaNormalization;
import org.apache.avro.generic.GenericData;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericEnumSymbol;
import org.apache.avro.generic.GenericFixed;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.io.BinaryDecoder;
import org.apache.avro.io.DecoderFactory;
import org.apache.avro.message.BinaryMessageDecoder;
import org.apache.kafka.clients.consumer.Consumer;
import org.apache.kafka.clients.consumer.ConsumerConfig;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.internals.BuiltInPartitioner;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

public class ReadTopic {
    private static final Duration POLL_WAIT_MAX = Duration.ofMillis(500);
    private static final HexFormat HEX = HexFormat.of();

    /** Anything that ends the program with a sentence of its own. */
    static class Refusal extends Exception {
        Refusal(String sentence) {
            super(sentence);
        }
    }

    /** Adds what one framing knows of a value to the line: the value, and its schema's name in that framing. */
    interface Framing {
        void describe(byte[] message, Map<String, Object> line) throws Refusal, IOException;
    }

    public static void main(String[] arguments) {
        try {
            new ReadTopic(arguments).read();
        } catch (Refusal refusal) {
            System.err.println("error: " + refusal.getMessage());
            System.exit(1);
        } catch (Exception exception) {
            exception.printStackTrace();
            System.exit(1);
        }
    }

    private String bootstrap;
    private String topic;
    private String isolation = "read_committed";
    private Instant deadline = Instant.now().plusSeconds(60);
    private Framing framing;

    private ReadTopic(String[] arguments) throws Refusal, IOException {
        List<Schema> schemas = new ArrayList<>();
        for (int i = 0; i < arguments.length; i++) {
            String option = arguments[i];
            switch (option) {
                case "--read-uncommitted" -> isolation = "read_uncommitted";
                case "--raw" -> framing = (message, line) -> line.put("value", HEX.formatHex(message));
                case "--bootstrap", "--topic", "--time-max-s", "--registry", "--schema" -> {
                    if (++i == arguments.length) {
                        throw new Refusal(option + " lacks its value");
                    }
                    String value = arguments[i];
                    switch (option) {
                        case "--bootstrap" -> bootstrap = value;
                        case "--topic" -> topic = value;
                        case "--time-max-s" -> deadline = Instant.now().plusSeconds(Long.parseLong(value));
                        case "--registry" -> framing = new ConfluentFraming(value);
                        default -> schemas.add(new Schema.Parser().parse(Path.of(value).toFile()));
                    }
                }
                default -> throw new Refusal("unknown option " + option);
            }
        }
        if (!schemas.isEmpty()) {
            framing = new SingleObjectFraming(schemas);
        }
        if (bootstrap == null || topic == null || framing == null) {
            throw new Refusal("--bootstrap, --topic and one of --registry, --schema and --raw are needed");
        }
    }

    private void read() throws Refusal, IOException {
        Properties properties = new Properties();
        properties.put(ConsumerConfig.BOOTSTRAP_SERVERS_CONFIG, bootstrap);
        properties.put(ConsumerConfig.ISOLATION_LEVEL_CONFIG, isolation);
        properties.put(ConsumerConfig.ENABLE_AUTO_COMMIT_CONFIG, "false");
        properties.put(ConsumerConfig.AUTO_OFFSET_RESET_CONFIG, "none");
        properties.put(ConsumerConfig.ALLOW_AUTO_CREATE_TOPICS_CONFIG, "false");
        ObjectMapper json = new ObjectMapper();
        // Not System.out, whose encoding depends on the locale.
        PrintStream lines = new PrintStream(new java.io.FileOutputStream(java.io.FileDescriptor.out), false, "UTF-8");
        try (Consumer<byte[], byte[]> consumer =
                new KafkaConsumer<>(properties, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            List<TopicPartition> partitions = consumer.partitionsFor(topic, timeLeft()).stream()
                    .map(info -> new TopicPartition(info.topic(), info.partition()))
                    .sorted(Comparator.comparingInt(TopicPartition::partition))
                    .toList();
            if (partitions.isEmpty()) {
                throw new Refusal("there is no topic " + topic);
            }
            // With read_committed the end is the last stable offset: an open transaction is not waited for.
            Map<TopicPartition, Long> ends = consumer.endOffsets(partitions, timeLeft());
            for (TopicPartition partition : partitions) {
                long end = ends.get(partition);
                consumer.assign(List.of(partition));
                consumer.seekToBeginning(List.of(partition));
                // The position also moves past markers and aborted messages, which are never returned.
                while (consumer.position(partition, timeLeft()) < end) {
                    timeLeft();
                    for (ConsumerRecord<byte[], byte[]> message : consumer.poll(POLL_WAIT_MAX)) {
                        if (message.offset() < end) {
                            lines.println(json.writeValueAsString(describe(message, partitions.size())));
                        }
                    }
                }
            }
        }
        lines.flush();
        if (lines.checkError()) {
            throw new Refusal("standard output was closed");
        }
    }

    private Duration timeLeft() throws Refusal {
        Duration left = Duration.between(Instant.now(), deadline);
        if (left.isNegative() || left.isZero()) {
            throw new Refusal("the end of " + topic + " on " + bootstrap + " was not reached in time");
        }
        return left;
    }

    private Map<String, Object> describe(ConsumerRecord<byte[], byte[]> message, int partitions)
            throws Refusal, IOException {
        String place = topic + "-" + message.partition() + " at offset " + message.offset();
        Map<String, Object> line = new LinkedHashMap<>();
        line.put("partition", message.partition());
        line.put("offset", message.offset());
        line.put("timestamp", message.timestamp());
        line.put("timestampType", message.timestampType().toString());
        byte[] key = message.key();
        if (key != null && text(key) == null) {
            throw new Refusal("the key in " + place + " is not UTF-8: " + HEX.formatHex(key));
        }
        line.put("key", text(key));
        line.put("javaPartition", key == null ? null : BuiltInPartitioner.partitionForKey(key, partitions));
        Map<String, Object> headers = new LinkedHashMap<>();
        for (Header header : message.headers()) {
            Map<String, Object> value = new LinkedHashMap<>();
            value.put("hex", header.value() == null ? null : HEX.formatHex(header.value()));
            value.put("text", text(header.value()));
            if (headers.put(header.key(), value) != null) {
                throw new Refusal("the header " + header.key() + " is repeated in " + place);
            }
        }
        line.put("headers", headers);
        line.put("value", null);
        if (message.value() != null) {
            try {
                framing.describe(message.value(), line);
            } catch (Refusal | IOException | RuntimeException exception) {
                String reason = exception instanceof Refusal ? exception.getMessage() : exception.toString();
                throw new Refusal("the value in " + place + " cannot be read: " + reason + "; it is "
                        + HEX.formatHex(message.value()));
            }
        }
        return line;
    }

    /** Strict UTF-8, or null. */
    private static String text(byte[] bytes) {
        try {
            return bytes == null ? null : StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(bytes)).toString();
        } catch (CharacterCodingException exception) {
            return null;
        }
    }

    /** 0x00, the schema's id in four bytes, the datum. */
    private class ConfluentFraming implements Framing {
        private final String registry;
        private final HttpClient http = HttpClient.newHttpClient();
        private final Map<Integer, Schema> schemas = new HashMap<>();

        ConfluentFraming(String registry) {
            this.registry = registry;
        }

        @Override
        public void describe(byte[] message, Map<String, Object> line) throws Refusal, IOException {
            if (message.length < 5 || message[0] != 0) {
                throw new Refusal("no Confluent framing");
            }
            int id = ByteBuffer.wrap(message, 1, 4).getInt();
            Schema schema = schemas.get(id);
            if (schema == null) {
                schema = fetch(id);
                schemas.put(id, schema);
            }
            BinaryDecoder decoder = DecoderFactory.get().binaryDecoder(message, 5, message.length - 5, null);
            Object datum = new GenericDatumReader<>(schema).read(null, decoder);
            if (!decoder.isEnd()) {
                throw new Refusal("bytes are left over behind the datum");
            }
            line.put("schemaId", id);
            line.put("value", plain(schema, datum));
        }

        private Schema fetch(int id) throws Refusal, IOException {
            URI uri = URI.create(registry + "/schemas/ids/" + id);
            HttpRequest request = HttpRequest.newBuilder(uri).timeout(timeLeft()).build();
            try {
                HttpResponse<String> response = http.send(request, HttpResponse.BodyHandlers.ofString());
                if (response.statusCode() != 200) {
                    throw new Refusal(uri + " answers " + response.statusCode() + " " + response.body());
                }
                JsonNode schema = new ObjectMapper().readTree(response.body()).get("schema");
                return new Schema.Parser().parse(schema.asText());
            } catch (InterruptedException exception) {
                throw new Refusal("interrupted");
            }
        }
    }

    /** 0xC3 0x01, the schema's fingerprint in eight bytes, the datum. */
    private static class SingleObjectFraming implements Framing {
        /** A decoder each, so that nothing is converted to another version: the reading schema is the written one. */
        private final Map<Long, BinaryMessageDecoder<Object>> decoders = new HashMap<>();
        private final Map<Long, Schema> schemas = new HashMap<>();

        SingleObjectFraming(List<Schema> schemas) {
            for (Schema schema : schemas) {
                long fingerprint = SchemaNormalization.parsingFingerprint64(schema);
                this.decoders.put(fingerprint, new BinaryMessageDecoder<>(new GenericData(), schema));
                this.schemas.put(fingerprint, schema);
            }
        }

        @Override
        public void describe(byte[] message, Map<String, Object> line) throws Refusal, IOException {
            if (message.length < 10) {
                throw new Refusal("no single-object encoding");
            }
            long fingerprint = ByteBuffer.wrap(message, 2, 8).order(ByteOrder.LITTLE_ENDIAN).getLong();
            if (!decoders.containsKey(fingerprint)) {
                throw new Refusal("no schema was given with the fingerprint " + HEX.toHexDigits(fingerprint));
            }
            ByteArrayInputStream stream = new ByteArrayInputStream(message);
            Object datum = decoders.get(fingerprint).decode(stream, null);
            if (stream.available() > 0) {
                throw new Refusal("bytes are left over behind the datum");
            }
            line.put("schemaFingerprint", HEX.toHexDigits(fingerprint));
            line.put("value", plain(schemas.get(fingerprint), datum));
        }
    }

    /** A datum as what Jackson writes: maps, lists, strings, numbers. */
    private static Object plain(Schema schema, Object datum) {
        return switch (schema.getType()) {
            case RECORD -> {
                Map<String, Object> fields = new LinkedHashMap<>();
                for (Schema.Field field : schema.getFields()) {
                    fields.put(field.name(), plain(field.schema(), ((GenericRecord) datum).get(field.pos())));
                }
                yield fields;
            }
            case UNION -> plain(schema.getTypes().get(new GenericData().resolveUnion(schema, datum)), datum);
            case ARRAY -> ((List<?>) datum).stream().map(item -> plain(schema.getElementType(), item)).toList();
            case MAP -> {
                Map<String, Object> entries = new LinkedHashMap<>();
                ((Map<?, ?>) datum)
                        .forEach((name, value) -> entries.put(name.toString(), plain(schema.getValueType(), value)));
                yield entries;
            }
            case BYTES -> {
                ByteBuffer bytes = ((ByteBuffer) datum).duplicate();
                byte[] copy = new byte[bytes.remaining()];
                bytes.get(copy);
                yield HEX.formatHex(copy);
            }
            case FIXED -> HEX.formatHex(((GenericFixed) datum).bytes());
            case ENUM -> ((GenericEnumSymbol<?>) datum).toString();
            case STRING -> datum.toString();
            case INT, LONG, FLOAT, DOUBLE, BOOLEAN, NULL -> datum;
        };
    }
}
