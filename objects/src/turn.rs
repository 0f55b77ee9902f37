//! One at a time, among processes that share object storage.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::{Objects, ObjectsError, Version};

const MAX_BYTES: u64 = 1 << 16;

/// A turn that processes take one after another, by an object that names who has it.
///
/// Its holder renews it while it lasts. A turn whose object has not changed for some time is over: each process measures that time
/// itself, from when it first saw the object so, and compares no clocks. A holder that was stopped for longer loses its turn and may
/// find itself not alone, so nothing may depend on turns but how much is done at once.
#[derive(Debug)]
pub struct Turn {
    objects: Objects,
    key: String,
    holder: String,
    patience: Duration,
    /// What was last seen of another's turn, and since when.
    seen: Option<(Version, Instant)>,
    /// How often this one wrote the object.
    n_written: u64,
}

#[derive(Serialize, Deserialize)]
struct State {
    /// None when the turn is over.
    holder: Option<String>,
    /// Makes each state another.
    n_written: u64,
}

impl Turn {
    /// A turn with a name, not taken yet. `holder` names this process and no other.
    #[must_use]
    pub fn new(objects: Objects, name: &str, holder: String, patience: Duration) -> Self {
        Self {
            objects,
            key: format!("turns/{name}.json"),
            holder,
            patience,
            seen: None,
            n_written: 0,
        }
    }

    /// Takes the turn if nobody has it, or renews it, and returns whether this process has it now.
    ///
    /// # Errors
    /// When the storage does not answer, or does not allow writing.
    pub fn take(&mut self) -> Result<bool, ObjectsError> {
        let Some(found) = self.objects.read(&self.key, MAX_BYTES)? else {
            let state = self.next(true);
            return Ok(self.objects.create(&self.key, &state)?.is_none());
        };
        let state: Option<State> = serde_json::from_slice(&found.bytes).ok();
        let is_free = match state.and_then(|state| state.holder) {
            None => true,
            Some(holder) if holder == self.holder => true,
            Some(_) => {
                let now = Instant::now();
                let since = match self.seen.take() {
                    Some((version, since)) if version == found.version => since,
                    _ => now,
                };
                let is_over = now.duration_since(since) >= self.patience;
                self.seen = Some((found.version.clone(), since));
                is_over
            }
        };
        let state = self.next(true);
        Ok(is_free && self.objects.replace(&self.key, &state, &found.version)?)
    }

    /// Ends the turn, if this process still has it.
    ///
    /// # Errors
    /// When the storage does not answer; others then wait until the turn is over by itself.
    pub fn end(&mut self) -> Result<(), ObjectsError> {
        let Some(found) = self.objects.read(&self.key, MAX_BYTES)? else {
            return Ok(());
        };
        let state: Option<State> = serde_json::from_slice(&found.bytes).ok();
        if state.and_then(|state| state.holder).as_ref() == Some(&self.holder) {
            let state = self.next(false);
            self.objects.replace(&self.key, &state, &found.version)?;
        }
        Ok(())
    }

    fn next(&mut self, held: bool) -> Vec<u8> {
        self.n_written += 1;
        let state = State {
            holder: held.then(|| self.holder.clone()),
            n_written: self.n_written,
        };
        serde_json::to_vec(&state).expect("a state has string keys only")
    }
}
