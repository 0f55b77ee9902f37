//! Boosts, order by a field and pins, against doing the same to a whole ranking the obvious way.

use retriever::{
    Boost, BoostFunction, BoostStage, DecayShape, Explanation, GroupBy, Grouping, Hit, Mode,
    OnTimeout, Pin, RerankRequest, Reranker, SearchError, SearchOptions, Sort, SortOrder,
};
use serde_json::{Value, json};
use store::{Condition, Filter, Test};

use crate::{MODES, QUERY, cross_encoder, ids, search, text};

/// More than there are passages: sources bring all they have.
const ALL: usize = 1000;

fn boost(field: &str, function: BoostFunction, weight: f64) -> Boost {
    Boost {
        field: field.to_owned(),
        function,
        weight,
        stage: BoostStage::Retrieval,
    }
}

fn decay(shape: DecayShape) -> BoostFunction {
    BoostFunction::Decay {
        shape,
        origin: json!(1900),
        scale: json!(40),
        offset: Some(json!(5)),
        decay: 0.5,
    }
}

fn year(hit: &Hit) -> Option<i64> {
    hit.metadata.as_ref().unwrap().get("year")?.as_i64()
}

/// What a function adds, from its definition.
fn gain(boost: &Boost, hit: &Hit) -> f64 {
    let Some(year) = year(hit) else { return 0.0 };
    let x = year as f64;
    let d = ((x - 1900.0).abs() - 5.0).max(0.0);
    let f = match &boost.function {
        BoostFunction::Log1p => x.ln_1p(),
        BoostFunction::Linear => x,
        BoostFunction::Decay { shape, .. } => match shape {
            DecayShape::Exponential => 0.5_f64.powf(d / 40.0),
            DecayShape::Gauss => 0.5_f64.powf((d / 40.0).powi(2)),
            DecayShape::Linear => (1.0 - 0.5 * d / 40.0).max(0.0),
        },
    };
    boost.weight * f
}

fn sets() -> Vec<Vec<Boost>> {
    vec![
        vec![boost("year", decay(DecayShape::Exponential), 3.0)],
        vec![boost("year", decay(DecayShape::Gauss), -2.0)],
        vec![
            boost("year", decay(DecayShape::Linear), 0.5),
            boost("year", BoostFunction::Log1p, 0.1),
        ],
        vec![boost("year", BoostFunction::Linear, 1e-2)],
    ]
}

async fn whole(mode: Mode) -> Vec<Hit> {
    let options = SearchOptions {
        mode,
        top_k: ALL,
        ..SearchOptions::default()
    };
    search(text(QUERY), options, None).await.unwrap().hits
}

/// Adds boosts of a stage to the first hits and puts these in order.
fn boosted(hits: &mut [Hit], boosts: &[Boost], stage: BoostStage) {
    for hit in hits.iter_mut() {
        let of_stage = boosts.iter().filter(|boost| boost.stage == stage);
        let gains: f64 = of_stage.map(|boost| gain(boost, hit)).sum();
        hit.score = (f64::from(hit.score) + gains) as f32;
    }
    hits.sort_by(|a, b| b.score.total_cmp(&a.score));
}

fn ranked(hits: &[Hit]) -> Vec<(&str, f32)> {
    hits.iter()
        .map(|hit| (hit.id.as_str(), hit.score))
        .collect()
}

/// Asks for one page after the other.
async fn pages(
    options: &SearchOptions,
    reranker: Option<&dyn Reranker>,
    n_hits: usize,
) -> Vec<Hit> {
    let mut hits = Vec::new();
    for offset in (0..n_hits).step_by(17) {
        let options = SearchOptions {
            offset,
            top_k: 17,
            ..options.clone()
        };
        let page = search(text(QUERY), options, reranker).await.unwrap().hits;
        assert!(
            page.iter()
                .zip(offset + 1..)
                .all(|(hit, rank)| hit.rank == rank)
        );
        hits.extend(page);
    }
    hits
}

#[tokio::test]
async fn boosts_are_added_to_the_first_passages_and_pages_fit_together() {
    for mode in MODES {
        for boosts in sets() {
            for rank_window in [ALL, 30] {
                let options = SearchOptions {
                    mode,
                    boosts: boosts.clone(),
                    rank_window,
                    // What the sources of a fused ranking bring decides their ranks; here, all they have.
                    candidates: ALL,
                    explain: true,
                    ..SearchOptions::default()
                };
                let mut expected = whole(mode).await;
                let n_boosted = rank_window.min(expected.len());
                boosted(&mut expected[..n_boosted], &boosts, BoostStage::Retrieval);
                assert_ne!(
                    ids(&expected),
                    ids(&whole(mode).await),
                    "{mode:?} {boosts:?}"
                );
                let found = pages(&options, None, 68).await;
                let n_shown = expected.len().min(68);
                assert_eq!(
                    ranked(&found),
                    ranked(&expected[..n_shown]),
                    "{mode:?} {boosts:?}"
                );
                for hit in &found {
                    let explanation = hit.explanation.as_ref().unwrap();
                    let added: f64 = explanation.boosts.iter().map(|b| b.contribution).sum();
                    let first = f64::from(explanation.first_stage.unwrap());
                    assert_eq!(hit.score, (first + added) as f32);
                    let inputs = explanation.boosts.iter().map(|b| b.input);
                    let year = year(hit).map(|year| year as f64);
                    assert!(inputs.clone().all(|input| input == year));
                    let n_boosts = if hit.rank <= n_boosted {
                        boosts.len()
                    } else {
                        0
                    };
                    assert_eq!(inputs.count(), n_boosts);
                }
            }
        }
    }
}

#[tokio::test]
async fn boosts_choose_what_is_reranked_or_are_added_to_its_scores() {
    const N_READ: usize = 25;
    let reranker = cross_encoder();
    let mut boosts = vec![boost("year", decay(DecayShape::Gauss), 0.4)];
    let late = boost("year", decay(DecayShape::Linear), 0.01);
    boosts.push(Boost {
        stage: BoostStage::Rerank,
        ..late
    });
    let rerank = |candidates| RerankRequest {
        candidates,
        timeout: None,
        on_timeout: OnTimeout::Fail,
    };
    let read = SearchOptions {
        rerank: Some(rerank(ALL)),
        top_k: ALL,
        ..SearchOptions::default()
    };
    let read = search(text(QUERY), read, Some(&reranker))
        .await
        .unwrap()
        .hits;
    let mut expected = whole(Mode::Dense).await;
    boosted(&mut expected, &boosts, BoostStage::Retrieval);
    for (hit, rank) in expected.iter_mut().take(N_READ).zip(1..) {
        let scores = read.iter().find(|known| known.id == hit.id).unwrap().scores;
        hit.score = scores.rerank.unwrap() + reranker.rank_prior().at(rank);
    }
    expected[..N_READ].sort_by(|a, b| b.score.total_cmp(&a.score));
    boosted(&mut expected[..N_READ], &boosts, BoostStage::Rerank);
    let options = SearchOptions {
        boosts,
        rerank: Some(rerank(N_READ)),
        explain: true,
        ..SearchOptions::default()
    };
    let found = pages(&options, Some(&reranker), 51).await;
    assert_eq!(ranked(&found), ranked(&expected[..51]));
    for hit in &found {
        let explanation = hit.explanation.as_ref().unwrap();
        let of_stage = |stage| {
            let boosts = explanation.boosts.iter();
            let of_stage = boosts.filter(move |boost| boost.stage == stage);
            of_stage.map(|boost| boost.contribution).sum::<f64>()
        };
        let score = match (hit.scores.rerank, explanation.rank_prior) {
            (Some(score), Some(prior)) => f64::from(score + prior) + of_stage(BoostStage::Rerank),
            _ => f64::from(explanation.first_stage.unwrap()) + of_stage(BoostStage::Retrieval),
        };
        assert_eq!(hit.score, score as f32);
    }
}

#[tokio::test]
async fn a_field_orders_the_first_passages_ties_by_place_and_missing_last() {
    for mode in MODES {
        for (field, order) in [
            ("year", SortOrder::Asc),
            ("year", SortOrder::Desc),
            ("subject", SortOrder::Asc),
            ("subject", SortOrder::Desc),
        ] {
            for rank_window in [ALL, 40] {
                let options = SearchOptions {
                    mode,
                    sort: Some(Sort {
                        field: field.to_owned(),
                        order,
                    }),
                    rank_window,
                    candidates: ALL,
                    ..SearchOptions::default()
                };
                let mut expected = whole(mode).await;
                expected.truncate(rank_window);
                let value = |hit: &Hit| hit.metadata.as_ref().unwrap().get(field).cloned();
                let key = |hit: &Hit| match value(hit) {
                    Some(Value::String(text)) => (0, text),
                    Some(number) => (0, format!("{:06}", number.as_i64().unwrap())),
                    None => (1, String::new()),
                };
                expected.sort_by_key(|hit| hit.ordinal);
                expected.sort_by(|a, b| {
                    let ((missing_a, a), (missing_b, b)) = (key(a), key(b));
                    let by_value = match order {
                        SortOrder::Asc => a.cmp(&b),
                        SortOrder::Desc => b.cmp(&a),
                    };
                    missing_a.cmp(&missing_b).then(by_value)
                });
                let found = pages(&options, None, 51).await;
                let n_shown = expected.len().min(51);
                assert_eq!(
                    ranked(&found),
                    ranked(&expected[..n_shown]),
                    "{mode:?} {field}"
                );
                let answer = search(text(QUERY), options, None).await.unwrap();
                assert_eq!(answer.total.value, expected.len() as u64);
            }
        }
    }
}

fn pins(pins: &[(usize, &str)]) -> Vec<Pin> {
    let pin = |&(rank, id): &(usize, &str)| Pin {
        id: id.to_owned(),
        rank,
    };
    pins.iter().map(pin).collect()
}

#[tokio::test]
async fn pinned_documents_have_their_ranks_on_every_page() {
    for mode in MODES {
        let ranking = whole(mode).await;
        let all: Vec<String> = ranking.iter().map(|hit| hit.id.clone()).collect();
        let pinned = [
            (1, all[40.min(all.len() - 1)].as_str()),
            (3, all[0].as_str()),
            (5, "kitchen-02"),
            (18, all[2].as_str()),
            (4, "no such document"),
        ];
        let options = SearchOptions {
            mode,
            pins: pins(&pinned),
            candidates: ALL,
            ..SearchOptions::default()
        };
        let mut others: Vec<&str> = all.iter().map(String::as_str).collect();
        others.retain(|id| pinned.iter().all(|(_, pinned)| pinned != id));
        let mut others = others.into_iter();
        let mut expected = Vec::new();
        for rank in 1..=34 {
            let pinned = pinned
                .iter()
                .find(|(of, id)| *of == rank && *id != "no such document");
            expected.extend(pinned.map(|(_, id)| *id).or_else(|| others.next()));
        }
        let found = pages(&options, None, 34).await;
        assert_eq!(ids(&found), expected[..found.len()], "{mode:?}");
        assert!(found.len() >= 18);
        let marked: Vec<usize> = found.iter().filter(|h| h.pinned).map(|h| h.rank).collect();
        assert_eq!(marked, [1, 3, 5, 18]);
    }
}

#[tokio::test]
async fn pins_and_orders_see_only_what_passes_the_filter() {
    let of_tides = Filter {
        must: vec![Condition::Field {
            key: "subject".to_owned(),
            test: Test::Match(json!("tides")),
        }],
        ..Filter::default()
    };
    let first = SearchOptions {
        filter: Some(of_tides.clone()),
        top_k: ALL,
        ..SearchOptions::default()
    };
    let passing = search(text(QUERY), first.clone(), None).await.unwrap().hits;
    let last = passing.last().unwrap().id.clone();
    let options = SearchOptions {
        pins: pins(&[(1, "kitchen-02"), (2, last.as_str())]),
        sort: Some(Sort {
            field: "year".to_owned(),
            order: SortOrder::Desc,
        }),
        ..first
    };
    let found = search(text(QUERY), options, None).await.unwrap().hits;
    assert_eq!(found.len(), passing.len());
    assert_eq!(
        (found[1].id.as_str(), found[1].pinned),
        (last.as_str(), true)
    );
    assert!(found.iter().all(|hit| hit.id != "kitchen-02"));
    let others = found.iter().filter(|hit| !hit.pinned).map(year);
    assert!(others.rev().is_sorted());
}

fn subject(hit: &Hit) -> String {
    let subject = hit.metadata.as_ref().unwrap()["subject"].as_str();
    subject.unwrap().to_owned()
}

/// The subjects of hits in their order, each once.
fn firsts(hits: &[Hit]) -> Vec<String> {
    let mut subjects: Vec<String> = Vec::new();
    for hit in hits {
        if !subjects.contains(&subject(hit)) {
            subjects.push(subject(hit));
        }
    }
    subjects
}

fn of_subject<'a>(hits: &'a [Hit], id: &str) -> &'a Hit {
    hits.iter().find(|hit| subject(hit) == id).unwrap()
}

#[tokio::test]
async fn groups_that_boosts_did_not_see_follow_those_that_they_saw() {
    const WINDOW: usize = 30;
    let boosts = vec![boost("year", BoostFunction::Linear, -1.0)];
    let mut ranking = whole(Mode::Dense).await;
    boosted(&mut ranking[..WINDOW], &boosts, BoostStage::Retrieval);
    let expected = firsts(&ranking);
    let score = |id: &String| of_subject(&ranking, id).score;
    assert!(!expected.is_sorted_by(|a, b| score(a) >= score(b)));
    let options = SearchOptions {
        group: Some(Grouping {
            by: GroupBy::Field("subject".to_owned()),
            ..Grouping::default()
        }),
        boosts,
        rank_window: WINDOW,
        top_k: expected.len(),
        ..SearchOptions::default()
    };
    let groups = search(text(QUERY), options, None).await.unwrap().groups;
    let found: Vec<String> = groups.iter().map(|group| group.id.clone()).collect();
    assert_eq!(found, expected);
    for group in groups {
        assert_eq!(group.score, score(&group.id));
        assert!(group.hits[0].explanation.is_none(), "nobody asked for it");
    }
}

#[tokio::test]
async fn an_order_by_a_field_leaves_groups_the_score_of_their_best_passage() {
    let ranking = whole(Mode::Dense).await;
    let mut by_year = whole(Mode::Dense).await;
    by_year.sort_by_key(|hit| (year(hit).is_none(), year(hit), hit.ordinal));
    let options = SearchOptions {
        group: Some(Grouping {
            by: GroupBy::Field("subject".to_owned()),
            ..Grouping::default()
        }),
        sort: Some(Sort {
            field: "year".to_owned(),
            order: SortOrder::Asc,
        }),
        ..SearchOptions::default()
    };
    let groups = search(text(QUERY), options, None).await.unwrap().groups;
    assert_eq!(groups.len(), 10);
    for group in groups {
        assert_eq!(group.score, of_subject(&ranking, &group.id).score);
        assert_eq!(group.hits[0].id, of_subject(&by_year, &group.id).id);
    }
}

#[tokio::test]
async fn groups_follow_boosts_orders_and_pins() {
    let grouping = Grouping {
        by: GroupBy::Field("subject".to_owned()),
        ..Grouping::default()
    };
    let options = |sort: Option<Sort>, pins: Vec<Pin>, boosts: Vec<Boost>| SearchOptions {
        group: Some(grouping.clone()),
        sort,
        pins,
        boosts,
        ..SearchOptions::default()
    };
    let groups = async |options| -> Vec<String> {
        let answer = search(text(QUERY), options, None).await.unwrap();
        answer.groups.into_iter().map(|group| group.id).collect()
    };

    let mut ranking = whole(Mode::Dense).await;
    let plain = firsts(&ranking);
    let boosts = vec![boost("year", decay(DecayShape::Exponential), 0.5)];
    boosted(&mut ranking, &boosts, BoostStage::Retrieval);
    let by_boosts = firsts(&ranking);
    assert_ne!(by_boosts[..10], plain[..10]);
    assert_eq!(
        groups(options(None, Vec::new(), boosts)).await,
        by_boosts[..10]
    );

    ranking.sort_by_key(|hit| (year(hit).is_none(), year(hit), hit.ordinal));
    let sort = Sort {
        field: "year".to_owned(),
        order: SortOrder::Asc,
    };
    let by_year = firsts(&ranking);
    assert_eq!(
        groups(options(Some(sort), Vec::new(), Vec::new())).await,
        by_year[..10]
    );

    let pinned = pins(&[(2, "kitchen-02"), (3, "kitchen-03")]);
    let mut expected = plain;
    expected.retain(|subject| subject != "kitchen");
    expected.insert(1, "kitchen".to_owned());
    assert_eq!(
        groups(options(None, pinned, Vec::new())).await,
        expected[..10]
    );
}

#[tokio::test]
async fn a_group_is_pinned_where_its_document_has_no_rank() {
    let options = SearchOptions {
        mode: Mode::Lexical,
        group: Some(Grouping::default()),
        pins: pins(&[(1, "kitchen-02")]),
        explain: true,
        ..SearchOptions::default()
    };
    let plain = SearchOptions {
        pins: Vec::new(),
        ..options.clone()
    };
    let query = || text("tides");
    let plain = search(query(), plain, None).await.unwrap().groups;
    assert!(plain.iter().all(|group| group.id != "kitchen-02"));
    let groups = search(query(), options, None).await.unwrap().groups;
    assert_eq!(
        (groups[0].id.as_str(), groups[0].pinned),
        ("kitchen-02", true)
    );
    let hit = &groups[0].hits[0];
    assert_eq!(
        (hit.id.as_str(), hit.rank, hit.score),
        ("kitchen-02", 0, 0.0)
    );
    assert!(hit.text.is_some());
    // As of a passage that a pin brought to a list: nothing made its score.
    assert_eq!(hit.explanation, Some(Explanation::default()));
    let followed: Vec<&str> = groups[1..].iter().map(|group| group.id.as_str()).collect();
    let expected: Vec<&str> = plain.iter().map(|group| group.id.as_str()).collect();
    assert_eq!(followed, expected[..followed.len()]);
}

#[tokio::test]
async fn what_is_wrong_in_a_boost_is_placed() {
    let with = |change: fn(&mut Boost)| {
        let mut wrong = boost("year", decay(DecayShape::Gauss), 1.0);
        change(&mut wrong);
        vec![boost("year", BoostFunction::Log1p, 1.0), wrong]
    };
    fn set(boost: &mut Boost, entry: &str, value: Value) {
        let BoostFunction::Decay {
            origin,
            scale,
            offset,
            decay,
            ..
        } = &mut boost.function
        else {
            panic!("{boost:?}")
        };
        match entry {
            "origin" => *origin = value,
            "scale" => *scale = value,
            "offset" => *offset = Some(value),
            _ => *decay = value.as_f64().unwrap(),
        }
    }
    for (boosts, pointer, message) in [
        (
            with(|b| b.field = "yaer".to_owned()),
            "/1/field",
            "did you mean `year`",
        ),
        (
            with(|b| b.field = "subject".to_owned()),
            "/1/field",
            "gauss_decay takes integer, float, date",
        ),
        (
            with(|b| b.weight = f64::NAN),
            "/1/weight",
            "a finite number",
        ),
        (
            with(|b| set(b, "origin", json!("now"))),
            "/1/origin",
            "expected a number",
        ),
        (
            with(|b| set(b, "scale", json!(0))),
            "/1/scale",
            "a number above 0",
        ),
        (
            with(|b| set(b, "scale", json!("30d"))),
            "/1/scale",
            "found string \"30d\"",
        ),
        (
            with(|b| set(b, "offset", json!(-1))),
            "/1/offset",
            "a number from 0 on",
        ),
        (
            with(|b| set(b, "decay", json!(1.0))),
            "/1/decay",
            "between 0 and 1",
        ),
    ] {
        let options = SearchOptions {
            boosts,
            ..SearchOptions::default()
        };
        let error = search(text(QUERY), options, None).await.unwrap_err();
        let SearchError::Boosts(error) = error else {
            panic!("{error}")
        };
        assert_eq!(error.pointer, pointer, "{error}");
        assert!(error.to_string().contains(message), "{error}");
    }
    let sort = Sort {
        field: "title".to_owned(),
        order: SortOrder::Asc,
    };
    let options = SearchOptions {
        sort: Some(sort),
        ..SearchOptions::default()
    };
    let error = search(text(QUERY), options, None).await.unwrap_err();
    assert!(matches!(error, SearchError::Sort(error) if error.pointer == "/field"));
}
