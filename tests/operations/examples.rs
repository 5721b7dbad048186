//! What of `config/examples` repeats something, held to what it repeats. That the examples work takes a connector: `tests/kafka/examples.rs`.

use serde_json::Value;

use super::tools::text_of;

/// The type in Flink of a type in Avro, and whether it may be null.
fn sql_type(avro: &Value) -> (String, bool) {
    if let Some(branches) = avro.as_array() {
        assert_eq!(branches[0], "null");
        return (sql_type(&branches[1]).0, true);
    }
    let name = match avro["logicalType"].as_str().or(avro["type"].as_str()).or(avro.as_str()).unwrap() {
        "timestamp-millis" => "TIMESTAMP(3)".to_owned(),
        "string" => "STRING".to_owned(),
        "long" => "BIGINT".to_owned(),
        "int" => "INT".to_owned(),
        "boolean" => "BOOLEAN".to_owned(),
        "array" => format!("ARRAY<{}>", sql_type(&avro["items"]).0),
        "map" => format!("MAP<STRING, {}>", sql_type(&avro["values"]).0),
        "record" => {
            let fields = avro["fields"].as_array().unwrap().iter();
            let fields: Vec<String> = fields
                .map(|field| format!("`{}` {}", field["name"].as_str().unwrap(), sql_type(&field["type"]).0))
                .collect();
            format!("ROW<{}>", fields.join(", "))
        }
        other => panic!("{other}"),
    };
    (name, false)
}

#[test]
fn the_columns_of_alarm_sql_are_the_fields_of_the_schema() {
    let schema: Value = serde_json::from_str(&text_of("schemas/call-leg.avsc")).unwrap();
    let fields = schema["fields"].as_array().unwrap().iter().map(|field| {
        let (sql, may_be_null) = sql_type(&field["type"]);
        format!("    {} {sql}{},", field["name"].as_str().unwrap(), if may_be_null { "" } else { " NOT NULL" })
    });
    let sql = text_of("config/examples/alarm.sql");
    let columns = sql.lines().skip_while(|line| *line != "CREATE TABLE legs (").skip(1);
    let columns = columns.take_while(|line| !line.trim().starts_with("--"));
    assert_eq!(columns.collect::<Vec<_>>(), fields.collect::<Vec<_>>());
}

#[test]
fn alarm_sql_names_the_jars_that_it_is_tested_with() {
    let (sql, pom) = (text_of("config/examples/alarm.sql"), text_of("tests/support/flink.xml"));
    let version = |property: &str| {
        let (_, rest) = pom.split_once(&format!("<{property}>")).unwrap();
        rest.split_once("</").unwrap().0
    };
    for (jar, property) in
        [("flink-sql-connector-kafka", "connector.version"), ("flink-sql-avro-confluent-registry", "flink.version")]
    {
        let named = format!("-- {:4}org.apache.flink:{jar}:{}", "", version(property));
        assert!(sql.lines().any(|line| line == named), "alarm.sql should have {named}");
    }
}
