//! `trawl search` with filters, facets, thresholds and weights.

use serde_json::{Value, json};

use crate::session::{Built, build};
use crate::{fail, json, succeed, text};

fn search(built: &Built, more: &[&str]) -> Value {
    let arguments = [
        "--json",
        "search",
        text(&built.collection),
        "the moon and the sea",
        "-k",
        "400",
    ];
    json(arguments.into_iter().chain(more.iter().copied()))
}

fn of_each<'a>(answer: &'a Value, field: &str) -> Vec<&'a Value> {
    let hits = answer["results"].as_array().unwrap().iter();
    hits.map(|hit| &hit["metadata"][field]).collect()
}

#[test]
fn terms_and_json_filter_alike_in_every_mode() {
    let built = build();
    let short = [
        "--filter",
        "subject!=kitchen year>=1800",
        "--filter",
        "year<1900",
    ];
    let long = r#"{
        "must": [{"key": "year", "range": {"gte": 1800, "lt": 1900}}],
        "must_not": [{"key": "subject", "match": {"value": "kitchen"}}]
    }"#;
    for mode in ["--exact", "--lexical", "--hybrid"] {
        let terms = search(&built, &[&short[..], &[mode]].concat());
        let object = search(&built, &["--filter", long, mode]);
        assert_eq!(terms["results"], object["results"], "{mode}");
        let years = of_each(&terms, "year");
        assert!(
            !years.is_empty()
                && years
                    .iter()
                    .all(|year| (1800..1900).contains(&year.as_i64().unwrap()))
        );
        assert!(!of_each(&terms, "subject").contains(&&json!("kitchen")));
        assert_eq!(terms["total"]["value"], years.len(), "{mode}");
    }
    let none = search(&built, &["--filter", "subject=nothing"]);
    assert_eq!(
        (&none["results"], &none["total"]["value"]),
        (&json!([]), &json!(0))
    );
}

#[test]
fn facets_and_total_are_shown() {
    let built = build();
    let arguments = [
        "--filter",
        "subject=tides",
        "--facets",
        "subject,year",
        "-k",
        "1",
    ];
    let arguments = &[
        &["--json", "search", text(&built.collection), "moon"][..],
        &arguments,
    ]
    .concat();
    let shown = json(arguments.iter().copied());
    let n_tides = &shown["total"]["value"];
    assert_eq!(shown["facets"]["subject"], json!({ "tides": n_tides }));
    assert!(
        shown["facets"]["year"]
            .as_object()
            .is_some_and(|years| !years.is_empty())
    );
    let table = succeed(arguments[1..].iter().copied());
    assert!(
        table.contains(&format!("1 of {n_tides} passages")),
        "{table}"
    );
    assert!(
        table.contains(&format!("subject: tides {n_tides}")),
        "{table}"
    );
}

#[test]
fn weights_and_thresholds_decide_what_is_found() {
    let built = build();
    let words = search(&built, &["--lexical"]);
    let hybrid = ["--hybrid", "--fusion", "weighted", "--weights", "0,1"];
    let fused = search(&built, &hybrid);
    let best = &fused["results"][0];
    assert_eq!(
        (&best["id"], &best["score"]),
        (&words["results"][0]["id"], &json!(1.0))
    );
    let kept = search(
        &built,
        &[&hybrid[..], &["--score-threshold", "0.5"]].concat(),
    );
    let scores: Vec<f64> = kept["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|hit| hit["score"].as_f64().unwrap())
        .collect();
    assert!(
        !scores.is_empty() && scores.iter().all(|score| *score >= 0.5),
        "{scores:?}"
    );
    assert!(scores.len() < fused["results"].as_array().unwrap().len());
}

#[test]
fn what_is_wrong_with_a_filter_is_said_with_exit_code_2() {
    let built = build();
    for (more, expected) in [
        (
            ["--filter", "subjct=tides"],
            "--filter 'subjct=tides': there is no field `subjct`, did you mean `subject`?",
        ),
        (
            ["--filter", "year=soon"],
            "field `year` is of kind integer: expected an integer of 64 bits, found string \"soon\"",
        ),
        (
            ["--filter", "subject>3"],
            "field `subject` is of kind keyword, range takes integer, float, date only",
        ),
        (
            ["--filter", "subject"],
            "expected `=`, `!=`, `<`, `<=`, `>` or `>=` after `subject`",
        ),
        (
            [
                "--filter",
                r#"{"must": [{"key": "year", "match": {"value": "x"}}]}"#,
            ],
            "/must/0/match/value: field `year`",
        ),
        (
            ["--facets", "yaer"],
            "cause: there is no field `yaer`, did you mean `year`?",
        ),
        (["--weights", "1,1"], "--hybrid"),
    ] {
        let arguments = ["search", text(&built.collection), "moon"];
        let errors = fail(2, arguments.into_iter().chain(more));
        assert!(errors.contains(expected), "{more:?}: {errors}");
    }
}

#[test]
fn boosts_orders_and_pins_change_the_order_and_are_explained() {
    let built = build();
    let boosted = search(
        &built,
        &[
            "--boost",
            "year:linear_decay origin=1900 scale=10 weight=9",
            "--explain",
        ],
    );
    let years = of_each(&boosted, "year");
    let distance = |year: &&Value| (year.as_i64().unwrap() - 1900).abs();
    // Years further away gain nothing.
    let near = years
        .iter()
        .take_while(|year| year.is_i64() && distance(year) < 20);
    assert!(near.clone().count() > 3 && near.map(distance).is_sorted());
    let first = &boosted["results"][0];
    let boost = &first["explanation"]["boosts"][0];
    assert_eq!(
        (&boost["input"], &boost["function"]),
        (&json!(years[0].as_f64()), &json!("linear_decay"))
    );
    let sorted = search(&built, &["--sort", "year:desc", "--pin", "2:kitchen-01"]);
    assert_eq!(sorted["results"][1]["id"], "kitchen-01");
    assert_eq!(sorted["results"][1]["pinned"], true);
    let years = of_each(&sorted, "year");
    let years: Vec<i64> = years.iter().filter_map(|year| year.as_i64()).collect();
    assert!(years.len() > 100 && years.iter().rev().is_sorted());

    let arguments = ["search", text(&built.collection), "moon"];
    let with = |more: &[&'static str]| [&arguments[..], more].concat();
    let shown = succeed(with(&["--boost", "year:log1p weight=0.1", "--explain"]));
    assert!(shown.contains("log1p of year +0."), "{shown}");
    // A pin that the ranking does not have is more than all that it has.
    let shown = succeed(with(&[
        "--score-threshold",
        "1000000",
        "--pin",
        "1:kitchen-01",
    ]));
    assert!(shown.contains("1 of 0 passages, 1 pinned\n"), "{shown}");
    for (more, message) in [
        (
            ["--boost", "yaer:log1p"],
            "cause: there is no field `yaer`, did you mean `year`",
        ),
        (
            ["--boost", "year:exp_decay origin=soon scale=3"],
            "cause: origin: field `year`",
        ),
        (["--boost", "year:log1p stage=rerank"], "`--rerank` only"),
        (["--sort", "titel"], "cause: there is no field `titel`"),
        (["--pin", "kitchen-02"], "expected a rank"),
    ] {
        let errors = fail(2, with(&more));
        assert!(errors.contains(message), "{more:?}: {errors}");
    }
}

#[test]
fn what_passes_is_deleted() {
    let built = build();
    let collection = text(&built.collection);
    let n_found =
        |filter: &str| search(&built, &["--lexical", "--filter", filter])["total"].clone();
    let path = built.folder.path().join("new.jsonl");
    let line = json!({"_id": "new", "text": "the moon and the sea", "subject": "kitchen"});
    std::fs::write(&path, line.to_string()).unwrap();
    let delete = ["--json", "documents", "delete", collection, "--filter"];
    let all = search(&built, &["--lexical"])["total"]["value"]
        .as_u64()
        .unwrap();
    succeed(["--quiet", "documents", "add", collection, text(&path)]);
    let kitchen = n_found("subject=kitchen");
    let deleted = json(delete.iter().copied().chain(["subject=kitchen"]));
    assert!(deleted["documents"].as_u64().unwrap() >= kitchen["value"].as_u64().unwrap());
    assert_eq!(
        deleted["log_position"].as_u64(),
        deleted["documents"].as_u64().map(|n| n + 1)
    );
    assert_eq!(n_found("subject=kitchen")["value"], 0);
    assert_eq!(
        search(&built, &["--lexical"])["total"]["value"],
        all + 1 - kitchen["value"].as_u64().unwrap()
    );
    let nothing = json(delete.iter().copied().chain(["subject=kitchen"]));
    assert_eq!(nothing["documents"], 0);
    for (filter, said) in [("{}", "no condition"), ("subjectt=kitchen", "did you mean")] {
        let refused = fail(2, delete.iter().copied().chain([filter]));
        assert!(refused.contains(said), "{refused}");
    }
    // A byte order mark and other line ends are no part of an id.
    let ids = built.folder.path().join("ids");
    let there = search(&built, &["--lexical"]);
    let id = there["results"][0]["id"].as_str().unwrap();
    std::fs::write(&ids, format!("\u{feff}{id}\r\n\n")).unwrap();
    let delete = ["--json", "documents", "delete", collection];
    let deleted = json([&delete[..], &["--ids", text(&ids)]].concat());
    assert_eq!(deleted["documents"], 1);
    let left = search(&built, &["--lexical"])["total"]["value"].as_u64();
    assert_eq!(left.map(|n| n + 1), there["total"]["value"].as_u64());
    let refused = fail(2, ["documents", "delete", collection]);
    assert!(
        refused.contains("--ids <FILE>|--filter <EXPR>"),
        "{refused}"
    );
    // In the order in which they have to be typed.
    assert!(
        refused.contains("delete [OPTIONS] <COLLECTION> <DOCUMENTS>..."),
        "{refused}"
    );
}
