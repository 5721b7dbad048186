//! Apache Kafka from its jars: one Java process that is broker and controller (KRaft) on two ports of the loopback interface.
//!
//! Ports and data stay the same across restarts. Who may stop a broker is decided in `kafka.rs`.

use std::fs;
use std::io;
use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use super::leash::{Leash, Leftover};
use super::{PATIENCE, directories, leash, maven, ports};

/// What every broker of the tests is told, from jars or in a container.
pub const SETTINGS: &[(&str, &str)] = &[
    // One node: nothing can have a second replica.
    ("default.replication.factor", "1"),
    ("min.insync.replicas", "1"),
    ("offsets.topic.replication.factor", "1"),
    ("transaction.state.log.replication.factor", "1"),
    ("transaction.state.log.min.isr", "1"),
    ("share.coordinator.state.topic.replication.factor", "1"),
    ("share.coordinator.state.topic.min.isr", "1"),
    // The internal topics are created when the first consumer group or transaction appears: one partition is there fast.
    ("offsets.topic.num.partitions", "1"),
    ("transaction.state.log.num.partitions", "1"),
    ("share.coordinator.state.topic.num.partitions", "1"),
    ("group.initial.rebalance.delay.ms", "0"),
    // A topic that the code under test forgot to create must not appear by itself.
    ("auto.create.topics.enable", "false"),
    // Tests publish legs of any day, past and future, and read them all back.
    ("log.retention.ms", "-1"),
    ("log.message.timestamp.before.max.ms", "9223372036854775807"),
    ("log.message.timestamp.after.max.ms", "9223372036854775807"),
    // A broker that was killed is let in again only when its old session is over: three seconds, not nine.
    ("broker.session.timeout.ms", "3000"),
    ("broker.heartbeat.interval.ms", "500"),
    // A transaction whose producer died is aborted soon after its own time-out.
    ("transaction.abort.timed.out.transaction.cleanup.interval.ms", "1000"),
    // The default takes 128 MB of the heap.
    ("log.cleaner.dedupe.buffer.size", "4194304"),
];

/// Any identifier will do, for every cluster stands alone.
pub const CLUSTER_ID: &str = "Y2FsbC1sZWdzLXRlc3RzIA";
const READY_POLL_INTERVAL: Duration = Duration::from_millis(50);
const PROBE_WAIT_MAX: Duration = Duration::from_secs(30);
/// Between the choice of a port and its use another process may take it.
const PORT_ATTEMPTS: usize = 3;
const HEAP_MB_MAX: u32 = 512;

/// What a broker has beside what all have.
#[derive(Clone, Debug, Default)]
pub struct Extras {
    /// More listeners for clients, by the names of their security protocols.
    pub listeners: &'static [&'static str],
    /// More settings.
    pub settings: Vec<(String, String)>,
    /// Properties of its Java.
    pub java: Vec<(&'static str, String)>,
}

/// One broker: its data, and while it runs its process.
pub struct Broker {
    /// Where clients find it, `host:port`.
    pub bootstrap: String,
    /// Where they find its further listeners, in the order of `Extras::listeners`.
    pub further: Vec<String>,
    directory: PathBuf,
    log: PathBuf,
    properties: Vec<(&'static str, String)>,
    leash: Option<Leash>,
}

impl Broker {
    /// A new broker with a fresh data directory, ready for clients.
    pub fn create(extras: &Extras) -> Result<Self, String> {
        let mut attempt = 1;
        loop {
            let mut broker = Self::prepare(extras)?;
            match broker.start() {
                Ok(()) => return Ok(broker),
                Err(_) if attempt < PORT_ATTEMPTS && broker.port_was_taken() => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }

    fn prepare(extras: &Extras) -> Result<Self, String> {
        let directory = directories::scratch("broker")?;
        let address = || ports::free().map(|port| format!("127.0.0.1:{port}"));
        let (bootstrap, controller) = (address()?, address()?);
        let further = extras.listeners.iter().map(|_| address()).collect::<Result<_, _>>()?;
        let log = directories::log_file("broker")?;
        let broker = Self { bootstrap, further, directory, log, properties: extras.java.clone(), leash: None };
        let properties = broker.properties(&controller, extras);
        let path = broker.properties_path();
        fs::write(&path, properties).map_err(|error| format!("cannot write {}: {error}", path.display()))?;
        broker.format()?;
        Ok(broker)
    }

    fn properties(&self, controller: &str, extras: &Extras) -> String {
        let Self { bootstrap, further, .. } = self;
        let data = self.directory.join("data");
        let further = extras.listeners.iter().zip(further).map(|(name, address)| format!(",{name}://{address}"));
        let mut properties = format!(
            "process.roles=broker,controller\n\
             node.id=1\n\
             controller.quorum.voters=1@{controller}\n\
             controller.listener.names=CONTROLLER\n\
             listeners=PLAINTEXT://{bootstrap},CONTROLLER://{controller}{}\n\
             log.dirs={}\n",
            further.collect::<String>(),
            data.display()
        );
        let settings = SETTINGS.iter().map(|(name, value)| format!("{name}={value}\n"));
        properties.extend(settings.chain(extras.settings.iter().map(|(name, value)| format!("{name}={value}\n"))));
        properties
    }

    fn properties_path(&self) -> PathBuf {
        self.directory.join("server.properties")
    }

    fn java(&self) -> Result<Command, String> {
        let mut java = maven::java_command(HEAP_MB_MAX)?;
        java.arg("-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info");
        java.args(self.properties.iter().map(|(name, value)| format!("-D{name}={value}")));
        java.arg("-cp").arg(maven::KAFKA.directory()?.join("*"));
        Ok(java)
    }

    /// Kafka refuses a data directory that was not formatted for its cluster.
    fn format(&self) -> Result<(), String> {
        let mut format = self.java()?;
        format.args(["kafka.tools.StorageTool", "format", "--cluster-id", CLUSTER_ID, "--config"]);
        format.arg(self.properties_path());
        let (output, log) = (directories::open_log(&self.log)?, directories::open_log(&self.log)?);
        let status = leash::run(&format, output, log, PATIENCE)?;
        if status.success() {
            Ok(())
        } else {
            Err(format!("Kafka's StorageTool failed ({status}); {}", directories::last_words(&self.log)))
        }
    }

    /// Starts the process and returns when the broker serves clients. A broker that runs is left as it is.
    pub fn start(&mut self) -> Result<(), String> {
        if self.running()?.is_some() {
            return Ok(());
        }
        let mut kafka = self.java()?;
        kafka.arg("kafka.Kafka").arg(self.properties_path());
        let (output, log) = (directories::open_log(&self.log)?, directories::open_log(&self.log)?);
        let mut leash = Leash::spawn(&kafka, Leftover::Directory(self.directory.clone()), output, log)?;
        if let Err(error) = await_ready(&self.bootstrap, &mut leash, PATIENCE) {
            // Ended before its leash is let go, so that the data is still there for another attempt.
            let _ = leash.signal("KILL");
            let _ = leash.wait(PATIENCE);
            let words = directories::last_words(&self.log);
            return Err(format!("the Kafka broker on {} did not start: {error}; {words}", self.bootstrap));
        }
        self.leash = Some(leash);
        Ok(())
    }

    /// Sends a signal; with TERM and KILL, returns when the process is gone.
    pub fn signal(&mut self, name: &str) -> Result<(), String> {
        let (bootstrap, log) = (self.bootstrap.clone(), self.log.clone());
        let Some(leash) = self.running()? else {
            let words = directories::last_words(&log);
            return Err(format!("the broker on {bootstrap} does not run, so it cannot be sent {name}; {words}"));
        };
        leash.signal(name)?;
        if name == "TERM" || name == "KILL" {
            if leash.wait(PATIENCE)?.is_none() {
                return Err(format!(
                    "the broker on {bootstrap} still runs {PATIENCE:?} after {name}; see {}",
                    log.display()
                ));
            }
            self.leash = None;
        }
        Ok(())
    }

    /// The leash of the process, unless that was stopped or ended by itself.
    fn running(&mut self) -> Result<Option<&mut Leash>, String> {
        if let Some(leash) = &mut self.leash
            && leash.ended()?.is_some()
        {
            self.leash = None;
        }
        Ok(self.leash.as_mut())
    }

    fn port_was_taken(&self) -> bool {
        fs::read(&self.log).is_ok_and(|log| String::from_utf8_lossy(&log).contains("Address already in use"))
    }
}

impl Drop for Broker {
    /// The leash removes the data of a broker that runs; that of a stopped one is still there.
    fn drop(&mut self) {
        drop(self.leash.take());
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Waits until a broker serves clients; fails early when its process has ended.
pub fn await_ready(bootstrap: &str, leash: &mut Leash, wait_max: Duration) -> Result<(), String> {
    let start = Instant::now();
    loop {
        let Err(refusal) = answers(bootstrap) else { return Ok(()) };
        if let Some(status) = leash.ended()? {
            return Err(format!("its process ended ({status})"));
        }
        if start.elapsed() > wait_max {
            return Err(format!("it does not serve clients after {} s ({refusal})", wait_max.as_secs()));
        }
        std::thread::sleep(READY_POLL_INTERVAL);
    }
}

/// Whether one of the bootstrap servers answers a metadata request and names at least one live broker. An open port is not
/// enough: a broker listens before its controller lets it in.
pub fn answers(bootstrap: &str) -> Result<(), String> {
    let mut refusal = "no servers were named".to_owned();
    for server in bootstrap.split(',').map(str::trim) {
        match live_brokers(server) {
            Ok(1..) => return Ok(()),
            Ok(_) => refusal = format!("{server} knows of no live broker yet"),
            Err(error) => refusal = format!("{server}: {error}"),
        }
    }
    Err(refusal)
}

/// The number of brokers in the answer to a Metadata request, version 1, for no topic. Written by hand because a client
/// library would log every refused connection of a broker that is still starting.
fn live_brokers(server: &str) -> io::Result<u32> {
    const REQUEST: [u8; 18] = [
        0, 0, 0, 14, // length of what follows
        0, 3, // Metadata
        0, 1, // version
        0, 0, 0, 1, // correlation id
        0xff, 0xff, // no client id
        0, 0, 0, 0, // no topics
    ];
    let mut last = io::Error::other("the name has no address");
    for address in server.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, PROBE_WAIT_MAX) {
            Ok(mut stream) => {
                stream.set_read_timeout(Some(PROBE_WAIT_MAX))?;
                stream.set_write_timeout(Some(PROBE_WAIT_MAX))?;
                stream.write_all(&REQUEST)?;
                let mut answer = [0; 12]; // length, correlation id, number of brokers
                stream.read_exact(&mut answer)?;
                return Ok(u32::from_be_bytes([answer[8], answer[9], answer[10], answer[11]]));
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}
