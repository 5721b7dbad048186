import java.nio.file.Files;
import java.nio.file.Path;
import org.apache.flink.table.api.EnvironmentSettings;
import org.apache.flink.table.api.TableEnvironment;

/** Runs a file of Flink SQL in this process and prints what its queries find, as Flink's SQL client does with a cluster. */
public final class FlinkSql {
    public static void main(String[] arguments) throws Exception {
        TableEnvironment environment = TableEnvironment.create(EnvironmentSettings.inStreamingMode());
        String text = Files.readString(Path.of(arguments[0])).replaceAll("(?m)^\\s*--.*\n", "");
        for (String statement : text.split(";\\s*\n")) {
            if (!statement.isBlank()) {
                environment.executeSql(statement).print();
            }
        }
    }
}
