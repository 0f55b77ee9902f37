//! The outermost layer: request id, limits that hold for every route, panics, errors, metrics and the log.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use openapi::ErrorCode;
use retriever::{Deadline, Filter};

use crate::Scope;
use crate::auth::Key;
use crate::body::discard;
use crate::cors;
use crate::form::{Form, is_work};
use crate::problem::{ApiError, take_error};
use crate::scheduler::Class;
use crate::state::{App, Phase, Shared};
use crate::trace::{Answered, Stages, Trace};

pub(crate) static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static TRACE_PARENT: HeaderName = HeaderName::from_static("traceparent");
static TIMEOUT: HeaderName = HeaderName::from_static("x-timeout-ms");
static PRIORITY: HeaderName = HeaderName::from_static("x-priority");

/// What every handler may know about its request.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(crate) request_id: String,
    arrival: Instant,
    timeout: Option<Duration>,
    class: Option<Class>,
    key: Option<Arc<Key>>,
}

impl Context {
    /// Refuses what the caller's key has no scope for.
    pub(crate) fn require(&self, scope: Scope) -> Result<(), ApiError> {
        self.key.as_ref().map_or(Ok(()), |key| key.require(scope))
    }

    /// Whether the caller may know of a collection, which may be named by one of its generations.
    pub(crate) fn may_use(&self, name: &str) -> bool {
        let collection = name.split('@').next().unwrap_or_default();
        self.key.as_ref().is_none_or(|key| key.may_use(collection))
    }

    /// Tells callers with keys apart where nothing of their keys may stand.
    pub(crate) fn caller(&self) -> Option<String> {
        self.key.as_ref().map(|key| key.pseudonym())
    }

    /// What the caller's searches are narrowed to.
    pub(crate) fn filter(&self) -> Option<&Filter> {
        self.key.as_ref().and_then(|key| key.filter())
    }

    /// When the answer is of no more use; `asked` is what the body says, in milliseconds, `usual` what is given to a
    /// request that says nothing.
    pub(crate) fn deadline(
        &self,
        asked: Option<u64>,
        usual: Duration,
        app: &Shared,
    ) -> Result<Deadline, ApiError> {
        let asked = asked.map(Duration::from_millis);
        let most = app.config.max_timeout;
        let timeout = match (asked, self.timeout) {
            (Some(body), Some(header)) => body.min(header),
            (body, header) => body.or(header).unwrap_or(usual.min(most)),
        };
        if timeout > most {
            let limit = most.as_millis();
            let message = format!(
                "is {}, limit is {limit} (`server.max_timeout`)",
                timeout.as_millis()
            );
            return Err(match asked {
                Some(asked) if asked == timeout => {
                    ApiError::field("/timeout_ms", "too_large", message)
                }
                _ => {
                    let text = format!("header `{TIMEOUT}` {message}");
                    ApiError::new(ErrorCode::Validation, text)
                }
            });
        }
        Ok(self
            .arrival
            .checked_add(timeout)
            .map_or(Deadline::NONE, Deadline::at))
    }

    /// Who waits: what the header says, else what is usual for the route.
    pub(crate) fn class(&self, usual: Class) -> Class {
        self.class.unwrap_or(usual)
    }
}

pub(crate) async fn exchange(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let arrival = Instant::now();
    let request_id = request_id(request.headers());
    let trace = Trace::of(request.headers());
    let trace_id = trace.id();
    let path = request.uri().path().to_owned();
    let method = request.method().clone();
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map(|path| path.as_str().to_owned());

    let origin = cors::allowed(&app.config.cors_origins, request.headers());
    let mut caller = None;
    let preflight = cors::preflight(&method, request.headers(), origin.as_ref());
    let mut response = match preflight {
        Some(response) => response,
        None => match admit(&app, &request, &request_id, arrival, &mut caller) {
            Ok((context, permit)) => {
                request.extensions_mut().insert(context);
                let outcome = AssertUnwindSafe(next.run(request)).catch_unwind().await;
                drop(permit);
                outcome
                    .unwrap_or_else(|panic| ApiError::internal(panic_text(&*panic)).into_response())
            }
            Err(error) => {
                discard(request.into_body(), app.config.read_timeout);
                error.into_response()
            }
        },
    };

    let elapsed = arrival.elapsed();
    let status = response.status();
    let mut code = "";
    if status.is_client_error() || status.is_server_error() {
        let error = take_error(&mut response).unwrap_or_else(|| ApiError::from_status(status));
        code = error.code.as_str();
        if error.code == ErrorCode::Internal {
            let cause = error.causes();
            tracing::error!(request_id, trace_id, %method, path, cause, "request failed");
        } else {
            tracing::debug!(request_id, trace_id, %method, path, code, "request refused");
        }
        error.render(&mut response, &path, &request_id, Form::of(&path));
    }
    let status = response.status().as_u16();
    let elapsed_ms = elapsed.as_secs_f64() * 1e3;
    tracing::debug!(request_id, trace_id, %method, path, status, elapsed_ms, "request answered");
    app.metrics
        .request(route.as_deref().unwrap_or("none"), status, code, elapsed);
    if let Some(key) = caller {
        app.metrics.key_request(key.name(), code);
    }
    if let Some(origin) = origin {
        cors::expose(&mut response, origin);
    }
    for (name, value) in [(&REQUEST_ID, &request_id), (&TRACE_PARENT, &trace.header())] {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(name, value);
        }
    }
    if let Some(traces) = &app.traces {
        let stages = response.extensions_mut().remove();
        traces.send(Answered {
            trace,
            method: method.to_string(),
            route: route.unwrap_or_else(|| "none".to_owned()),
            request_id,
            status,
            code,
            elapsed,
            stages: stages.map_or_else(Vec::new, |Stages(stages)| stages),
        });
    }
    response
}

type Permit<'a> = Option<tokio::sync::SemaphorePermit<'a>>;

/// Checks what can be checked before a route is asked. `caller` is who asks, also where the answer is no.
fn admit<'a>(
    app: &'a Shared,
    request: &Request,
    request_id: &str,
    arrival: Instant,
    caller: &mut Option<Arc<Key>>,
) -> Result<(Context, Permit<'a>), ApiError> {
    let (path, headers) = (request.uri().path(), request.headers());
    let n_bytes: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    let limit = app.limits().header_bytes;
    if n_bytes > limit {
        let (code, given) = (ErrorCode::HeadersTooLarge, Some(n_bytes as u64));
        return Err(ApiError::too_many(
            code,
            "bytes of all headers:",
            given,
            limit,
            "limits.header_bytes",
        ));
    }
    *caller = app.auth().identify(path, headers)?;
    if let Some(key) = caller {
        key.admit(request.method(), path, arrival)?;
    }
    let mut permit = None;
    if is_work(path) {
        if app.phase() == Phase::Starting {
            let text = "models and collections are being checked";
            return Err(ApiError::new(ErrorCode::NotReady, text));
        }
        let Ok(acquired) = app.requests.try_acquire() else {
            let limit = app.config.limits.requests;
            let text = format!("{limit} requests are in flight (`limits.requests`)");
            return Err(ApiError::overloaded(text, Duration::from_secs(1)));
        };
        permit = Some(acquired);
    }
    let timeout = match text_of(headers, &TIMEOUT)? {
        Some(text) => match text.parse() {
            Ok(millis) if millis > 0 => Some(Duration::from_millis(millis)),
            _ => return Err(bad_header(&TIMEOUT, "milliseconds, a whole number from 1")),
        },
        None => None,
    };
    let class = match text_of(headers, &PRIORITY)? {
        Some("interactive") => Some(Class::Interactive),
        Some("bulk") => Some(Class::Bulk),
        Some(_) => return Err(bad_header(&PRIORITY, "`interactive` or `bulk`")),
        None => None,
    };
    Ok((
        Context {
            request_id: request_id.to_owned(),
            arrival,
            timeout,
            class,
            key: caller.clone(),
        },
        permit,
    ))
}

fn text_of<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, ApiError> {
    let text = headers.get(name).map(HeaderValue::to_str).transpose();
    text.map_err(|_| bad_header(name, "plain text"))
}

fn bad_header(name: &HeaderName, expected: &str) -> ApiError {
    ApiError::new(
        ErrorCode::BadRequest,
        format!("header `{name}` is not {expected}"),
    )
}

/// The caller's id where it is harmless in a log and a header, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers
        .get(&REQUEST_ID)
        .and_then(|value| value.to_str().ok());
    given
        .filter(|id| is_harmless(id))
        .map_or_else(new_request_id, str::to_owned)
}

/// Whether a text may be the id of a request.
pub(crate) fn is_harmless(id: &str) -> bool {
    (1..=128).contains(&id.len())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.:+/=".contains(&byte))
}

/// A ULID: 48 bits of milliseconds, then 80 random bits, in Crockford's base 32; sorts by time.
fn new_request_id() -> String {
    let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let millis = since_epoch.unwrap_or_default().as_millis();
    let bits = millis << 80 | rand::random::<u128>() >> 48;
    let digit = |place: u32| {
        char::from(b"0123456789ABCDEFGHJKMNPQRSTVWXYZ"[(bits >> (5 * place) & 31) as usize])
    };
    (0..26).rev().map(digit).collect()
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("panicked: {}", text.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::middleware::from_fn_with_state;
    use axum::routing::get;
    use http_body_util::BodyExt;
    use openapi::Problem;
    use tower::ServiceExt;

    use super::*;
    use crate::ServerConfig;
    use crate::metrics::Metrics;

    async fn panic() {
        panic!("a secret of the house");
    }

    #[tokio::test]
    async fn a_panic_is_an_internal_error_that_tells_nothing() {
        let app = App::new(Shared::new(
            ServerConfig::default(),
            Metrics::new().unwrap(),
        ));
        let router = Router::new()
            .route("/panic", get(panic))
            .layer(from_fn_with_state(App::clone(&app), exchange));
        let request = Request::get("/panic").body(Body::empty()).unwrap();
        let response = router.oneshot(request).await.unwrap();
        assert_eq!(response.status(), 500);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let problem: Problem = serde_json::from_slice(&body).unwrap();
        assert_eq!(problem.code, ErrorCode::Internal);
        assert!(!String::from_utf8_lossy(&body).contains("secret"));
        assert!(app.metrics.render().contains("code=\"internal\""));
    }

    #[test]
    fn a_harmless_request_id_is_kept_and_another_replaced() {
        let id_of = |given: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(&REQUEST_ID, HeaderValue::from_bytes(given).unwrap());
            request_id(&headers)
        };
        assert_eq!(id_of(b"a-1:b"), "a-1:b");
        let long = "a".repeat(129);
        for given in [
            &b""[..],
            b"two words",
            b"<b>",
            "é".as_bytes(),
            long.as_bytes(),
        ] {
            assert_eq!(id_of(given).len(), 26);
        }
    }

    #[test]
    fn new_request_ids_differ_and_sort_by_time() {
        let first = new_request_id();
        std::thread::sleep(Duration::from_millis(2));
        let second = new_request_id();
        assert!(first < second, "{first} {second}");
        assert!(first.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    }
}
