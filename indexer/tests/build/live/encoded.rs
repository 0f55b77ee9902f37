//! Documents whose vectors an encoder makes.

use std::fs;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use collection::{AliasName, Collection, LIVE, LogConfig};
use corpus::{CorpusConfig, Passage};
use indexer::{
    BuildConfig, CompactConfig, DocumentChange, NoProgress, Recipe, SampleReport, VectorSource,
    check_sample, compact, create, replay,
};
use retriever::{Filter, OpenConfig, QueryInput, Retriever, SearchOptions};
use serde_json::json;

use super::{Trial, open, patiently, schema, search};
use crate::{encoder, write_corpus};

#[test]
fn encoded_documents_are_folded_as_a_build_would_encode_them() {
    let folder = tempfile::tempdir().unwrap();
    let (encoder, cancelled) = (encoder(), AtomicBool::new(false));
    let corpus = folder.path().join("corpus.jsonl");
    write_corpus(&corpus, 1, 40);
    for stride in [None, Some(8)] {
        let root = folder.path().join(format!("docs-{stride:?}"));
        let config = |root: &Path, corpus: &Path| BuildConfig {
            stride,
            ..crate::config(root, corpus)
        };
        crate::run(&config(&root, &corpus)).unwrap();
        let collection = Collection::open(&root).unwrap();
        let retriever = open(&collection);
        let recipe = Recipe::of(retriever.manifest(), retriever.row_form()).unwrap();
        let mut log = patiently(|| collection.log_writer("test", LogConfig::default()));
        let text = fs::read_to_string(&corpus).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let long =
            "The tide rose. The moon was low. Salt lay on the stones of the river. ".repeat(6);
        let mut merged: Vec<String> = lines[..10].iter().map(|line| (*line).to_owned()).collect();
        merged.extend(lines[20..].iter().map(|line| (*line).to_owned()));
        for i in 0..10 {
            let id = format!("p{}", i + 10);
            let change = if i % 3 == 0 {
                DocumentChange::Delete(id)
            } else {
                let line = json!({ "_id": id, "title": "new", "text": long, "year": 2000 + i });
                merged.push(line.to_string());
                let passage = corpus::parse_passage(&line.to_string(), retriever.schema()).unwrap();
                let upsert = recipe
                    .draft(&encoder, passage)
                    .unwrap()
                    .encode(&encoder)
                    .unwrap();
                recipe.check(retriever.live().view(), &upsert).unwrap();
                DocumentChange::Upsert(upsert)
            };
            log.append(&[change.to_record()]).unwrap();
        }
        replay(&collection, &retriever, None).unwrap();
        let live = retriever.live();
        assert!(live.view().passages_of("p10").unwrap().is_empty());
        let of_document = live.view().passages_of("p11").unwrap();
        assert_eq!(of_document.len() > 1, stride.is_some());
        let all: Vec<String> = merged
            .iter()
            .map(|line| {
                serde_json::from_str::<serde_json::Value>(line).unwrap()["_id"]
                    .as_str()
                    .unwrap()
                    .to_owned()
            })
            .collect();
        let passages = live.view().select(&Filter::default()).unwrap();
        assert_eq!(live.view().documents(&passages).unwrap(), all);
        let config_of_log = CompactConfig {
            alias: AliasName::parse(LIVE).unwrap(),
            publish: true,
        };
        patiently(|| compact(&collection, &config_of_log, None, &NoProgress, &cancelled));
        let folded = collection.resolve(LIVE).unwrap();
        let path = folder.path().join("merged.jsonl");
        fs::write(&path, merged.join("\n")).unwrap();
        let other = folder.path().join(format!("full-{stride:?}"));
        let full = crate::run(&config(&other, &path)).unwrap();
        assert_eq!(folded.manifest.content_digest, full.content_digest);
        assert_eq!(folded.manifest.counts, full.counts);
        let inputs = |path: &Path| fs::read(path.join("inputs")).unwrap();
        assert_eq!(inputs(&folded.path), inputs(&full.path));
    }
}

#[test]
fn another_fingerprint_needs_an_encoder_and_gets_other_vectors() {
    let folder = tempfile::tempdir().unwrap();
    let encoder = encoder();
    let corpus = folder.path().join("corpus.jsonl");
    write_corpus(&corpus, 1, 20);
    let root = folder.path().join("docs");
    crate::run(&crate::config(&root, &corpus)).unwrap();
    let collection = Collection::open(&root).unwrap();
    let retriever = open(&collection);
    let recipe = Recipe::of(retriever.manifest(), retriever.row_form()).unwrap();
    let passage = Passage {
        id: "new".to_owned(),
        title: "stone".to_owned(),
        text: "iron bread".to_owned(),
        ..Passage::default()
    };
    let upsert = recipe
        .draft(&encoder, passage)
        .unwrap()
        .encode(&encoder)
        .unwrap();
    let mut log = patiently(|| collection.log_writer("test", LogConfig::default()));
    log.append(&[DocumentChange::Upsert(upsert).to_record()])
        .unwrap();

    let other = BuildConfig {
        passage_template: corpus::Template::parse("<text>").unwrap(),
        publish: true,
        ..crate::config(&root, &corpus)
    };
    let built = crate::run(&other).unwrap();
    assert!(built.live);
    let generation = collection.resolve(LIVE).unwrap();
    assert_eq!(generation.manifest.log_position, 0);
    let retriever = Retriever::open(generation, OpenConfig::default()).unwrap();
    let error = replay(&collection, &retriever, None).unwrap_err();
    assert!(error.to_string().contains("document `new`"), "{error}");
    assert_eq!(replay(&collection, &retriever, Some(&encoder)).unwrap(), 1);
    let texts = [encoder::Text::Single("iron bread")];
    let query = encoder
        .encode_texts(encoder::Role::Passage, &texts)
        .unwrap();
    let options = SearchOptions {
        top_k: 1,
        ..SearchOptions::default()
    };
    let answer = search(&retriever, QueryInput::Vector(query.values), options);
    assert_eq!(answer.hits[0].id, "new");
    assert!(answer.hits[0].score > 0.9999, "{}", answer.hits[0].score);
}

#[test]
fn a_generation_without_passages_is_as_its_encoder_makes_it() {
    let folder = tempfile::tempdir().unwrap();
    let encoder = encoder();
    let config = Trial::config(folder.path(), CorpusConfig::default(), false);
    let created = create(&config, &schema(), VectorSource::Encoder(&encoder)).unwrap();
    assert_eq!(created.manifest.counts.passages, 0);
    let report = check_sample(&created, &encoder, 256, 1).unwrap();
    assert_eq!(report, SampleReport::default());
}
