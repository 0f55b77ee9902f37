//! The search page: plain files inside the binary, which ask the API as any other client does.

use axum::Router;
use axum::http::HeaderName;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::http::header::{REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use axum::routing::get;

use crate::state::App;

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Address, type and content of every file.
macro_rules! files {
    ($($path:literal, $kind:expr, $file:literal;)*) => {
        [$(($path, $kind, include_str!(concat!("../../ui/", $file)))),*]
    };
}

const FILES: [(&str, &str, &str); 9] = files![
    "/ui", HTML, "index.html";
    "/ui/style.css", CSS, "style.css";
    "/ui/icon.svg", "image/svg+xml", "icon.svg";
    "/ui/main.js", SCRIPT, "main.js";
    "/ui/api.js", SCRIPT, "api.js";
    "/ui/state.js", SCRIPT, "state.js";
    "/ui/controls.js", SCRIPT, "controls.js";
    "/ui/answer.js", SCRIPT, "answer.js";
    "/ui/element.js", SCRIPT, "element.js";
];

/// The page loads and asks this server only, runs no script but its own, and stands in no other page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'none'; base-uri 'none'; frame-ancestors 'none'";

pub(super) fn routes() -> Router<App> {
    FILES
        .into_iter()
        .fold(Router::new(), |router, (path, kind, text)| {
            let headers: [(HeaderName, &str); 5] = [
                (CONTENT_TYPE, kind),
                (CONTENT_SECURITY_POLICY, POLICY),
                (CACHE_CONTROL, "no-cache"),
                (REFERRER_POLICY, "no-referrer"),
                (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            ];
            router.route(path, get(async move || (headers, text)))
        })
}
