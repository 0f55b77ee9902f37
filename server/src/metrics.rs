use std::time::Duration;

use metrics::{Key, Label, Level, Metadata, Recorder, Unit};
use metrics_exporter_prometheus::{
    BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

const REQUESTS: &str = "trawl_http_requests_total";
const KEY_REQUESTS: &str = "trawl_key_requests_total";
const REQUEST_SECONDS: &str = "trawl_http_request_seconds";
const STAGE_SECONDS: &str = "trawl_stage_seconds";
const QUEUE_TOKENS: &str = "trawl_queue_tokens";
const DROPPED: &str = "trawl_queue_dropped_total";
const QUERY_CACHE: &str = "trawl_query_cache_total";
const QUERY_CACHE_BYTES: &str = "trawl_query_cache_bytes";
const HEALTHY: &str = "trawl_healthy";
const BATCH_TOKENS: &str = "trawl_batch_tokens";
const BATCH_ROWS: &str = "trawl_batch_rows";
const BATCH_SECONDS: &str = "trawl_batch_seconds";

const QUERY_LOG: &str = "trawl_query_log_events_total";
const SHADOW: &str = "trawl_shadow_searches_total";
const SHADOW_OVERLAP: &str = "trawl_shadow_overlap";
const SHADOW_SECONDS: &str = "trawl_shadow_seconds";
const SPANS_DROPPED: &str = "trawl_spans_dropped_total";
const SWAPS: &str = "trawl_swaps_total";

const METADATA: Metadata<'static> = Metadata::new("trawl", Level::INFO, None);

/// The figures of one server, in Prometheus' text format. Nothing is global: two servers in one process count apart.
pub(crate) struct Metrics {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
}

impl Metrics {
    pub(crate) fn new() -> Result<Self, BuildError> {
        let seconds: Vec<f64> = (0..18).map(|power| 1e-4 * f64::from(1 << power)).collect();
        let sizes: Vec<f64> = (0..16).map(|power| f64::from(1 << power)).collect();
        let shares: Vec<f64> = (0..=10).map(|tenths| f64::from(tenths) / 10.0).collect();
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &seconds)?
            .set_buckets_for_metric(Matcher::Full(BATCH_TOKENS.to_owned()), &sizes)?
            .set_buckets_for_metric(Matcher::Full(BATCH_ROWS.to_owned()), &sizes)?
            .set_buckets_for_metric(Matcher::Full(SHADOW_OVERLAP.to_owned()), &shares)?
            .build_recorder();
        for (name, unit, text) in [
            (
                REQUESTS,
                Unit::Count,
                "Requests answered, by route, status and error code",
            ),
            (
                KEY_REQUESTS,
                Unit::Count,
                "Requests with a known key, by its name and the error code (none: answered)",
            ),
            (
                SPANS_DROPPED,
                Unit::Count,
                "Requests whose spans the collector did not get",
            ),
            (
                SWAPS,
                Unit::Count,
                "Changes of the generation that answers, by outcome",
            ),
            (
                SHADOW,
                Unit::Count,
                "Searches that a candidate was to answer, too, by outcome",
            ),
            (
                DROPPED,
                Unit::Count,
                "Requests that never reached a model, by model and reason",
            ),
            (
                QUERY_LOG,
                Unit::Count,
                "Events of the query log, by outcome: written, lost for lack of room, failed",
            ),
            (
                QUERY_CACHE,
                Unit::Count,
                "Queries whose vector was remembered (hit) or not (miss)",
            ),
        ] {
            recorder.describe_counter(name.into(), Some(unit), text.into());
        }
        for (name, unit, text) in [
            (QUEUE_TOKENS, Unit::Count, "Tokens waiting for a model"),
            (
                QUERY_CACHE_BYTES,
                Unit::Bytes,
                "Bytes of remembered query vectors",
            ),
            (
                HEALTHY,
                Unit::Count,
                "Whether the last known answer was as it should be",
            ),
        ] {
            recorder.describe_gauge(name.into(), Some(unit), text.into());
        }
        for (name, unit, text) in [
            (
                REQUEST_SECONDS,
                Unit::Seconds,
                "From the arrival of a request to its answer",
            ),
            (
                STAGE_SECONDS,
                Unit::Seconds,
                "Time of each stage of a search, and of embedding",
            ),
            (
                SHADOW_OVERLAP,
                Unit::Count,
                "Share of passages that the answers of a candidate and of the live generation have in common",
            ),
            (
                SHADOW_SECONDS,
                Unit::Seconds,
                "Time of compared searches, by who answered",
            ),
            (BATCH_TOKENS, Unit::Count, "Tokens of a batch"),
            (BATCH_ROWS, Unit::Count, "Texts of a batch"),
            (BATCH_SECONDS, Unit::Seconds, "Time of a batch in the model"),
        ] {
            recorder.describe_histogram(name.into(), Some(unit), text.into());
        }
        let handle = recorder.handle();
        Ok(Self { recorder, handle })
    }

    pub(crate) fn render(&self) -> String {
        self.handle.render()
    }

    /// Folds samples into their histograms; without it they would pile up until somebody asks.
    pub(crate) fn fold(&self) {
        self.handle.run_upkeep();
    }

    pub(crate) fn request(&self, route: &str, status: u16, code: &'static str, elapsed: Duration) {
        let route = Label::new("route", route.to_owned());
        let labels = [
            route.clone(),
            Label::new("status", status.to_string()),
            Label::from_static_parts("code", code),
        ];
        self.count(REQUESTS, labels.to_vec(), 1);
        self.observe(REQUEST_SECONDS, vec![route], elapsed.as_secs_f64());
    }

    /// A request of a caller whose key is known.
    pub(crate) fn key_request(&self, key: &str, code: &'static str) {
        let labels = vec![
            Label::new("key", key.to_owned()),
            Label::from_static_parts("code", code),
        ];
        self.count(KEY_REQUESTS, labels, 1);
    }

    pub(crate) fn stage(&self, stage: &'static str, elapsed: Duration) {
        let labels = vec![Label::from_static_parts("stage", stage)];
        self.observe(STAGE_SECONDS, labels, elapsed.as_secs_f64());
    }

    pub(crate) fn query_cache(&self, n_hits: usize, n_misses: usize, n_bytes: usize) {
        for (result, n) in [("hit", n_hits), ("miss", n_misses)] {
            let label = Label::from_static_parts("result", result);
            self.count(QUERY_CACHE, vec![label], n as u64);
        }
        self.gauge(QUERY_CACHE_BYTES, Vec::new(), n_bytes as f64);
    }

    pub(crate) fn healthy(&self, healthy: bool) {
        self.gauge(HEALTHY, Vec::new(), f64::from(u8::from(healthy)));
    }

    pub(crate) fn queue_tokens(&self, model: &str, n_tokens: usize) {
        self.gauge(QUEUE_TOKENS, vec![of(model)], n_tokens as f64);
    }

    pub(crate) fn dropped(&self, model: &str, reason: &'static str, n: u64) {
        if n > 0 {
            self.count(
                DROPPED,
                vec![of(model), Label::from_static_parts("reason", reason)],
                n,
            );
        }
    }

    pub(crate) fn query_log(&self, outcome: &'static str, n: u64) {
        if n > 0 {
            let label = Label::from_static_parts("outcome", outcome);
            self.count(QUERY_LOG, vec![label], n);
        }
    }

    pub(crate) fn spans_dropped(&self, n: u64) {
        self.count(SPANS_DROPPED, Vec::new(), n);
    }

    pub(crate) fn swap(&self, outcome: &'static str) {
        let label = Label::from_static_parts("outcome", outcome);
        self.count(SWAPS, vec![label], 1);
    }

    pub(crate) fn shadow(
        &self,
        collection: &str,
        overlap: f64,
        live: Duration,
        candidate: Duration,
    ) {
        let of = Label::new("collection", collection.to_owned());
        self.count_shadow(collection, "compared", 1);
        self.observe(SHADOW_OVERLAP, vec![of.clone()], overlap);
        for (by, elapsed) in [("live", live), ("candidate", candidate)] {
            let labels = vec![of.clone(), Label::from_static_parts("by", by)];
            self.observe(SHADOW_SECONDS, labels, elapsed.as_secs_f64());
        }
    }

    /// Counts searches that a candidate was to answer.
    pub(crate) fn count_shadow(&self, collection: &str, outcome: &'static str, n: u64) {
        let of = Label::new("collection", collection.to_owned());
        let labels = vec![of, Label::from_static_parts("outcome", outcome)];
        self.count(SHADOW, labels, n);
    }

    pub(crate) fn batch(&self, model: &str, n_rows: usize, n_tokens: usize, elapsed: Duration) {
        self.observe(BATCH_ROWS, vec![of(model)], n_rows as f64);
        self.observe(BATCH_TOKENS, vec![of(model)], n_tokens as f64);
        self.observe(BATCH_SECONDS, vec![of(model)], elapsed.as_secs_f64());
    }

    fn gauge(&self, name: &'static str, labels: Vec<Label>, value: f64) {
        let key = Key::from_parts(name, labels);
        self.recorder.register_gauge(&key, &METADATA).set(value);
    }

    fn count(&self, name: &'static str, labels: Vec<Label>, n: u64) {
        let key = Key::from_parts(name, labels);
        self.recorder.register_counter(&key, &METADATA).increment(n);
    }

    fn observe(&self, name: &'static str, labels: Vec<Label>, value: f64) {
        let key = Key::from_parts(name, labels);
        self.recorder
            .register_histogram(&key, &METADATA)
            .record(value);
    }
}

fn of(model: &str) -> Label {
    Label::new("model", model.to_owned())
}
