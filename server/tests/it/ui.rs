//! The search page, as far as it can be seen without a browser; `tests/ui` has the rest.

use crate::harness::TestServer;

/// The addresses that a file names in quotes and begins with `prefix`.
fn named<'a>(text: &'a str, prefix: &str) -> Vec<&'a str> {
    let quoted = text.split('"').skip(1).step_by(2);
    quoted.filter(|name| name.starts_with(prefix)).collect()
}

/// Behind a proxy the page is found below any path, so that it names none from the root.
#[track_caller]
fn check_prefix(text: &str) {
    let from_the_root = named(text, "/").into_iter().find(|name| name.len() > 1);
    assert_eq!(from_the_root, None);
    assert!(!text.contains("`/"));
}

#[test]
fn every_file_that_the_page_names_is_there_and_nothing_else_may_be_loaded() {
    let server = TestServer::start();
    let page = server.get("/ui");
    let mut files: Vec<String> = named(&page.text, "ui/")
        .into_iter()
        .map(|path| format!("/{path}"))
        .collect();
    check_prefix(&page.text);
    assert!(files.contains(&"/ui/main.js".to_owned()), "{files:?}");
    let mut seen = 0;
    while let Some(path) = files.get(seen).cloned() {
        seen += 1;
        let file = server.get(&path);
        assert_eq!(file.status, 200, "{path}");
        check_prefix(&file.text);
        for name in [
            "content-security-policy",
            "cache-control",
            "referrer-policy",
        ] {
            assert_eq!(file.header(name), page.header(name), "{path}");
        }
        for module in named(&file.text, "./") {
            let path = format!("/ui/{}", module.trim_start_matches("./"));
            if !files.contains(&path) {
                files.push(path);
            }
        }
    }
    assert_eq!(seen, 8, "{files:?}");
    let policy = page.header("content-security-policy");
    assert!(
        policy.starts_with("default-src 'none'; script-src 'self';"),
        "{policy}"
    );
    assert!(!policy.contains("unsafe"));
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    server.get("/ui/no.js").problem(404, "not_found");
}
