//! Ctrl-C and SIGTERM for work that ends at a safe point.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

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
