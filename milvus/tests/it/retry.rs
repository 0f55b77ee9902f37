use std::time::{Duration, Instant};

use milvus::MilvusError;
use testkit::{GrpcReply, GrpcServer};

use crate::{cluster, golden, proxy, search};

/// Waited for by nobody: every proxy answers.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Waited for where a proxy is silent, and enough for another one on this machine.
const OF_SILENT: Duration = Duration::from_secs(5);

fn asked(proxies: &[&GrpcServer]) -> Vec<usize> {
    proxies.iter().map(|proxy| proxy.asked().len()).collect()
}

#[test]
fn another_proxy_answers_for_one_that_does_not() {
    for (failing, timeout) in [
        (GrpcReply::Status("14"), TIMEOUT),
        (GrpcReply::Silence, OF_SILENT),
        (GrpcReply::Message(vec![0xff]), TIMEOUT),
    ] {
        let (bad, good) = (proxy(failing), proxy(GrpcReply::Message(golden("found"))));
        let found = search(&cluster(&[&bad, &good], timeout), None);
        assert_eq!(found.unwrap().len(), 2);
        assert_eq!(asked(&[&bad, &good]), [1, 1]);
    }
}

#[test]
fn a_call_is_made_twice_at_most() {
    let proxies = [(); 3].map(|()| proxy(GrpcReply::Status("14")));
    let [first, second, third] = &proxies;
    let error = search(&cluster(&[first, second, third], TIMEOUT), None).unwrap_err();
    let MilvusError::Unavailable { tried, .. } = &error else {
        panic!("{error}");
    };
    assert!(tried[0].starts_with(&first.address.to_string()), "{error}");
    assert!(tried[1].starts_with(&second.address.to_string()), "{error}");
    assert_eq!(asked(&[first, second, third]), [1, 1, 0]);
}

#[test]
fn a_proxy_that_is_alone_is_asked_again() {
    let proxy = proxy(GrpcReply::Status("14"));
    search(&cluster(&[&proxy], TIMEOUT), None).unwrap_err();
    assert_eq!(asked(&[&proxy]), [2]);
}

#[test]
fn what_the_cluster_refuses_is_not_asked_again() {
    for reply in [
        GrpcReply::Message(golden("refused")),
        GrpcReply::Status("3"),
        GrpcReply::Status("8"),
        GrpcReply::Status("12"),
        GrpcReply::Status("16"),
    ] {
        let proxies = [proxy(reply.clone()), proxy(reply)];
        let cluster = cluster(&[&proxies[0], &proxies[1]], TIMEOUT);
        let error = cluster.n_rows("docs_1").unwrap_err();
        assert!(matches!(error, MilvusError::Refused { .. }), "{error}");
        assert_eq!(asked(&[&proxies[0], &proxies[1]]), [1, 0]);
    }
}

#[test]
fn rows_are_imported_once() {
    let proxy = proxy(GrpcReply::Status("14"));
    let error = cluster(&[&proxy], TIMEOUT)
        .import("docs_1", Vec::new())
        .unwrap_err();
    assert!(matches!(error, MilvusError::Unavailable { .. }), "{error}");
    assert_eq!(asked(&[&proxy]), [1]);
}

#[test]
fn a_search_ends_with_the_time_of_its_caller() {
    let proxy = proxy(GrpcReply::Silence);
    let deadline = Some(Instant::now() + Duration::from_millis(20));
    let error = search(&cluster(&[&proxy], Duration::from_secs(3600)), deadline).unwrap_err();
    assert!(
        matches!(error, MilvusError::DeadlineExceeded { .. }),
        "{error}"
    );
}

#[test]
fn proxies_that_failed_often_are_left_alone() {
    let proxy = proxy(GrpcReply::Status("14"));
    let (cluster, start) = (cluster(&[&proxy], TIMEOUT), Instant::now());
    for _ in 0..20 {
        search(&cluster, None).unwrap_err();
    }
    // One more after each second that this takes.
    let most = 5 + start.elapsed().as_secs() as usize;
    let n_asked = proxy.asked().len();
    assert!(
        (5..=most).contains(&n_asked),
        "{n_asked} attempts were made"
    );
}

#[test]
fn a_silent_proxy_leaves_time_for_another_and_is_left_alone() {
    let (bad, good) = (
        proxy(GrpcReply::Silence),
        proxy(GrpcReply::Message(golden("found"))),
    );
    let patient = cluster(&[&bad, &good], Duration::from_secs(3600));
    let found = search(&patient, Some(Instant::now() + 2 * OF_SILENT));
    assert_eq!(found.unwrap().len(), 2);
    assert_eq!(asked(&[&bad, &good]), [1, 1]);
    // Every other search begins with the silent one.
    let start = Instant::now();
    for _ in 0..40 {
        let deadline = Instant::now() + Duration::from_secs(1);
        // One may fail where this process was stopped.
        let _ = search(&patient, Some(deadline));
    }
    // One more after each second that this takes.
    let most = 5 + start.elapsed().as_secs() as usize;
    let n_asked = bad.asked().len();
    assert!(
        (5..=most).contains(&n_asked),
        "{n_asked} attempts were made"
    );
}
