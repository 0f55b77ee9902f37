//! What was searched and found, and what callers thought of it, in a file: the ground of judgments and training data.
//!
//! One thread writes; whoever has something to write hands it over or, where too much waits already, is told so at once. Lines are
//! JSON, one event each. A file that has its full size becomes `NAME.1`, that one `NAME.2`, and the last one goes.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::metrics::Metrics;

/// Events that may wait for the writer.
const MAX_WAITING: usize = 8192;
/// Results of a search that are logged, its first ones.
pub(crate) const MAX_RESULTS: usize = 100;

/// A log of queries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueryLogConfig {
    /// The file (`query_log.path`).
    pub path: PathBuf,
    /// Whether texts of queries are in it (`query_log.text`).
    pub text: bool,
    /// Bytes of a file at most (`query_log.max_size`).
    pub max_bytes: u64,
    /// Files at most, the one that is written included (`query_log.files`).
    pub max_files: usize,
}

impl QueryLogConfig {
    /// A log without texts, of four files of 64 MiB.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            text: false,
            max_bytes: 64 << 20,
            max_files: 4,
        }
    }
}

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum LoggedEvent {
    /// A search was answered.
    Search(LoggedSearch),
    /// A caller said something of a document.
    Feedback(LoggedFeedback),
}

/// A search that was answered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoggedSearch {
    /// Milliseconds since 1970.
    pub time_ms: u64,
    /// Id of the request.
    pub request_id: String,
    /// Its place among the searches of a batch, from 0.
    pub place: usize,
    /// Tells callers with keys apart, and says nothing of the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The collection.
    pub collection: String,
    /// The generation that answered.
    pub generation: String,
    /// The query, where texts are logged and it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// The first results, best first.
    pub results: Vec<LoggedResult>,
}

/// A document that a search found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedResult {
    /// The document, or the passage where documents are not split.
    pub id: String,
    /// Its rank, or that of its group.
    pub rank: usize,
}

/// What a caller said of a document.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoggedFeedback {
    /// Milliseconds since 1970.
    pub time_ms: u64,
    /// Tells callers with keys apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The collection.
    pub collection: String,
    /// Id of the request that searched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Which search of a batch.
    #[serde(default)]
    pub place: usize,
    /// The query, where the caller gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// The document, or the passage where documents are not split.
    pub id: String,
    /// A judgment; without, a click.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grade: Option<i32>,
    /// Where the caller showed the document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<usize>,
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    since_epoch.unwrap_or_default().as_millis() as u64
}

/// Hands events to the thread that writes them.
pub(crate) struct QueryLog {
    pub(crate) has_text: bool,
    /// None when the log is closed.
    sender: Mutex<Option<Sender<Vec<LoggedEvent>>>>,
    /// Events that wait for the writer.
    n_waiting: Arc<AtomicUsize>,
    writer: Mutex<Option<JoinHandle<()>>>,
    metrics: Arc<Metrics>,
}

/// The log takes no more.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LogFull;

impl QueryLog {
    /// Opens the file and starts its thread.
    pub(crate) fn open(config: &QueryLogConfig, metrics: Arc<Metrics>) -> io::Result<Self> {
        let mut file = LogFile::open(config)?;
        let (sender, events) = channel();
        let n_waiting = Arc::new(AtomicUsize::new(0));
        let (counted, waiting) = (Arc::clone(&metrics), Arc::clone(&n_waiting));
        let write = move || write_all(&events, &waiting, &mut file, &counted);
        let writer = std::thread::Builder::new()
            .name("query-log".to_owned())
            .spawn(write)?;
        Ok(Self {
            has_text: config.text,
            sender: Mutex::new(Some(sender)),
            n_waiting,
            writer: Mutex::new(Some(writer)),
            metrics,
        })
    }

    /// Hands over events, all of them or, where too many wait, none; those are counted.
    pub(crate) fn record(&self, events: Vec<LoggedEvent>) -> Result<(), LogFull> {
        let n_events = events.len();
        let before = self.n_waiting.fetch_add(n_events, Ordering::AcqRel);
        let has_room = before == 0 || before + n_events <= MAX_WAITING;
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = sender.as_ref().filter(|_| has_room);
        if sent.is_some_and(|sender| sender.send(events).is_ok()) {
            return Ok(());
        }
        self.n_waiting.fetch_sub(n_events, Ordering::AcqRel);
        self.metrics.query_log("lost", n_events as u64);
        Err(LogFull)
    }

    /// Writes what waits, to the disk, and takes no more.
    pub(crate) fn close(&self) {
        let mut sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        drop(sender.take());
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(writer) = writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the thread of the query log panicked");
        }
    }
}

impl Drop for QueryLog {
    fn drop(&mut self) {
        self.close();
    }
}

/// Writes events until nobody can send more. Lines are in the file when nothing waits, and on the disk at the end.
fn write_all(
    events: &Receiver<Vec<LoggedEvent>>,
    n_waiting: &AtomicUsize,
    file: &mut LogFile,
    metrics: &Metrics,
) {
    let mut is_failing = false;
    let mut noted = |outcome: io::Result<()>, n_events: u64| match outcome {
        Ok(()) => {
            metrics.query_log("written", n_events);
            is_failing = false;
        }
        Err(error) => {
            metrics.query_log("failed", n_events);
            if !std::mem::replace(&mut is_failing, true) {
                tracing::error!(%error, "cannot write the query log");
            }
        }
    };
    loop {
        let events = match events.try_recv() {
            Ok(events) => events,
            Err(TryRecvError::Disconnected) => break,
            Err(TryRecvError::Empty) => {
                noted(file.flush(), 0);
                match events.recv() {
                    Ok(events) => events,
                    Err(_) => break,
                }
            }
        };
        for event in events {
            noted(file.append(&event), 1);
            n_waiting.fetch_sub(1, Ordering::AcqRel);
        }
    }
    noted(file.sync(), 0);
}

/// The file that is written, and those before it.
struct LogFile {
    config: QueryLogConfig,
    writer: BufWriter<File>,
    n_bytes: u64,
}

impl LogFile {
    fn open(config: &QueryLogConfig) -> io::Result<Self> {
        if let Some(folder) = config.path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let file = append_to(&config.path)?;
        let n_bytes = file.metadata()?.len();
        Ok(Self {
            config: config.clone(),
            writer: BufWriter::new(file),
            n_bytes,
        })
    }

    fn append(&mut self, event: &LoggedEvent) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        let n_bytes = line.len() as u64;
        if self.n_bytes > 0 && self.n_bytes + n_bytes > self.config.max_bytes {
            self.rotate()?;
        }
        self.writer.write_all(&line)?;
        self.n_bytes += n_bytes;
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }

    fn sync(&mut self) -> io::Result<()> {
        self.writer.flush()?;
        self.writer.get_ref().sync_all()
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.sync()?;
        let path = &self.config.path;
        for number in (1..self.config.max_files).rev() {
            let from = match number {
                1 => path.clone(),
                _ => rotated(path, number - 1),
            };
            match std::fs::rename(from, rotated(path, number)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if self.config.max_files <= 1 {
            std::fs::remove_file(path)?;
        }
        self.writer = BufWriter::new(append_to(path)?);
        self.n_bytes = 0;
        Ok(())
    }
}

/// Only its owner reads what people searched for.
fn append_to(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.create(true).append(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// The name of an older file of a log, 1 being the youngest.
fn rotated(path: &Path, number: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// The files of a log, oldest first.
///
/// # Errors
/// When a folder cannot be read.
pub fn query_log_files(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for number in 1.. {
        let older = rotated(path, number);
        if !older.try_exists()? {
            break;
        }
        files.push(older);
    }
    files.reverse();
    if path.try_exists()? || files.is_empty() {
        files.push(path.to_owned());
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(n: u64) -> LoggedEvent {
        LoggedEvent::Feedback(LoggedFeedback {
            time_ms: n,
            key: None,
            collection: "docs".to_owned(),
            request_id: Some("r".to_owned()),
            place: 0,
            query: None,
            id: "d".to_owned(),
            grade: None,
            rank: None,
        })
    }

    fn read(path: &Path) -> Vec<LoggedEvent> {
        let files = query_log_files(path).unwrap();
        let texts = files
            .iter()
            .map(|file| std::fs::read_to_string(file).unwrap());
        let texts: Vec<String> = texts.collect();
        let lines = texts.iter().flat_map(|text| text.lines());
        lines
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[test]
    fn a_log_keeps_the_last_files_and_begins_where_it_ended() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs/queries.jsonl");
        let line = serde_json::to_vec(&event(10)).unwrap().len() as u64 + 1;
        let config = QueryLogConfig {
            max_bytes: 3 * line,
            max_files: 3,
            ..QueryLogConfig::new(path.clone())
        };
        let metrics = Arc::new(Metrics::new().unwrap());
        for part in [10..17, 17..20] {
            let log = QueryLog::open(&config, Arc::clone(&metrics)).unwrap();
            log.record(part.map(event).collect()).unwrap();
            log.close();
            assert_eq!(log.record(vec![event(1)]), Err(LogFull));
        }
        let files = query_log_files(&path).unwrap();
        let lengths = files
            .iter()
            .map(|file| std::fs::metadata(file).unwrap().len());
        assert_eq!(lengths.collect::<Vec<_>>(), [3 * line, 3 * line, line]);
        assert_eq!(read(&path), (13..20).map(event).collect::<Vec<_>>());
        let one = QueryLogConfig {
            max_files: 1,
            ..config
        };
        let log = QueryLog::open(&one, Arc::clone(&metrics)).unwrap();
        log.record((20..24).map(event).collect()).unwrap();
        log.close();
        let last = std::fs::read_to_string(&path).unwrap();
        assert_eq!(last.lines().count(), 2);
        let figures = metrics.render();
        assert!(
            figures.contains("trawl_query_log_events_total{outcome=\"lost\"} 2"),
            "{figures}"
        );
    }

    #[test]
    fn what_there_is_no_room_for_is_counted_and_nobody_waits() {
        let (sender, events) = channel();
        let metrics = Arc::new(Metrics::new().unwrap());
        let log = QueryLog {
            has_text: false,
            sender: Mutex::new(Some(sender)),
            n_waiting: Arc::default(),
            writer: Mutex::default(),
            metrics: Arc::clone(&metrics),
        };
        let many = |n: usize| vec![event(0); n];
        assert_eq!(log.record(many(MAX_WAITING - 1)), Ok(()));
        assert_eq!(log.record(many(3)), Err(LogFull));
        assert_eq!(log.record(many(1)), Ok(()));
        assert_eq!(log.record(many(0)), Ok(()));
        let lengths: Vec<usize> = events.try_iter().map(|events| events.len()).collect();
        assert_eq!(lengths, [MAX_WAITING - 1, 1, 0]);
        let figures = metrics.render();
        assert!(
            figures.contains("trawl_query_log_events_total{outcome=\"lost\"} 3"),
            "{figures}"
        );
    }
}
