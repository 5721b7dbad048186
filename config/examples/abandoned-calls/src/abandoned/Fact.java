package abandoned;

import com.fasterxml.jackson.annotation.JsonSubTypes;
import com.fasterxml.jackson.annotation.JsonTypeInfo;
import org.apache.avro.generic.GenericRecord;

/** What the judge works on. Of one partition of legs, facts come in the order in which its legs were read. */
@JsonTypeInfo(use = JsonTypeInfo.Id.NAME, property = "is")
@JsonSubTypes({
    @JsonSubTypes.Type(value = Fact.Leg.class, name = "leg"),
    @JsonSubTypes.Type(value = Fact.Mark.class, name = "mark")
})
sealed interface Fact {
    /**
     * A leg of a call in a queue. Nothing in it names a person.
     *
     * @param queue the PBX and the queue's name
     * @param call the call that the queue was given, in whichever call of its own this leg is
     * @param leg names the leg within the queue
     * @param disconnected milliseconds since 1970
     */
    record Leg(String queue, String call, String leg, long disconnected, boolean abandoned) implements Fact {
        /** Null when the leg reached no queue. */
        static Leg of(GenericRecord leg) {
            if (!text(leg, "callee").startsWith("CallQueue")) {
                return null;
            }
            String name = text(leg, "calleeName").isBlank() ? text(leg, "callee") : text(leg, "calleeName");
            String parent = text(leg, "parentCallId");
            String call = parent.isEmpty() ? text(leg, "callId") : parent;
            return new Leg(
                    text(leg, "pbxId") + ": " + name,
                    call,
                    text(leg, "callId") + "/" + text(leg, "legId"),
                    (long) leg.get("disconnectedTimeUTC"),
                    text(leg, "abandoned").equals("Abandoned"));
        }

        private static String text(GenericRecord leg, String field) {
            Object value = leg.get(field);
            return value == null ? "" : value.toString();
        }
    }

    /**
     * All legs of a partition that were disconnected before an instant were among the facts before this one, as far as the
     * unit's connector has read them.
     *
     * @param completeTo milliseconds since 1970
     */
    record Mark(String unit, int partition, long completeTo) implements Fact {}
}
