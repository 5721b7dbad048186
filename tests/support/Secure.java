// Changes the users of a Kafka and what they may do, for tests of a secured broker.
//
//   java -cp 'libs/*' Secure.java SERVERS CHANGE ...
//
//   user NAME PASSWORD                       a user with a SCRAM-SHA-512 password, new or changed
//   allow USER OPERATION KIND RESOURCE       lets a user do something, from any host
//   withdraw USER OPERATION KIND RESOURCE    takes that back
//
// KIND is TOPIC, TRANSACTIONAL_ID, GROUP or CLUSTER; the resource is the one of exactly that name. The changes are made in
// their order, each whole before the next.

import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AdminClientConfig;
import org.apache.kafka.clients.admin.ScramCredentialInfo;
import org.apache.kafka.clients.admin.ScramMechanism;
import org.apache.kafka.clients.admin.UserScramCredentialUpsertion;
import org.apache.kafka.common.acl.AccessControlEntry;
import org.apache.kafka.common.acl.AclBinding;
import org.apache.kafka.common.acl.AclOperation;
import org.apache.kafka.common.acl.AclPermissionType;
import org.apache.kafka.common.resource.PatternType;
import org.apache.kafka.common.resource.ResourcePattern;
import org.apache.kafka.common.resource.ResourceType;

public final class Secure {
    /** The fewest that Kafka takes. */
    private static final int ITERATIONS = 4096;

    public static void main(String[] arguments) throws Exception {
        try (Admin admin = Admin.create(Map.of(AdminClientConfig.BOOTSTRAP_SERVERS_CONFIG, arguments[0]))) {
            int at = 1;
            while (at < arguments.length) {
                String change = arguments[at];
                if (change.equals("user")) {
                    ScramCredentialInfo info = new ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, ITERATIONS);
                    admin.alterUserScramCredentials(List.of(
                            new UserScramCredentialUpsertion(arguments[at + 1], info, arguments[at + 2]))).all().get();
                    at += 3;
                    continue;
                }
                AclBinding binding = binding(
                        arguments[at + 1], arguments[at + 2], arguments[at + 3], arguments[at + 4]);
                switch (change) {
                    case "allow" -> admin.createAcls(List.of(binding)).all().get();
                    case "withdraw" -> admin.deleteAcls(List.of(binding.toFilter())).all().get();
                    default -> throw new IllegalArgumentException("unknown change " + change);
                }
                at += 5;
            }
        }
    }

    private static AclBinding binding(String user, String operation, String kind, String resource) {
        return new AclBinding(
                new ResourcePattern(ResourceType.valueOf(kind), resource, PatternType.LITERAL),
                new AccessControlEntry(
                        "User:" + user, "*", AclOperation.valueOf(operation), AclPermissionType.ALLOW));
    }
}
