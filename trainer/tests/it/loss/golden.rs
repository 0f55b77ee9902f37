//! Cases of `tests/golden/trainer/losses.json`.

use candle_core::{DType, Device, Tensor, Var};
use serde_json::Value;
use trainer::data::{Candidate, Content, Group};
use trainer::loss::{self, Better, Block, Mask, Reduction, Result, Width};

use super::{value, values};

fn read() -> Value {
    let path = testkit::golden("trainer/losses.json");
    let text = std::fs::read_to_string(path).expect("a golden file");
    serde_json::from_str(&text).expect("valid JSON")
}

fn tensor(rows: &Value, dtype: DType) -> Tensor {
    let rows = rows.as_array().expect("rows");
    let row = |row: &Value| -> Vec<f64> {
        let numbers = row.as_array().expect("numbers").iter();
        numbers
            .map(|number| number.as_f64().expect("a number"))
            .collect()
    };
    let rows: Vec<Vec<f64>> = rows.iter().map(row).collect();
    Tensor::new(rows, &Device::Cpu)
        .and_then(|t| t.to_dtype(dtype))
        .expect("a matrix")
}

fn groups(golden: &Value) -> Vec<Group> {
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let one = |value: &Value| {
        let passages = value["passages"].as_array().expect("passages").iter();
        Group {
            query_id: text(&value["query_id"]),
            query: Content::Text(text(&value["query"])),
            passages: passages
                .map(|passage| Candidate {
                    id: text(&passage[0]),
                    content: Content::Text(text(&passage[1])),
                    score: None,
                })
                .collect(),
            positives: value["positives"]
                .as_array()
                .expect("ids")
                .iter()
                .map(text)
                .collect(),
        }
    };
    golden["groups"]
        .as_array()
        .expect("groups")
        .iter()
        .map(one)
        .collect()
}

/// The loss of a case from its inputs in the order of their names.
fn compute(case: &Value, mask: &Mask, get: &dyn Fn(&str) -> Tensor) -> Result<Tensor> {
    let settings = &case["settings"];
    let number = |name: &str| settings[name].as_f64().expect("a number");
    let pool = || (get("queries"), get("passages"));
    let scores = || get("scores");
    let student = || get("student") / number("temperature");
    let masked = |mask: &Mask, blocks: &[Block]| {
        let (queries, passages) = pool();
        let scores = loss::block_similarities(&queries, &passages, blocks)?;
        let scores = (mask.apply(&scores)? / number("temperature"))?;
        loss::cross_entropy(
            &scores,
            &loss::positives(queries.dim(0)?, passages.dim(0)?)?,
        )
    };
    match case["name"].as_str().expect("a name") {
        "info_nce" => loss::info_nce(&pool().0, &pool().1, number("temperature")),
        "full_contrastive" => loss::full_contrastive(&pool().0, &pool().1, number("temperature")),
        "info_nce, masked" => masked(mask, &[]),
        "full_contrastive, masked" => masked(&mask.blocks(&Block::FULL)?, &Block::FULL),
        "in_group" => {
            let scores = loss::group_similarities(&pool().0, &pool().1)?;
            loss::listwise_softmax(&(scores / number("temperature"))?)
        }
        "matryoshka" => {
            let widths = settings["widths"].as_array().expect("widths").iter();
            let widths: Vec<Width> = widths
                .map(|width| Width {
                    width: width[0].as_u64().expect("a count") as usize,
                    weight: width[1].as_f64().expect("a weight"),
                })
                .collect();
            loss::matryoshka(&pool().0, &pool().1, &widths, |queries, passages| {
                loss::info_nce(queries, passages, number("temperature"))
            })
        }
        "kl, batch mean" | "kl, mean" => {
            let reduction = serde_json::from_value(settings["reduction"].clone());
            let reduction: Reduction = reduction.expect("a reduction");
            loss::kl_divergence(&student()?, &get("teacher"), reduction)
        }
        "soft_cross_entropy" => loss::soft_cross_entropy(&student()?, &get("teacher")),
        "margin_mse" => loss::margin_mse(&get("student"), &get("teacher")),
        "in_batch_distillation" => {
            let scores = loss::similarities(&pool().0, &pool().1)?;
            loss::in_batch_distillation(&(scores / number("temperature"))?, &get("teacher"))
        }
        "binary_cross_entropy" => loss::binary_cross_entropy(&scores()),
        "margin_ranking" => loss::margin_ranking(&scores(), number("margin")),
        "soft_margin_ranking" => loss::soft_margin_ranking(&scores(), number("margin")),
        "rank_net" => loss::rank_net(&scores()),
        "listwise_softmax" => loss::listwise_softmax(&scores()),
        "r_drop" => loss::r_drop(&get("first"), &get("second")),
        "gist" => {
            let unit = |name| loss::normalize(&get(name));
            let (queries, passages) = (unit("queries")?, unit("passages")?);
            let guide = (unit("guide_queries")?, unit("guide_passages")?);
            let guide = loss::block_similarities(&guide.0, &guide.1, &Block::GIST)?;
            let rule = match settings["kind"].as_str().expect("a kind") {
                "absolute" => Better::Absolute(-number("margin")),
                _ => Better::Relative(-number("margin")),
            };
            let (n_queries, n_passages) = (queries.dim(0)?, passages.dim(0)?);
            let mut mask = Mask::empty(n_queries, n_passages).blocks(&Block::GIST)?;
            mask.mask_better(&guide, rule, false)?;
            let scores = loss::block_similarities(&queries, &passages, &Block::GIST)?;
            let scores = (mask.apply(&scores)? / number("temperature"))?;
            loss::cross_entropy(&scores, &loss::positives(n_queries, n_passages)?)
        }
        "lambda" => {
            let k = settings["k"].as_u64().map(|k| k as usize);
            loss::lambda_loss(&scores(), &get("labels"), number("mu"), k)
        }
        "list_net" => loss::soft_cross_entropy(&scores(), &get("labels")),
        other => panic!("case {other} is not known"),
    }
}

fn check_cases(dtype: DType, tolerance: f64) {
    let golden = read();
    let mask = Mask::known(&groups(&golden)).expect("a mask");
    let cases = golden["cases"].as_array().expect("cases");
    assert_eq!(cases.len(), 23);
    for case in cases {
        let name = &case["name"];
        let inputs: Vec<(&String, Var)> = (case["inputs"].as_object().expect("inputs").iter())
            .filter(|(key, _)| *key != "masked")
            .map(|(key, rows)| {
                (
                    key,
                    Var::from_tensor(&tensor(rows, dtype)).expect("a variable"),
                )
            })
            .collect();
        let get = |key: &str| {
            let found = inputs.iter().find(|(name, _)| *name == key);
            found.expect("an input of this name").1.as_tensor().clone()
        };
        let loss = compute(case, &mask, &get).expect("a loss");
        assert_eq!(loss.dtype(), dtype, "{name}");
        let store = loss.backward().expect("a backward");
        let expected = case["loss"].as_f64().expect("a number");
        let found = value(Ok(loss));
        assert!(
            (found - expected).abs() <= tolerance * expected.abs(),
            "{name} in {dtype:?}: {found}, not {expected}"
        );
        for (key, input) in &inputs {
            let expected = &case["gradients"][*key];
            let found = store.get(input);
            if expected.is_null() {
                assert!(found.is_none(), "{name}: {key} has a gradient");
                continue;
            }
            let (found, expected) = (
                values(found.expect("a gradient")),
                values(&tensor(expected, DType::F64)),
            );
            let square: f64 = expected.iter().map(|x| x * x).sum();
            let size = (square / expected.len() as f64).sqrt();
            for (found, expected) in found.iter().zip(&expected) {
                assert!(
                    (found - expected).abs() <= tolerance * size,
                    "{name} in {dtype:?}, {key}: {found}, not {expected}"
                );
            }
        }
    }
}

#[test]
fn losses_and_gradients_equal_pytorch() {
    check_cases(DType::F64, 1e-12);
    check_cases(DType::F32, 1e-5);
}

#[test]
fn known_positives_are_masked_as_rule_by_rule() {
    let golden = read();
    let mask = Mask::known(&groups(&golden)).expect("a mask");
    let cases = golden["cases"].as_array().expect("cases").iter();
    let masked: Vec<_> = cases
        .filter(|case| !case["inputs"]["masked"].is_null())
        .collect();
    assert_eq!(masked.len(), 2);
    for case in masked {
        let rows = case["inputs"]["masked"].as_array().expect("rows");
        for (row, columns) in rows.iter().enumerate() {
            for (column, expected) in columns.as_array().expect("columns").iter().enumerate() {
                let found = mask.is_masked(row, column);
                assert_eq!(
                    Some(found),
                    expected.as_bool(),
                    "row {row}, column {column}"
                );
            }
        }
    }
}
