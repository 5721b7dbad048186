package abandoned;

import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.avro.generic.GenericRecord;

/**
 * What the feed says of a unit. Times are milliseconds since 1970.
 *
 * @param at when it was written
 * @param completeTo every leg disconnected before was read once
 * @param outOffsets up to where each partition of legs must be read before {@code completeTo} counts
 */
record Status(String unit, String state, long at, long nextBeatMs, long completeTo, Map<Integer, Long> outOffsets) {
    /** How many beats may fail to come. */
    private static final int BEATS_MAX = 3;

    static Status of(GenericRecord status) {
        Map<Integer, Long> outOffsets = new HashMap<>();
        for (Object entry : (List<?>) status.get("outOffsets")) {
            GenericRecord offset = (GenericRecord) entry;
            if (offset.get("topic").toString().equals("legs")) {
                outOffsets.put((Integer) offset.get("partition"), (Long) offset.get("offset"));
            }
        }
        return new Status(
                status.get("unit").toString(),
                status.get("state").toString(),
                (Long) status.get("at"),
                (Long) status.get("nextBeatMs"),
                (Long) status.get("completeTo"),
                outOffsets);
    }

    /** What it means that this is the newest status of its unit; the clock must be the connector's to within a beat. */
    String says(long now) {
        if (state.equals("stopped")) {
            return "stopped on purpose";
        }
        if (now - at > BEATS_MAX * nextBeatMs) {
            return "connector down";
        }
        return switch (state) {
            case "ok", "catching_up" -> "sees";
            case "starting" -> "starting";
            case "source_unreachable", "source_auth", "source_rate_limited" -> "blind";
            // Legs come, but the watermarks wait; so may states of a later version.
            default -> "waits";
        };
    }

    /** Whether a partition that was read up to {@code position} holds nothing more of what this promises. */
    boolean isCoveredBy(int partition, long position) {
        return outOffsets.getOrDefault(partition, 0L) <= position;
    }
}
