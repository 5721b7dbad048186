//! Free TCP ports for brokers and the registry.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::Mutex;
use std::time::SystemTime;

/// Below the ports from which the kernel takes the near end of outgoing connections (32768 and up on Linux): a broker that
/// is down for a moment would otherwise find its port taken by some client's connection, perhaps by its own client's attempts
/// to reach it.
const FIRST: u16 = 20_000;
const COUNT: u16 = 10_000;

/// A port of the loopback interface nobody listens on. Another process may take it before it is used, which shows when the
/// server starts; the start at a random place makes that rare.
pub fn free() -> Result<u16, String> {
    static NEXT: Mutex<Option<u16>> = Mutex::new(None);
    let mut next = NEXT.lock().map_err(|_| "a thread panicked while it looked for a free port".to_owned())?;
    let mut offset = next.unwrap_or_else(random_offset);
    for _ in 0..COUNT {
        let port = FIRST + offset;
        offset = (offset + 1) % COUNT;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            *next = Some(offset);
            return Ok(port);
        }
    }
    Err(format!("all ports from {FIRST} to {} of 127.0.0.1 are taken", FIRST + COUNT - 1))
}

fn random_offset() -> u16 {
    let nanos = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.subsec_nanos());
    let mixed = u64::from(nanos / 1_000) * 31 + u64::from(std::process::id()) * 7_919;
    u16::try_from(mixed % u64::from(COUNT)).unwrap_or(0)
}
