//! Who may ask for what: API keys with their scopes, rates, collections and filters.
//!
//! The server knows the sha256 of a key, never the key. What a caller presents is hashed and compared with all of them in a time that
//! does not depend on where they differ.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, Method};
use openapi::ErrorCode;
use retriever::{Condition, Filter, FilterError};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::problem::{ApiError, filter_fault};
use crate::rate::{Bucket, Rate};

/// What a key may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Searching collections, and looking at what they are.
    Search,
    /// Vectors and tokens of texts brought along.
    Embed,
    /// Scores of texts brought along.
    Rerank,
    /// Changing documents.
    Write,
    /// The figures of `/metrics`.
    Metrics,
    /// Everything.
    Admin,
}

impl Scope {
    /// What a request needs; none where any key will do.
    pub(crate) fn of(method: &Method, path: &str) -> Option<Self> {
        let reads = method == Method::GET || method == Method::HEAD;
        match path {
            "/v1/embeddings" | "/embed" | "/embed_all" | "/similarity" | "/tokenize"
            | "/decode" => Some(Self::Embed),
            "/v1/rerank" | "/v2/rerank" | "/rerank" | "/predict" => Some(Self::Rerank),
            "/metrics" => Some(Self::Metrics),
            // What `POST /` needs is for its body to say.
            "/" | "/info" | "/openapi.json" | "/v1/limits" | "/v1/version" => None,
            _ if path.starts_with("/v1/models") || path.starts_with("/docs") => None,
            _ if PUBLIC.contains(&path.trim_start_matches('/')) => None,
            _ if path.starts_with("/v1/collections") => Some(match below_collection(path) {
                _ if reads => Self::Search,
                below if method == Method::POST && SEARCHES.contains(&below) => Self::Search,
                "documents" => Self::Write,
                below if below.starts_with("documents/") => Self::Write,
                _ => Self::Admin,
            }),
            _ => Some(Self::Admin),
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Search => "search",
            Self::Embed => "embed",
            Self::Rerank => "rerank",
            Self::Write => "write",
            Self::Metrics => "metrics",
            Self::Admin => "admin",
        }
    }
}

/// What `POST` asks of a collection, or says of its hits.
const SEARCHES: [&str; 3] = ["search", "search/batch", "feedback"];

/// What stands below the name of a collection, which may be any word, such as `search`: nothing where the path is the collection's own.
fn below_collection(path: &str) -> &str {
    let named = path.strip_prefix("/v1/collections/");
    let below = named.and_then(|rest| rest.split_once('/'));
    below.map_or("", |(_, below)| below)
}

/// A key, as the server knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiKey {
    /// Its name, for the log.
    pub name: String,
    /// sha256 of the key.
    pub sha256: [u8; 32],
    /// What it may be used for.
    pub scopes: Vec<Scope>,
    /// How often; without, as often as the server can.
    pub rate: Option<Rate>,
    /// The collections it may be used on; all where none is named.
    pub collections: Vec<String>,
    /// What every search and every deletion with it is narrowed to.
    pub filter: Option<Filter>,
}

/// Who may use the server. Without keys, everybody who reaches it.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthConfig {
    /// The keys.
    pub keys: Vec<ApiKey>,
    /// Paths that ask for none, without their slash: some of [`Self::PUBLIC`].
    pub public: Vec<String>,
}

/// Paths that may be public.
const PUBLIC: [&str; 8] = [
    "livez",
    "readyz",
    "healthz",
    "health",
    "ping",
    "metrics",
    "openapi.json",
    "docs",
];

impl Default for AuthConfig {
    /// No keys; the questions for the server's health are public.
    fn default() -> Self {
        let public = PUBLIC[..5].iter().map(|&path| path.to_owned()).collect();
        let keys = Vec::new();
        Self { keys, public }
    }
}

/// Why a set of keys cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuthError {
    /// Two keys have one name.
    #[error("there are two keys named `{name}`")]
    Name {
        /// The name.
        name: String,
    },
    /// Two names have one key.
    #[error("`{first}` and `{second}` are the same key")]
    Same {
        /// One of them.
        first: String,
        /// The other.
        second: String,
    },
    /// A key that may do nothing.
    #[error("key `{name}` has no scopes")]
    NoScopes {
        /// The key.
        name: String,
    },
    /// A key with a filter could get around it.
    #[error("key `{name}` has a filter, which its scope `{}` would go around", Scope::Admin.as_str())]
    Filter {
        /// The key.
        name: String,
    },
    /// A running server would be open to everybody from one moment to the next.
    #[error("there are no keys any more; restart the server to let everybody use it")]
    NoKeys,
    /// A path that cannot be public.
    #[error("`{path}` cannot be public; what can: {}", PUBLIC.join(", "))]
    Public {
        /// The path.
        path: String,
    },
}

/// The keys in force.
#[derive(Debug, Default)]
pub(crate) struct Auth {
    keys: Vec<Arc<Key>>,
    public: Vec<String>,
}

/// A key and what is left of its rate.
#[derive(Debug)]
pub(crate) struct Key {
    config: ApiKey,
    bucket: Mutex<Bucket>,
}

impl Auth {
    /// Keys that were there before, under the same name and with the same rate, keep what they have used of it.
    pub(crate) fn new(config: AuthConfig, before: &Self, now: Instant) -> Result<Self, AuthError> {
        let AuthConfig { keys, public } = config;
        for path in &public {
            if !PUBLIC.contains(&path.as_str()) {
                let path = path.clone();
                return Err(AuthError::Public { path });
            }
        }
        if keys.is_empty() && !before.keys.is_empty() {
            return Err(AuthError::NoKeys);
        }
        for (place, key) in keys.iter().enumerate() {
            check(key)?;
            for other in &keys[..place] {
                if other.name == key.name {
                    let name = key.name.clone();
                    return Err(AuthError::Name { name });
                }
                if other.sha256 == key.sha256 {
                    let (first, second) = (other.name.clone(), key.name.clone());
                    return Err(AuthError::Same { first, second });
                }
            }
        }
        let with_bucket = |config: ApiKey| {
            let kept = before
                .keys
                .iter()
                .find(|key| key.config.name == config.name && key.config.rate == config.rate);
            let bucket = match kept {
                Some(kept) => *lock(&kept.bucket),
                None => Bucket::full(config.rate, now),
            };
            Arc::new(Key {
                config,
                bucket: Mutex::new(bucket),
            })
        };
        let keys = keys.into_iter().map(with_bucket).collect();
        Ok(Self { keys, public })
    }

    /// The key of a request; none where no key is asked for.
    pub(crate) fn identify(
        &self,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<Option<Arc<Key>>, ApiError> {
        if self.keys.is_empty() || self.is_public(path) {
            return Ok(None);
        }
        let Some(presented) = presented(headers) else {
            let text = "this server asks for a key: `Authorization: Bearer KEY`, or `api-key: KEY`";
            return Err(ApiError::new(ErrorCode::Unauthorized, text));
        };
        let text = "the key is not known";
        let unknown = || ApiError::new(ErrorCode::Unauthorized, text);
        self.find(presented).ok_or_else(unknown).map(Some)
    }

    fn is_public(&self, path: &str) -> bool {
        let first = path.trim_start_matches('/').split('/').next();
        // The search page is the same for everybody; what it asks needs a key.
        first == Some("ui")
            || self
                .public
                .iter()
                .any(|public| Some(public.as_str()) == first)
    }

    /// Compares with every key, so that the time says nothing about which, if any, is the one.
    fn find(&self, presented: &[u8]) -> Option<Arc<Key>> {
        let digest: [u8; 32] = Sha256::digest(presented).into();
        let mut found = None;
        for key in &self.keys {
            if bool::from(key.config.sha256.ct_eq(&digest)) {
                found = Some(Arc::clone(key));
            }
        }
        found
    }
}

impl Key {
    pub(crate) fn name(&self) -> &str {
        &self.config.name
    }

    /// Refuses a request that the key is not for, or has no rate left for.
    pub(crate) fn admit(&self, method: &Method, path: &str, now: Instant) -> Result<(), ApiError> {
        if let Some(scope) = Scope::of(method, path) {
            self.require(scope)?;
        }
        self.check_collection(method, path)?;
        self.spend(now)
    }

    /// Refuses what the key has no scope for.
    pub(crate) fn require(&self, scope: Scope) -> Result<(), ApiError> {
        let scopes = &self.config.scopes;
        if scopes.contains(&scope) || scopes.contains(&Scope::Admin) {
            return Ok(());
        }
        let (name, scope) = (&self.config.name, scope.as_str());
        let text = format!("key `{name}` has no scope `{scope}`");
        Err(ApiError::new(ErrorCode::Forbidden, text))
    }

    /// Whether the key may be used on a collection.
    pub(crate) fn may_use(&self, collection: &str) -> bool {
        let collections = &self.config.collections;
        collections.is_empty() || collections.iter().any(|known| known == collection)
    }

    /// Stands for the key where it is told apart from others: nobody finds the key, or its entry in the configuration, by it.
    pub(crate) fn pseudonym(&self) -> String {
        let digest = Sha256::new_with_prefix("trawl query log").chain_update(self.config.sha256);
        let digest = digest.finalize();
        digest[..8]
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    pub(crate) fn filter(&self) -> Option<&Filter> {
        self.config.filter.as_ref()
    }

    fn check_collection(&self, method: &Method, path: &str) -> Result<(), ApiError> {
        let Some(rest) = path.strip_prefix("/v1/collections/") else {
            return Ok(());
        };
        let place = rest.split('/').next().unwrap_or_default();
        // `name@alias` is a collection by one of its aliases. Names need no escapes, so an escaped one is none that is allowed.
        let collection = place.split('@').next().unwrap_or_default();
        let name = &self.config.name;
        if !self.may_use(collection) {
            let text = format!("key `{name}` may not be used on this collection");
            return Err(ApiError::new(ErrorCode::Forbidden, text));
        }
        let below = below_collection(path);
        let is_narrowed = match *method {
            Method::POST => SEARCHES.contains(&below) || below == "documents/delete",
            _ => below.is_empty(),
        };
        if self.filter().is_some() && !is_narrowed {
            let text =
                format!("key `{name}` has a filter, which holds for searches and deletions only");
            return Err(ApiError::new(ErrorCode::Forbidden, text));
        }
        Ok(())
    }

    fn spend(&self, now: Instant) -> Result<(), ApiError> {
        let Some(rate) = self.config.rate else {
            return Ok(());
        };
        lock(&self.bucket).take(rate, now).map_err(|wait| {
            let (name, requests) = (&self.config.name, rate.requests);
            let seconds = rate.period.as_secs();
            let text = format!("key `{name}` may make {requests} requests in {seconds} s");
            ApiError::rate_limited(text, wait)
        })
    }
}

fn check(key: &ApiKey) -> Result<(), AuthError> {
    let name = key.name.clone();
    if key.scopes.is_empty() {
        return Err(AuthError::NoScopes { name });
    }
    if key.filter.is_some() && key.scopes.contains(&Scope::Admin) {
        return Err(AuthError::Filter { name });
    }
    Ok(())
}

/// The key that a caller shows.
fn presented(headers: &HeaderMap) -> Option<&[u8]> {
    let bearer = headers.get(AUTHORIZATION).and_then(|value| {
        let value = value.as_bytes();
        let (scheme, key) = value.split_at_checked(7)?;
        scheme
            .eq_ignore_ascii_case(b"bearer ")
            .then(|| key.trim_ascii())
    });
    bearer.or_else(|| {
        headers
            .get("api-key")
            .map(|value| value.as_bytes().trim_ascii())
    })
}

fn lock(bucket: &Mutex<Bucket>) -> std::sync::MutexGuard<'_, Bucket> {
    bucket.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What both filters pass: the caller's, and that of the key.
pub(crate) fn narrow(asked: Option<Filter>, own: Option<&Filter>) -> Option<Filter> {
    match (asked, own.cloned()) {
        (Some(asked), Some(own)) => Some(Filter {
            must: vec![Condition::Filter(asked), Condition::Filter(own)],
            ..Filter::default()
        }),
        (asked, own) => asked.or(own),
    }
}

/// The error of a narrowed filter, placed in what the caller wrote.
pub(crate) fn narrowed_error(mut error: FilterError, asked: bool) -> ApiError {
    match error.pointer.strip_prefix("/must/0") {
        Some(pointer) if asked => {
            error.pointer = pointer.to_owned();
            ApiError::fields(vec![filter_fault("/filter", error)])
        }
        _ => {
            tracing::warn!(%error, "the filter of a key does not fit a collection");
            let text = "the filter of the key does not fit this collection";
            ApiError::new(ErrorCode::Forbidden, text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str, secret: &str, scopes: &[Scope]) -> ApiKey {
        ApiKey {
            name: name.to_owned(),
            sha256: Sha256::digest(secret).into(),
            scopes: scopes.to_vec(),
            rate: None,
            collections: Vec::new(),
            filter: None,
        }
    }

    fn auth(keys: Vec<ApiKey>) -> Result<Auth, AuthError> {
        let config = AuthConfig {
            keys,
            ..AuthConfig::default()
        };
        Auth::new(config, &Auth::default(), Instant::now())
    }

    #[test]
    fn keys_that_contradict_themselves_are_refused() {
        let search = [Scope::Search];
        assert_eq!(
            auth(vec![key("a", "x", &search), key("a", "y", &search)]).unwrap_err(),
            AuthError::Name { name: "a".into() }
        );
        assert!(matches!(
            auth(vec![key("a", "x", &search), key("b", "x", &search)]),
            Err(AuthError::Same { .. })
        ));
        assert!(matches!(
            auth(vec![key("a", "x", &[])]),
            Err(AuthError::NoScopes { .. })
        ));
        let tenant = ApiKey {
            filter: Some(Filter::default()),
            ..key("a", "x", &[Scope::Search, Scope::Admin])
        };
        assert!(matches!(auth(vec![tenant]), Err(AuthError::Filter { .. })));
        let config = AuthConfig {
            public: vec!["v1".into()],
            ..AuthConfig::default()
        };
        let refused = Auth::new(config, &Auth::default(), Instant::now()).unwrap_err();
        assert!(refused.to_string().contains("livez"), "{refused}");
    }

    #[test]
    fn a_reload_keeps_what_was_used_of_a_rate() {
        let now = Instant::now();
        let limited = ApiKey {
            rate: Some("1/h".parse().expect("a rate")),
            ..key("a", "x", &[Scope::Admin])
        };
        let config = AuthConfig {
            keys: vec![limited],
            ..AuthConfig::default()
        };
        let first = Auth::new(config.clone(), &Auth::default(), now).unwrap();
        let mut headers = HeaderMap::new();
        headers.insert("api-key", "x".parse().unwrap());
        let path = "/v1/models";
        let ask = |auth: &Auth| {
            let key = auth.identify(path, &headers).unwrap().unwrap();
            key.admit(&Method::GET, path, now).is_ok()
        };
        assert!(ask(&first) && !ask(&first));
        let second = Auth::new(config, &first, now).unwrap();
        assert!(!ask(&second));
        let none = Auth::new(AuthConfig::default(), &second, now).unwrap_err();
        assert_eq!(none, AuthError::NoKeys);
    }

    #[test]
    fn a_scope_is_told_by_what_stands_below_a_name_and_not_by_the_name() {
        for (method, path, expected) in [
            ("POST", "docs/search", Scope::Search),
            ("POST", "docs@live/search/batch", Scope::Search),
            ("POST", "documents/feedback", Scope::Search),
            ("GET", "docs/documents/search", Scope::Search),
            ("POST", "search/documents", Scope::Write),
            ("POST", "docs/documents/delete", Scope::Write),
            ("DELETE", "docs/documents/search", Scope::Write),
            ("PUT", "search", Scope::Admin),
            ("DELETE", "documents", Scope::Admin),
            ("POST", "documents/compact", Scope::Admin),
            ("PUT", "docs/aliases/search", Scope::Admin),
            ("PUT", "documents-2/aliases/documents", Scope::Admin),
            ("POST", "documents/aliases/live/rollback", Scope::Admin),
            ("PUT", "docs/search", Scope::Admin),
        ] {
            let found = Scope::of(&method.parse().unwrap(), &format!("/v1/collections/{path}"));
            assert_eq!(found, Some(expected), "{method} {path}");
        }
    }

    #[test]
    fn a_key_with_a_filter_changes_no_collection_of_any_name() {
        let tenant = ApiKey {
            filter: Some(Filter::default()),
            ..key("a", "x", &[Scope::Search, Scope::Write])
        };
        let auth = auth(vec![tenant]).unwrap();
        for (method, path, is_narrowed) in [
            ("GET", "documents", true),
            ("POST", "documents/search", true),
            ("POST", "docs/documents/delete", true),
            ("DELETE", "documents", false),
            ("PUT", "search", false),
            ("GET", "search/generations", false),
            ("GET", "docs/documents/search", false),
            ("POST", "docs/documents", false),
        ] {
            let (method, path) = (method.parse().unwrap(), format!("/v1/collections/{path}"));
            let admitted = auth.keys[0].admit(&method, &path, Instant::now());
            assert_eq!(admitted.is_ok(), is_narrowed, "{method} {path}");
        }
    }
}
