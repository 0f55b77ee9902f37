//! Requests at a constant rate, whether the server keeps up or not, or of clients that wait for their answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, RETRY_AFTER};
use hyper::{HeaderMap, Request, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::runtime::Runtime;
use tokio::sync::{Semaphore, mpsc};

use crate::output::beginning;

/// What is asked, and of whom.
pub struct Target {
    pub uri: Uri,
    pub headers: HeaderMap,
    /// Taken in turn; none for GET.
    pub bodies: Vec<Bytes>,
    /// From the moment a request is due.
    pub timeout: Duration,
    /// Requests that are open at a time; more are due without being sent, and their clocks run.
    pub max_open: usize,
}

impl Target {
    fn request(&self, number: usize) -> anyhow::Result<Request<Full<Bytes>>> {
        let (mut request, body) = match self.bodies.len() {
            0 => (Request::get(&self.uri), Bytes::new()),
            n => {
                let request = Request::post(&self.uri).header(CONTENT_TYPE, "application/json");
                (request, self.bodies[number % n].clone())
            }
        };
        if let Some(headers) = request.headers_mut() {
            headers.extend(self.headers.clone());
        }
        Ok(request.body(Full::new(body))?)
    }
}

fn client(max_idle: usize) -> Client<HttpConnector, Full<Bytes>> {
    let mut builder = Client::builder(TokioExecutor::new());
    builder.pool_max_idle_per_host(max_idle).build_http()
}

/// A request and what became of it.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// When it was due, from the start.
    pub due: Duration,
    /// How much later it was handed over: what the load generator itself could not keep up with.
    pub late: Duration,
    /// From the moment it was due until the last byte of its answer.
    pub latency: Duration,
    pub outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Answered,
    /// 429.
    Refused {
        has_retry_after: bool,
    },
    /// Another status.
    Status(u16),
    TimedOut,
    /// No connection, or one that broke.
    Broken,
}

/// Asks once, so that a server that is not there, or does not know what is asked of it, is one error and not thousands.
///
/// # Errors
/// No connection; an answer that is neither 200 nor 429.
pub fn try_once(target: &Target) -> anyhow::Result<()> {
    let runtime = Runtime::new().context("cannot start threads")?;
    let client = client(1);
    let ask = async {
        let answer = client.request(target.request(0)?).await?;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await?.to_bytes();
        anyhow::Ok((status, body))
    };
    let answer = runtime.block_on(async { tokio::time::timeout(target.timeout, ask).await });
    let answer = answer.unwrap_or_else(|_| bail!("no answer within {:?}", target.timeout));
    match answer.with_context(|| format!("cannot ask {}", target.uri))? {
        (200 | 429, _) => Ok(()),
        (status, body) => {
            let body = beginning(&String::from_utf8_lossy(&body), 500);
            bail!("{} answers {status}: {body}", target.uri)
        }
    }
}

/// Asks `n` times, every `gap`, and waits for all answers. `progress` is told how many requests have their outcome.
///
/// Latencies are counted from when a request was due, not from when it was sent: a server that stalls is charged for every request
/// that had to wait for it (Tene 2013, *How NOT to Measure Latency*: coordinated omission).
///
/// # Errors
/// Threads that cannot be started.
pub fn at_rate(
    target: &Arc<Target>,
    n: usize,
    gap: Duration,
    mut progress: impl FnMut(usize),
) -> anyhow::Result<Vec<Asked>> {
    let runtime = Runtime::new().context("cannot start threads")?;
    let sender = Arc::new(Sender {
        client: client(target.max_open),
        open: Semaphore::new(target.max_open),
        target: Arc::clone(target),
    });
    let (due, mut dues) = mpsc::unbounded_channel();
    let start = Instant::now();
    // A thread of its own: the timers of the runtime are a millisecond coarse.
    let clock = std::thread::Builder::new().spawn(move || {
        for number in 0..n {
            let at = gap.mul_f64(number as f64);
            std::thread::sleep(at.saturating_sub(start.elapsed()));
            if due.send((number, at)).is_err() {
                break;
            }
        }
    });
    let clock = clock.context("cannot start a thread")?;
    let asked = runtime.block_on(async {
        let (mut asked, mut waiting) = (Vec::with_capacity(n), FuturesUnordered::new());
        let mut is_over = false;
        while !is_over || !waiting.is_empty() {
            tokio::select! {
                next = dues.recv(), if !is_over => match next {
                    Some((number, due)) => {
                        let (sender, late) = (Arc::clone(&sender), start.elapsed().saturating_sub(due));
                        waiting.push(tokio::spawn(async move {
                            let outcome = sender.ask(number, start + due).await;
                            let latency = start.elapsed().saturating_sub(due);
                            Asked { due, late, latency, outcome }
                        }));
                    }
                    None => is_over = true,
                },
                Some(done) = waiting.next() => {
                    asked.push(done.context("a request panicked")?);
                    progress(asked.len());
                }
            }
        }
        anyhow::Ok(asked)
    });
    clock.join().expect("the clock does not panic");
    asked
}

/// `n_clients` ask for `duration`, each anew as soon as it has its answer, and at least once. `progress` is told the time that is
/// over, about ten times a second.
///
/// # Errors
/// Threads that cannot be started.
pub fn by_clients(
    target: &Arc<Target>,
    n_clients: usize,
    duration: Duration,
    mut progress: impl FnMut(Duration),
) -> anyhow::Result<Vec<Asked>> {
    let runtime = Runtime::new().context("cannot start threads")?;
    let sender = Arc::new(Sender {
        client: client(n_clients),
        open: Semaphore::new(n_clients),
        target: Arc::clone(target),
    });
    let next = Arc::new(AtomicUsize::new(0));
    let start = Instant::now();
    let ask_until_over = |sender: Arc<Sender>, next: Arc<AtomicUsize>| async move {
        let mut asked = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let due = start.elapsed();
            let outcome = sender.ask(number, start + due).await;
            asked.push(Asked {
                due,
                late: Duration::ZERO,
                latency: start.elapsed() - due,
                outcome,
            });
            if start.elapsed() >= duration {
                return asked;
            }
        }
    };
    runtime.block_on(async {
        let ask = |_| tokio::spawn(ask_until_over(Arc::clone(&sender), Arc::clone(&next)));
        let mut clients: FuturesUnordered<_> = (0..n_clients).map(ask).collect();
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        let mut asked = Vec::new();
        loop {
            tokio::select! {
                _ = tick.tick() => progress(start.elapsed().min(duration)),
                ended = clients.next() => match ended {
                    Some(ended) => asked.extend(ended.context("a client panicked")?),
                    None => return Ok(asked),
                },
            }
        }
    })
}

struct Sender {
    client: Client<HttpConnector, Full<Bytes>>,
    open: Semaphore,
    target: Arc<Target>,
}

impl Sender {
    async fn ask(&self, number: usize, due: Instant) -> Outcome {
        let deadline = tokio::time::Instant::from_std(due + self.target.timeout);
        let outcome = tokio::time::timeout_at(deadline, async {
            let _permit = self.open.acquire().await.expect("it is never closed");
            self.send(number).await
        });
        match outcome.await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Outcome::Broken,
            Err(_) => Outcome::TimedOut,
        }
    }

    async fn send(&self, number: usize) -> anyhow::Result<Outcome> {
        let answer = self.client.request(self.target.request(number)?).await?;
        let (status, has_retry_after) = (
            answer.status().as_u16(),
            answer.headers().contains_key(RETRY_AFTER),
        );
        let mut body = answer.into_body();
        while let Some(frame) = body.frame().await {
            frame?; // read and dropped
        }
        Ok(match status {
            200 => Outcome::Answered,
            429 => Outcome::Refused { has_retry_after },
            status => Outcome::Status(status),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_begins_late_asks_once() {
        let target = Arc::new(Target {
            uri: Uri::from_static("http://127.0.0.1:1/"),
            headers: HeaderMap::new(),
            bodies: Vec::new(),
            timeout: Duration::from_secs(600),
            max_open: 1,
        });
        let asked = by_clients(&target, 3, Duration::ZERO, |_| {}).unwrap();
        let outcomes: Vec<Outcome> = asked.iter().map(|asked| asked.outcome).collect();
        assert_eq!(outcomes, [Outcome::Broken; 3]);
    }
}
