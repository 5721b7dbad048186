package abandoned;

import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.ByteBuffer;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericData;
import org.apache.avro.generic.GenericDatumReader;
import org.apache.avro.generic.GenericRecord;
import org.apache.avro.io.DecoderFactory;
import org.apache.avro.message.BinaryMessageDecoder;

/**
 * Decodes a topic's values, whichever way they are framed, into records of the repository's schema.
 *
 * <pre>
 *   C3 01 | fingerprint, 8 bytes | datum     single-object: the writer's schema is the repository's
 *   00    | id, 4 bytes          | datum     Confluent: the writer's schema is in the registry
 * </pre>
 *
 * For one thread.
 */
final class Decoder {
    private static final Duration ANSWER_WAIT_MAX = Duration.ofSeconds(10);
    private static final int CONFLUENT_HEAD_BYTES = 5;

    private final Schema schema;
    private final BinaryMessageDecoder<GenericRecord> singleObject;
    private final String registry;
    private final HttpClient http = HttpClient.newHttpClient();
    private final Map<Integer, GenericDatumReader<GenericRecord>> readers = new HashMap<>();

    /**
     * @param name the schema's file
     * @param registry the registry's base URL; null where values are in single-object encoding
     */
    Decoder(String name, String registry) {
        this.schema = schema(name);
        this.singleObject = new BinaryMessageDecoder<>(GenericData.get(), schema);
        this.registry = registry;
    }

    GenericRecord decode(byte[] value) {
        try {
            return value[0] == 0 ? confluent(value) : singleObject.decode(value);
        } catch (IOException exception) {
            throw new UncheckedIOException(exception);
        }
    }

    private GenericRecord confluent(byte[] value) throws IOException {
        int id = ByteBuffer.wrap(value, 1, Integer.BYTES).getInt();
        GenericDatumReader<GenericRecord> reader = readers.get(id);
        if (reader == null) {
            reader = new GenericDatumReader<>(registered(id), schema);
            readers.put(id, reader);
        }
        int length = value.length - CONFLUENT_HEAD_BYTES;
        return reader.read(null, DecoderFactory.get().binaryDecoder(value, CONFLUENT_HEAD_BYTES, length, null));
    }

    private Schema registered(int id) throws IOException {
        if (registry == null) {
            throw new IOException("Confluent framing: say where the registry is, with registry=http://...");
        }
        URI uri = URI.create(registry + "/schemas/ids/" + id);
        HttpRequest request = HttpRequest.newBuilder(uri).timeout(ANSWER_WAIT_MAX).build();
        try {
            HttpResponse<String> answer = http.send(request, HttpResponse.BodyHandlers.ofString());
            if (answer.statusCode() != 200) {
                throw new IOException(uri + " answers " + answer.statusCode());
            }
            return new Schema.Parser().parse(Json.MAPPER.readTree(answer.body()).get("schema").asText());
        } catch (InterruptedException exception) {
            throw new IOException(exception);
        }
    }

    private static Schema schema(String name) {
        try (InputStream file = Decoder.class.getResourceAsStream("/" + name)) {
            return new Schema.Parser().parse(file);
        } catch (IOException exception) {
            throw new UncheckedIOException(exception);
        }
    }
}
