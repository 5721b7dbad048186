//! `kafka`: what a cluster's administrator has to set up for the connector.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{look, print_line};
use crate::config::Kafka;
use crate::error::Ended;
use crate::sink::rights::{Resource, Right, rights};
use crate::sink::topics;

#[derive(Debug, Args)]
pub(super) struct KafkaArgs {
    #[command(subcommand)]
    command: KafkaCommand,
}

#[derive(Debug, Subcommand)]
enum KafkaCommand {
    /// Print what allows a user exactly what the connector needs: for kafka-acls.sh, or as a Strimzi KafkaUser
    Acls {
        /// The TOML file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// The user as Kafka knows it: call-legs, User:call-legs, or User:CN=call-legs,O=Example
        #[arg(long, value_name = "P")]
        principal: String,
        /// What to print
        #[arg(long, value_enum, default_value = "commands")]
        format: Format,
    },
}

/// For whom the rights are printed.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// Commands for a shell, with Kafka's own kafka-acls.sh
    Commands,
    /// A KafkaUser for Strimzi
    Strimzi,
}

pub(super) fn run(arguments: KafkaArgs) -> Result<(), Ended> {
    let KafkaCommand::Acls { config, principal, format } = arguments.command;
    let kafka = look(&config)?.kafka;
    let user = principal.strip_prefix("User:").unwrap_or(&principal);
    let printed = match format {
        Format::Commands => commands(user, &kafka),
        Format::Strimzi => strimzi(user, &kafka),
    };
    print_line(printed.trim_end())
}

/// What only `tail --status`, and `status` without a running daemon, need besides.
fn for_tail(kafka: &Kafka) -> Right {
    Right { resource: Resource::Topic, name: topics::status(&kafka.topic), operations: vec!["READ"] }
}

fn commands(user: &str, kafka: &Kafka) -> String {
    let principal = quoted(&format!("User:{user}"));
    let brokers = quoted(&kafka.bootstrap_servers.join(","));
    let command = |right: &Right| {
        let option = match right.resource {
            Resource::Topic => "--topic",
            Resource::TransactionalId => "--transactional-id",
        };
        let operations: String =
            right.operations.iter().map(|operation| format!(" --operation {}", camel(operation))).collect();
        format!(
            "kafka-acls.sh --bootstrap-server {brokers} --command-config admin.properties --add --allow-principal {principal}{operations} {option} {}",
            quoted(&right.name)
        )
    };
    let mut text =
        "# admin.properties says how an administrator logs in. Create is not needed where the topics are there.\n"
            .to_owned();
    for right in rights(&kafka.topic, &kafka.journal) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}", command(&right));
    }
    let _ = writeln!(
        text,
        "# For call-legs tail --status, and for status while no daemon runs:\n# {}",
        command(&for_tail(kafka))
    );
    let _ = writeln!(
        text,
        "# On brokers before 2.8:\n# kafka-acls.sh --bootstrap-server {brokers} --command-config admin.properties --add --allow-principal {principal} --operation IdempotentWrite --cluster"
    );
    text
}

fn strimzi(user: &str, kafka: &Kafka) -> String {
    // Strimzi makes CN=NAME of a user with a certificate.
    let name = user.strip_prefix("CN=").unwrap_or(user).split(',').next().unwrap_or_default();
    let mut text = format!(
        "apiVersion: kafka.strimzi.io/v1 # kafka.strimzi.io/v1beta2 before Strimzi 0.49\n\
         kind: KafkaUser\n\
         metadata:\n  name: {name:?}\n  labels:\n    strimzi.io/cluster: my-cluster # the name of the Kafka resource\n\
         spec:\n  # authentication: scram-sha-512 or tls, as the listener has it\n  authorization:\n    type: simple\n    acls:\n"
    );
    let entry = |right: &Right, before: &str| {
        let kind = match right.resource {
            Resource::Topic => "topic",
            Resource::TransactionalId => "transactionalId",
        };
        let operations: Vec<String> = right.operations.iter().map(|operation| camel(operation)).collect();
        format!(
            "      {before}- resource: {{ type: {kind}, name: {:?}, patternType: literal }}\n      {before}  operations: [{}]\n",
            right.name,
            operations.join(", ")
        )
    };
    text.extend(rights(&kafka.topic, &kafka.journal).iter().map(|right| entry(right, "")));
    text.push_str("      # For call-legs tail --status, and for status while no daemon runs:\n");
    text + &entry(&for_tail(kafka), "# ")
}

/// `DESCRIBE_CONFIGS` as administrators' tools have it: `DescribeConfigs`.
fn camel(operation: &str) -> String {
    let word = |word: &str| word.get(..1).map(|first| first.to_owned() + &word[1..].to_ascii_lowercase());
    operation.split('_').filter_map(word).collect()
}

/// A text as one word of a shell.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn kafka() -> Kafka {
        let text = "source = {api_key = \"k\", username = \"u\", password = \"p\"}\navro.framing = \"single-object\"\n\
                    kafka.bootstrap_servers = \"kafka:9092\"\nstate.dir = \"/s\"";
        let no_variables: [(String, String); 0] = [];
        Config::parse("test", text, no_variables).unwrap().kafka
    }

    #[test]
    fn the_commands_allow_what_is_needed_and_comment_on_the_rest() {
        let text = commands("it's", &kafka());
        let (comments, lines): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.starts_with('#'));
        assert_eq!((comments.len(), lines.len()), (5, 5), "{text}");
        let head = "kafka-acls.sh --bootstrap-server 'kafka:9092' --command-config admin.properties --add --allow-principal 'User:it'\\''s'";
        assert_eq!(
            lines[0],
            format!(
                "{head} --operation Read --operation Write --operation DescribeConfigs --operation Create --topic 'call-legs'"
            )
        );
        assert_eq!(lines[4], format!("{head} --operation Write --transactional-id 'call-legs.journal.0'"));
        assert!(!lines[3].contains("Read") && lines[3].ends_with("--topic 'call-legs.status'"), "{text}");
    }

    #[test]
    fn a_user_of_strimzi_has_the_same_rights() {
        let text = strimzi("CN=call-legs,O=Example", &kafka());
        assert!(text.contains("name: \"call-legs\"\n"), "{text}");
        for right in rights("call-legs", "call-legs.journal") {
            let operations: Vec<String> = right.operations.iter().map(|operation| camel(operation)).collect();
            let lines = format!(
                "name: {:?}, patternType: literal }}\n        operations: [{}]\n",
                right.name,
                operations.join(", ")
            );
            assert!(text.contains(&lines), "{lines} in {text}");
        }
    }
}
