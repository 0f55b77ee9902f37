//! Ctrl-C and SIGTERM for work that ends at a safe point.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A flag that Ctrl-C or SIGTERM sets; a second one ends the process at once with exit code 130.
pub fn flag() -> anyhow::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&flag);
    ctrlc::set_handler(move || {
        if set.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
        eprintln!("stopping at the next safe point; once more to stop at once");
    })?;
    Ok(flag)
}
