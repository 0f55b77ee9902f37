//! Which trace a request belongs to (W3C Trace Context), and the spans of it that a collector gets: OTLP over HTTP, as JSON.
//!
//! A request never waits for the collector: its span goes into a bounded queue, or is dropped and counted.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::HeaderMap;
use serde_json::{Value, json};

use crate::metrics::Metrics;

/// Requests whose spans may wait for the collector.
const MAX_WAITING: usize = 2048;

/// Requests whose spans are sent together.
const MAX_TOGETHER: usize = 256;

/// A request within a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trace {
    id: u128,
    /// The span of the caller.
    parent: Option<u64>,
    span: u64,
    /// Whether the caller records the trace; it does not say so where there is none.
    sampled: bool,
}

impl Trace {
    /// The trace that the header `traceparent` names; without a valid one, a new one.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let given = headers.get("traceparent");
        let given = given.and_then(|value| parse(value.to_str().ok()?));
        let (id, parent, sampled) = match given {
            Some((id, parent, sampled)) => (id, Some(parent), sampled),
            None => (rand::random::<u128>().max(1), None, true),
        };
        let span = rand::random::<u64>().max(1);
        Self {
            id,
            parent,
            span,
            sampled,
        }
    }

    /// The trace, in hexadecimal digits.
    pub(crate) fn id(&self) -> String {
        format!("{:032x}", self.id)
    }

    /// `traceparent`, for whoever comes next.
    pub(crate) fn header(&self) -> String {
        let Self {
            id, span, sampled, ..
        } = self;
        format!("00-{id:032x}-{span:016x}-{:02x}", u8::from(*sampled))
    }
}

/// Trace, span and whether it is recorded. Versions to come may have more behind the flags.
fn parse(text: &str) -> Option<(u128, u64, bool)> {
    let mut parts = text.trim().split('-');
    let mut hex = |n_digits: usize| {
        let part = parts.next()?;
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (part.len() == n_digits && part.bytes().all(is_hex)).then_some(part)
    };
    let version = hex(2)?;
    let id = u128::from_str_radix(hex(32)?, 16).ok()?;
    let span = u64::from_str_radix(hex(16)?, 16).ok()?;
    let flags = u8::from_str_radix(hex(2)?, 16).ok()?;
    let is_whole = version != "00" || parts.next().is_none();
    (version != "ff" && id != 0 && span != 0 && is_whole).then_some((id, span, flags & 1 == 1))
}

/// The stages of an answer, from the route to the layer that traces it.
#[derive(Clone)]
pub(crate) struct Stages(pub(crate) Vec<(&'static str, Duration)>);

/// A request that was answered.
pub(crate) struct Answered {
    pub(crate) trace: Trace,
    pub(crate) method: String,
    pub(crate) route: String,
    pub(crate) request_id: String,
    pub(crate) status: u16,
    /// Empty where there is no error.
    pub(crate) code: &'static str,
    pub(crate) elapsed: Duration,
    pub(crate) stages: Vec<(&'static str, Duration)>,
}

/// The way to a collector.
pub(crate) struct Exporter {
    queue: SyncSender<(SystemTime, Answered)>,
    metrics: Arc<Metrics>,
}

impl Exporter {
    /// `endpoint` is that of OTLP over HTTP, such as `http://127.0.0.1:4318`; `timeout` is what it has to take spans.
    pub(crate) fn start(endpoint: &str, timeout: Duration, metrics: Arc<Metrics>) -> Self {
        let url = format!("{}/v1/traces", endpoint.trim_end_matches('/'));
        let (queue, waiting) = sync_channel(MAX_WAITING);
        let counted = Arc::clone(&metrics);
        std::thread::spawn(move || send_all(&url, timeout, &waiting, &counted));
        Self { queue, metrics }
    }

    /// Takes a request where the caller has the trace recorded and the queue has room.
    pub(crate) fn send(&self, answered: Answered) {
        if answered.trace.sampled && self.queue.try_send((SystemTime::now(), answered)).is_err() {
            self.metrics.spans_dropped(1);
        }
    }
}

/// Sends what waits until the server is gone.
fn send_all(
    url: &str,
    timeout: Duration,
    waiting: &Receiver<(SystemTime, Answered)>,
    metrics: &Metrics,
) {
    let config = ureq::Agent::config_builder().timeout_global(Some(timeout));
    let agent: ureq::Agent = config.build().into();
    while let Ok(first) = waiting.recv() {
        let mut answered = vec![first];
        answered.extend(waiting.try_iter().take(MAX_TOGETHER - 1));
        let spans: Vec<Value> = answered.iter().flat_map(spans).collect();
        let name = json!([{"key": "service.name", "value": {"stringValue": "trawl"}}]);
        let body = json!({"resourceSpans": [{
            "resource": {"attributes": name},
            "scopeSpans": [{"scope": {"name": "trawl"}, "spans": spans}],
        }]});
        let request = agent.post(url).header("content-type", "application/json");
        if let Err(error) = request.send(body.to_string()) {
            tracing::debug!(%error, "spans were not taken");
            metrics.spans_dropped(answered.len() as u64);
        }
    }
}

/// The span of a request, and below it those of its stages, one after another up to its end.
fn spans((end, answered): &(SystemTime, Answered)) -> Vec<Value> {
    let Answered { trace, .. } = answered;
    let end = end.duration_since(UNIX_EPOCH).unwrap_or_default();
    let start = end.saturating_sub(answered.elapsed);
    let nanos = |time: Duration| time.as_nanos().to_string();
    let text = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
    let mut request = json!({
        "traceId": trace.id(),
        "spanId": format!("{:016x}", trace.span),
        "name": format!("{} {}", answered.method, answered.route),
        "kind": 2,
        "startTimeUnixNano": nanos(start),
        "endTimeUnixNano": nanos(end),
        "attributes": [
            text("http.request.method", &answered.method),
            text("http.route", &answered.route),
            text("trawl.request_id", &answered.request_id),
            {"key": "http.response.status_code", "value": {"intValue": answered.status.to_string()}},
        ],
    });
    if let Some(parent) = trace.parent {
        request["parentSpanId"] = format!("{parent:016x}").into();
    }
    if !answered.code.is_empty() {
        let attributes = request["attributes"].as_array_mut();
        attributes
            .expect("attributes are a list")
            .push(text("error.type", answered.code));
    }
    if answered.status >= 500 {
        request["status"] = json!({"code": 2});
    }
    let spent = answered.stages.iter().map(|(_, elapsed)| *elapsed).sum();
    let mut next = end.saturating_sub(spent).max(start);
    let stage = |(stage, elapsed): &(&'static str, Duration)| {
        let begin = next;
        next += *elapsed;
        json!({
            "traceId": trace.id(),
            "spanId": format!("{:016x}", rand::random::<u64>().max(1)),
            "parentSpanId": format!("{:016x}", trace.span),
            "name": stage,
            "kind": 1,
            "startTimeUnixNano": nanos(begin),
            "endTimeUnixNano": nanos(next),
        })
    };
    let stages: Vec<Value> = answered.stages.iter().map(stage).collect();
    [vec![request], stages].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_taken_over_where_it_is_valid() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("traceparent", text.parse().unwrap());
            Trace::of(&headers)
        };
        let (id, parent) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        for (text, sampled) in [
            (format!("00-{id}-{parent}-01"), true),
            (format!("00-{id}-{parent}-00"), false),
            (format!("01-{id}-{parent}-01-more"), true),
        ] {
            let trace = of(&text);
            assert_eq!(trace.id(), id, "{text}");
            assert_eq!(trace.parent, Some(0x00f0_67aa_0ba9_02b7));
            assert_eq!(trace.sampled, sampled, "{text}");
            let next = of(&trace.header());
            assert_eq!((next.id, next.parent), (trace.id, Some(trace.span)));
        }
        for text in [
            "".to_owned(),
            "nonsense".to_owned(),
            format!("00-{id}-{parent}"),
            format!("ff-{id}-{parent}-01"),
            format!("00-{id}-{parent}-01-more"),
            format!("00-{}-{parent}-01", id.to_uppercase()),
            format!("00-{}-{parent}-01", "0".repeat(32)),
            format!("00-{id}-{}-01", "0".repeat(16)),
            format!("00-{id}-{parent}-+1"),
        ] {
            let trace = of(&text);
            assert_eq!((trace.parent, trace.sampled), (None, true), "{text}");
            assert_ne!(trace.id(), id);
        }
    }
}
