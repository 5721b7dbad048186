//! Panics: told with their place, and without their words.
//!
//! The words may hold a piece of a row, as those of an index into a text do. The place is enough to find the defect; set
//! `RUST_BACKTRACE=1` for the way there. A panic that is [`caught`] is told by whoever catches it, and by nobody else.

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::cell::Cell;
use std::io::Write;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook};
use std::thread;

use tokio::task::JoinError;

thread_local! {
    static IS_CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// Tells of panics from here on: in the log once there is one, else on standard error.
pub fn tell() {
    set_hook(Box::new(|panic| {
        if !IS_CAUGHT.get() {
            tell_of(panic);
        }
    }));
}

fn tell_of(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let thread = thread::current();
    let thread = thread.name().unwrap_or("without a name");
    let backtrace = Backtrace::capture();
    let way = if backtrace.status() == BacktraceStatus::Captured { format!("\n{backtrace}") } else { String::new() };
    if tracing::dispatcher::has_been_set() {
        tracing::error!(place, thread, "a defect, please report it: it panicked{way}");
    } else {
        // Where not even that works, nothing does.
        let _ = writeln!(std::io::stderr(), "a defect, please report it: it panicked at {place}, thread {thread}{way}");
    }
}

/// Does what may panic without a line about it; what it said is for the caller, who knows that no row is in it.
pub fn caught<T>(work: impl FnOnce() -> T) -> Result<T, Box<dyn Any + Send>> {
    let before = IS_CAUGHT.replace(true);
    let done = catch_unwind(AssertUnwindSafe(work));
    IS_CAUGHT.set(before);
    done
}

/// Why a task has no result, without the words of its panic.
pub fn why(ended: &JoinError) -> &'static str {
    if ended.is_panic() { "it panicked: a defect, please report it" } else { "it was given up" }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    const WORDS: &str = "+15550001234 is no row";

    /// Not a test by itself: the hook is the whole process's, so this runs in one of its own.
    #[test]
    #[ignore = "run by the test below, in a process of its own"]
    fn panics_in_several_ways() {
        tell();
        let named = thread::Builder::new().name("worker-7".to_owned());
        assert!(named.spawn(|| panic!("{WORDS}")).unwrap().join().is_err());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let ended = tokio::spawn(async { panic!("{WORDS}") }).await.unwrap_err();
            eprintln!("the task: {}", why(&ended));
            let text = WORDS.to_owned();
            let ended = tokio::task::spawn_blocking(move || text[..WORDS.len() + 1].len()).await.unwrap_err();
            eprintln!("the slice: {}", why(&ended));
        });
        assert!(caught(|| panic!("{WORDS}, and caught")).is_err());
        assert!(caught(|| caught(|| panic!("{WORDS}, and caught twice"))).unwrap().is_err());
        assert!(!IS_CAUGHT.get());
    }

    #[test]
    fn a_panic_is_told_with_its_place_and_thread_and_without_its_words() {
        let run = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "panics::tests::panics_in_several_ways", "--ignored", "--nocapture"])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&run.stderr);
        assert!(run.status.success(), "{said}");
        let told: Vec<&str> = said.lines().filter(|line| line.starts_with("a defect, please report it")).collect();
        assert_eq!(told.len(), 3, "{said}");
        assert!(told[0].contains(" at src/panics.rs:") && told[0].ends_with("thread worker-7"), "{said}");
        assert!(said.contains("the task: it panicked") && said.contains("the slice: it panicked"), "{said}");
        assert!(!said.contains("1555") && !said.contains("no row"), "{said}");
    }
}
