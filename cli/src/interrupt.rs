//! Ctrl-C and SIGTERM for work that ends at a safe point.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use crate::failure::{Exit, Failure};
use crate::output::say;

static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// The flag that Ctrl-C or SIGTERM sets from the first call on; a second one ends the process at once with exit code 130.
pub fn flag() -> anyhow::Result<Arc<AtomicBool>> {
    if let Some(flag) = FLAG.get() {
        return Ok(Arc::clone(flag));
    }
    let set = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&set);
    ctrlc::set_handler(move || {
        if set.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
        say("stopping at the next safe point; once more to stop at once");
    })?;
    Ok(Arc::clone(FLAG.get_or_init(|| flag)))
}

/// Passes on what is written until the flag is set, and fails from then on. For a file under a temporary name, which a process
/// that is ended at once would leave behind.
pub struct UntilStopped<W> {
    writer: W,
    stopped: Arc<AtomicBool>,
}

impl<W> UntilStopped<W> {
    pub fn new(writer: W, stopped: Arc<AtomicBool>) -> Self {
        Self { writer, stopped }
    }
}

impl<W: Write> Write for UntilStopped<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.stopped.load(Ordering::Relaxed) {
            true => Err(io::Error::other(Failure::new(Exit::Interrupted, "stopped"))),
            false => self.writer.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}
