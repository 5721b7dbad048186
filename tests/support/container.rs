//! Apache Kafka from its Docker image, for machines with a Docker daemon.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::leash::{Leash, Leftover};
use super::{broker, directories, maven, ports};

/// A daemon that answers at all answers at once; one that hangs must not hold up the tests.
const DOCKER_ANSWER_WAIT_MAX: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// The first start pulls the image.
const START_WAIT_MAX: Duration = Duration::from_secs(10 * 60);

/// A broker in a container, which is removed when this is dropped or the test process ends.
pub struct Container {
    /// Where clients find it, `host:port`.
    pub bootstrap: String,
    _leash: Leash,
}

impl Container {
    /// A new broker, ready for clients.
    pub fn start() -> Result<Self, String> {
        daemon_answers()?;
        let version = maven::version("kafka.version").ok_or("pom.xml names no kafka.version")?;
        let name = format!("call-legs-test-kafka-{}", std::process::id());
        let (clients, controller) = (ports::free()?, ports::free()?);
        let bootstrap = format!("127.0.0.1:{clients}");

        let mut docker = Command::new("docker");
        docker.args(["run", "--rm", "--name", &name]);
        // The same port inside and outside: the broker also reaches itself under the address that it gives to clients.
        docker.args(["--publish", &format!("127.0.0.1:{clients}:{clients}")]);
        docker.args(["--env", "KAFKA_HEAP_OPTS=-Xmx512m", "--env", "KAFKA_LOG4J_ROOT_LOGLEVEL=WARN"]);
        docker.args(["--env", &format!("CLUSTER_ID={}", broker::CLUSTER_ID)]);
        // The image reads its defaults only when no setting is given, so all of them are.
        for (setting, value) in [
            ("process.roles", "broker,controller"),
            ("node.id", "1"),
            ("controller.quorum.voters", &format!("1@127.0.0.1:{controller}")),
            ("controller.listener.names", "CONTROLLER"),
            ("listeners", &format!("PLAINTEXT://0.0.0.0:{clients},CONTROLLER://127.0.0.1:{controller}")),
            ("advertised.listeners", &format!("PLAINTEXT://{bootstrap}")),
            ("listener.security.protocol.map", "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT"),
            ("inter.broker.listener.name", "PLAINTEXT"),
        ] {
            docker.args(["--env", &environment(setting, value)]);
        }
        for (setting, value) in broker::SETTINGS {
            docker.args(["--env", &environment(setting, value)]);
        }
        docker.arg(format!("apache/kafka:{version}"));

        let log = directories::log_file("docker-kafka")?;
        let (output, errors) = (directories::open_log(&log)?, directories::open_log(&log)?);
        let mut leash = Leash::spawn(&docker, Leftover::Container(name), output, errors)?;
        broker::await_ready(&bootstrap, &mut leash, START_WAIT_MAX).map_err(|error| {
            format!("the container of apache/kafka:{version} did not start: {error}; {}", directories::last_words(&log))
        })?;
        Ok(Self { bootstrap, _leash: leash })
    }
}

/// The image turns `KAFKA_LOG_RETENTION_MS` back into `log.retention.ms`.
fn environment(setting: &str, value: &str) -> String {
    format!("KAFKA_{}={value}", setting.to_uppercase().replace('.', "_"))
}

fn daemon_answers() -> Result<(), String> {
    if !maven::on_path("docker") {
        return Err("no `docker` on the PATH".into());
    }
    let mut info = Command::new("docker");
    info.args(["info", "--format", "{{.ServerVersion}}"]);
    info.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut info = info.spawn().map_err(|error| format!("cannot run docker: {error}"))?;
    let start = Instant::now();
    loop {
        match info.try_wait().map_err(|error| format!("cannot wait for docker: {error}"))? {
            Some(status) if status.success() => return Ok(()),
            Some(_) => return Err("no Docker daemon answers `docker info`".into()),
            None if start.elapsed() < DOCKER_ANSWER_WAIT_MAX => std::thread::sleep(POLL_INTERVAL),
            None => {
                let _ = info.kill();
                let _ = info.wait();
                return Err(format!("`docker info` had no answer after {} s", DOCKER_ANSWER_WAIT_MAX.as_secs()));
            }
        }
    }
}
