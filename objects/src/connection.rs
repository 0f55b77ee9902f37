//! HTTP for object storage: hyper and rustls, with the roots that the other clients of this workspace trust.

use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;

use futures::{StreamExt, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector as Tcp;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody,
    HttpResponse, HttpResponseBody, HttpService,
};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::time::timeout;

use crate::ObjectsError;

/// Time to connect.
const CONNECT: Duration = Duration::from_secs(5);
/// Time until an answer begins, beside that of sending the request.
const ANSWER: Duration = Duration::from_secs(60);
/// Bytes of a request that are sent in a second at least: four pieces of 8 MiB at once take 1 Mbit/s.
const LEAST_PACE: u64 = 32 << 10;
/// Time between two pieces of an answer.
const PIECE: Duration = Duration::from_secs(30);

/// Connects to the storage.
#[derive(Debug)]
pub(crate) struct Connection {
    roots: RootCertStore,
}

impl Connection {
    /// Trusts the usual certificate authorities, or those of a file.
    pub fn new(authorities: Option<&Path>) -> Result<Self, ObjectsError> {
        let mut roots = RootCertStore::empty();
        let Some(path) = authorities else {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
            return Ok(Self { roots });
        };
        let pem = fs::read(path).map_err(|source| ObjectsError::Io {
            path: path.to_owned(),
            source,
        })?;
        let (n_added, _) =
            roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).flatten());
        match n_added {
            0 => Err(ObjectsError::Certificates {
                path: path.to_owned(),
            }),
            _ => Ok(Self { roots }),
        }
    }
}

impl HttpConnector for Connection {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        let tls =
            ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
                .with_safe_default_protocol_versions()
                .expect("ring speaks the versions of TLS that are on")
                .with_root_certificates(self.roots.clone())
                .with_no_client_auth();
        let mut tcp = Tcp::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT));
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .build(https);
        Ok(HttpClient::new(Service(client)))
    }
}

#[derive(Debug)]
struct Service(Client<HttpsConnector<Tcp>, HttpRequestBody>);

#[async_trait::async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let patience = patience(request.body().content_length());
        let answered = timeout(patience, self.0.request(request)).await;
        let answer = answered.map_err(|_| late("no answer"))?.map_err(|error| {
            let kind = match error.is_connect() {
                true => HttpErrorKind::Connect,
                false => kind_of(&error),
            };
            HttpError::new(kind, error)
        })?;
        let (head, body) = answer.into_parts();
        let pieces = stream::unfold(body, |mut body| async {
            let frame = match timeout(PIECE, body.frame()).await {
                Err(_) => Err(late("the answer stopped")),
                Ok(frame) => frame?.map_err(|error| HttpError::new(kind_of(&error), error)),
            };
            Some((frame, body))
        });
        let body = HttpResponseBody::new(StreamBody::new(Box::pin(pieces.fuse())));
        Ok(HttpResponse::from_parts(head, body))
    }
}

/// Time until an answer begins to a request with so many bytes.
fn patience(n_bytes: usize) -> Duration {
    ANSWER + Duration::from_secs(n_bytes as u64 / LEAST_PACE)
}

fn late(what: &'static str) -> HttpError {
    let error = io::Error::new(io::ErrorKind::TimedOut, what);
    HttpError::new(HttpErrorKind::Timeout, error)
}

/// What broke off may be tried again; what was not HTTP may not.
fn kind_of(error: &(dyn std::error::Error + 'static)) -> HttpErrorKind {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    let broken = causes.any(|cause| {
        let http = cause.downcast_ref::<hyper::Error>();
        let closed = |error: &hyper::Error| {
            error.is_closed()
                || error.is_incomplete_message()
                || error.is_body_write_aborted()
                || error.is_canceled()
        };
        cause.is::<io::Error>() || http.is_some_and(closed)
    });
    match broken {
        true => HttpErrorKind::Interrupted,
        false => HttpErrorKind::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_request_has_the_time_to_be_sent() {
        assert_eq!(patience(1000), ANSWER);
        assert_eq!(patience(8 << 20), ANSWER + Duration::from_secs(256));
    }
}
