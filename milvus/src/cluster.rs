use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use tokio::runtime::{Builder, Runtime};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use crate::breaker::Breaker;
use crate::message::Answer;
use crate::{Address, MilvusError};

/// Attempts of one call: the first, and one retry.
const ATTEMPTS: usize = 2;
/// Answers with vectors of many passages are large.
const MAX_ANSWER: usize = 256 << 20;
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// How a cluster is asked.
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    /// Time of one attempt to search.
    pub timeout: Duration,
    /// Time of one attempt of any other call.
    pub admin_timeout: Duration,
    /// `user:password`, where the cluster asks for it. It is sent as it is: there is no TLS.
    pub token: Option<String>,
}

impl fmt::Debug for Config {
    /// Does not show the token.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = self.token.as_ref().map(|_| "…");
        formatter
            .debug_struct("Config")
            .field("timeout", &self.timeout)
            .field("admin_timeout", &self.admin_timeout)
            .field("token", &token)
            .finish()
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            timeout: Duration::from_millis(150),
            admin_timeout: Duration::from_secs(20),
            token: None,
        }
    }
}

/// Connections to the proxies of one cluster.
///
/// A call that a proxy does not answer in time, or answers with an error that another proxy may not have, is made once more, at
/// another proxy where there are several. A proxy that failed several times in a row is left alone for a while.
pub struct Cluster {
    inner: Arc<Inner>,
    /// Connections are served here, so that they outlive the runtime of whoever opened them. None while it is dropped.
    runtime: Option<Runtime>,
}

struct Inner {
    proxies: Vec<Proxy>,
    next: AtomicUsize,
    config: Config,
    authorization: Option<MetadataValue<tonic::metadata::Ascii>>,
}

struct Proxy {
    address: String,
    channel: Channel,
    breaker: Breaker,
}

/// One call of the interface.
#[derive(Clone, Copy)]
pub(crate) struct Call {
    pub name: &'static str,
    pub path: &'static str,
}

macro_rules! call {
    ($name:literal) => {
        $crate::cluster::Call {
            name: $name,
            path: concat!("/milvus.proto.milvus.MilvusService/", $name),
        }
    };
}
pub(crate) use call;

impl Cluster {
    /// Prepares connections to the proxies of an address; they are made when they are needed.
    ///
    /// # Errors
    /// [`MilvusError::Address`], [`MilvusError::Threads`].
    pub fn new(address: &Address, config: Config) -> Result<Self, MilvusError> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("milvus")
            .enable_all()
            .build()
            .map_err(MilvusError::Threads)?;
        let entered = runtime.enter();
        let proxies = address.proxies.iter().map(|proxy| {
            let endpoint = Endpoint::from_shared(format!("http://{proxy}"));
            let endpoint = endpoint.map_err(|_| MilvusError::Address {
                text: proxy.clone(),
                what: "names every proxy as `host:port`",
            })?;
            let endpoint = endpoint
                .connect_timeout(config.admin_timeout)
                .tcp_nodelay(true)
                .http2_keep_alive_interval(KEEP_ALIVE)
                .keep_alive_while_idle(true);
            Ok(Proxy {
                address: proxy.clone(),
                channel: endpoint.connect_lazy(),
                breaker: Breaker::default(),
            })
        });
        let proxies = proxies.collect::<Result<_, MilvusError>>()?;
        let authorization = config.token.as_ref().map(|token| {
            let encoded = STANDARD.encode(token);
            MetadataValue::try_from(encoded).expect("base64 fits a header")
        });
        let inner = Arc::new(Inner {
            proxies,
            next: AtomicUsize::new(0),
            config,
            authorization,
        });
        drop(entered);
        Ok(Self {
            inner,
            runtime: Some(runtime),
        })
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("there until it is dropped")
    }

    /// Makes a call with the time that searches have, and with that of the caller.
    pub(crate) async fn search_call<R: Answer>(
        &self,
        call: Call,
        request: impl Message + Clone + 'static,
        deadline: Option<Instant>,
    ) -> Result<R, MilvusError> {
        let inner = Arc::clone(&self.inner);
        let attempts = (inner.config.timeout, ATTEMPTS);
        let work = async move { inner.call(call, request, attempts, deadline).await };
        let task = self.runtime().spawn(work);
        task.await.map_err(|_| MilvusError::Stopped)?
    }

    /// Makes a call and waits for its answer. Not for use within asynchronous code.
    pub(crate) fn admin_call<R: Answer>(
        &self,
        call: Call,
        request: impl Message + Clone + 'static,
    ) -> Result<R, MilvusError> {
        self.admin_call_of(call, request, ATTEMPTS)
    }

    /// Makes a call that must not be made twice.
    pub(crate) fn admin_call_once<R: Answer>(
        &self,
        call: Call,
        request: impl Message + Clone + 'static,
    ) -> Result<R, MilvusError> {
        self.admin_call_of(call, request, 1)
    }

    fn admin_call_of<R: Answer>(
        &self,
        call: Call,
        request: impl Message + Clone + 'static,
        n_attempts: usize,
    ) -> Result<R, MilvusError> {
        let attempts = (self.inner.config.admin_timeout, n_attempts);
        self.runtime()
            .block_on(self.inner.call(call, request, attempts, None))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Why one proxy gave no answer.
enum Fault {
    /// Another may.
    Proxy(String),
    /// None will.
    Call { reason: String, code: i32 },
}

impl Inner {
    async fn call<R: Answer>(
        &self,
        call: Call,
        request: impl Message + Clone + 'static,
        (timeout, n_attempts): (Duration, usize),
        deadline: Option<Instant>,
    ) -> Result<R, MilvusError> {
        let mut tried = Vec::new();
        let mut position = self.next.fetch_add(1, Ordering::Relaxed);
        for attempt in 0..n_attempts {
            let Some(at) = self.pick(position) else {
                break;
            };
            let proxy = &self.proxies[at];
            position = at + 1;
            let now = Instant::now();
            let left = deadline.map(|deadline| deadline.saturating_duration_since(now));
            let is_last = attempt + 1 == n_attempts || !self.has_another(proxy, now);
            // A proxy that is silent must not take the time of the one that is asked next.
            let share = left.map(|left| if is_last { left } else { left / 2 });
            let within = share.map_or(timeout, |share| share.min(timeout));
            let answered = self.ask(proxy, call, request.clone(), within);
            let fault = match tokio::time::timeout(within, answered).await {
                Ok(Ok(answer)) => {
                    proxy.breaker.succeeded();
                    return Ok(answer);
                }
                Ok(Err(Fault::Call { reason, code })) => {
                    proxy.breaker.succeeded();
                    return Err(MilvusError::Refused {
                        call: call.name,
                        reason,
                        code,
                    });
                }
                Ok(Err(Fault::Proxy(why))) => why,
                Err(_) => format!("not within {} ms", within.as_millis()),
            };
            // The proxy may have had less time than is its own.
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return Err(MilvusError::DeadlineExceeded { call: call.name });
            }
            proxy.breaker.failed(Instant::now());
            tried.push(format!("{}: {fault}", proxy.address));
        }
        if tried.is_empty() {
            tried.push("every proxy failed just now".to_owned());
        }
        Err(MilvusError::Unavailable {
            call: call.name,
            tried,
        })
    }

    /// The number of the first proxy from a position on, around, that may be asked.
    fn pick(&self, position: usize) -> Option<usize> {
        let (n, now) = (self.proxies.len(), Instant::now());
        let mut around = (0..n).map(|i| position.wrapping_add(i) % n);
        around.find(|&at| self.proxies[at].breaker.lets(now))
    }

    /// Whether another proxy may be asked.
    fn has_another(&self, proxy: &Proxy, now: Instant) -> bool {
        let mut others = self.proxies.iter();
        others.any(|other| !std::ptr::eq(other, proxy) && !other.breaker.is_open(now))
    }

    async fn ask<R: Answer>(
        &self,
        proxy: &Proxy,
        call: Call,
        request: impl Message + 'static,
        within: Duration,
    ) -> Result<R, Fault> {
        let mut client = Grpc::new(proxy.channel.clone()).max_decoding_message_size(MAX_ANSWER);
        let unavailable = |status: tonic::Status| Fault::Proxy(describe(&status));
        client
            .ready()
            .await
            .map_err(|error| Fault::Proxy(causes(&error)))?;
        let mut request = tonic::Request::new(request);
        request.set_timeout(within);
        if let Some(authorization) = &self.authorization {
            let headers = request.metadata_mut();
            headers.insert("authorization", authorization.clone());
        }
        let path = PathAndQuery::from_static(call.path);
        let codec = ProstCodec::<_, R>::default();
        let answer = client.unary(request, path, codec).await;
        let answer = answer.map_err(|status| match status.code() {
            tonic::Code::Unauthenticated
            | tonic::Code::PermissionDenied
            | tonic::Code::InvalidArgument
            | tonic::Code::Unimplemented
            | tonic::Code::ResourceExhausted => Fault::Call {
                reason: status.message().to_owned(),
                code: status.code() as i32,
            },
            _ => unavailable(status),
        })?;
        let answer = answer.into_inner();
        match answer.status() {
            Some(status) if status.code != 0 || status.error_code != 0 => {
                let (reason, code) = (status.reason.clone(), status.code);
                match is_final(code) {
                    true => Err(Fault::Call { reason, code }),
                    false => Err(Fault::Proxy(format!("{reason} (code {code})"))),
                }
            }
            _ => Ok(answer),
        }
    }
}

/// Whether another proxy would say the same: there is no such thing, or the request is wrong. The rest is of nodes that come and go.
fn is_final(code: i32) -> bool {
    matches!(code, 100 | 1100..=1199 | 1600..=1699)
}

fn describe(status: &tonic::Status) -> String {
    match status.message() {
        "" => status.code().description().to_owned(),
        message => format!("{}: {message}", status.code().description()),
    }
}

/// An error of the transport says no more than that it is one.
fn causes(error: &dyn std::error::Error) -> String {
    let mut next = error.source();
    let mut text = error.to_string();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use testkit::{GrpcReply, GrpcServer};

    use super::*;

    #[test]
    fn the_retry_is_for_another_proxy_where_the_first_is_left_alone() {
        let empty = GrpcReply::Message(Vec::new());
        let replies = [empty.clone(), GrpcReply::Status("14"), empty];
        let proxies = replies.map(|reply| GrpcServer::start(move |_| reply.clone()));
        let address = Address {
            proxies: proxies
                .iter()
                .map(|proxy| proxy.address.to_string())
                .collect(),
            name: "docs".to_owned(),
            bucket: None,
        };
        let config = Config {
            admin_timeout: Duration::from_secs(600),
            ..Config::default()
        };
        let cluster = Cluster::new(&address, config).unwrap();
        let later = Instant::now() + Duration::from_secs(3600);
        for _ in 0..5 {
            cluster.inner.proxies[0].breaker.failed(later);
        }
        assert!(cluster.collections().unwrap().is_empty());
        let asked = proxies.each_ref().map(|proxy| proxy.asked().len());
        assert_eq!(asked, [0, 1, 1]);
    }

    #[test]
    fn a_token_is_not_shown() {
        let config = Config {
            token: Some("root:secret".to_owned()),
            ..Config::default()
        };
        let shown = format!("{config:?}");
        assert!(!shown.contains("secret"), "{shown}");
    }
}
