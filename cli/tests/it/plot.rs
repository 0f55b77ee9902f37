//! `trawl train plot`, on logs as runs write them.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::Crc;
use flate2::read::ZlibDecoder;

use crate::{fail, json, succeed, text};

/// A run of ten steps of 100 tokens, whose loss falls by `slope` a step from 10.
fn run(folder: &Path, name: &str, slope: f64) -> PathBuf {
    let run = folder.join(name);
    fs::create_dir(&run).unwrap();
    let mut log = format!("{{\"kind\":\"dev\",\"step\":0,\"loss\":10.0,\"mrr@10\":{slope}}}\n");
    for step in 1..=10 {
        let loss = 10.0 - slope * f64::from(step);
        log += &format!(
            "{{\"kind\":\"train\",\"step\":{step},\"epoch\":0,\"loss\":{loss},\"tokens_per_s\":50.0,\"n_tokens\":{}}}\n",
            step * 100
        );
    }
    log += &format!(
        "{{\"kind\":\"dev\",\"step\":10,\"loss\":{}}}\n",
        9.0 - slope * 10.0
    );
    // A line that is being written.
    log += "{\"kind\":\"tra";
    fs::write(run.join("metrics.jsonl"), log).unwrap();
    run
}

/// A PNG of unfiltered rows: its width and its pixels.
fn pixels(png: &Path) -> (usize, Vec<[u8; 3]>) {
    let png = fs::read(png).unwrap();
    let mut rest = png.strip_prefix(b"\x89PNG\r\n\x1a\n").unwrap();
    let (mut width, mut rows) = (0, Vec::new());
    let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
    while let Some((length, behind)) = rest.split_at_checked(4) {
        let (body, behind) = behind.split_at(4 + number(length) as usize);
        let (sum, behind) = behind.split_at(4);
        let mut expected = Crc::new();
        expected.update(body);
        assert_eq!(number(sum), expected.sum());
        match body.split_at(4) {
            (b"IHDR", header) => {
                width = number(&header[..4]) as usize;
                assert_eq!(header[8..], [8, 2, 0, 0, 0]);
            }
            (b"IDAT", data) => {
                ZlibDecoder::new(data).read_to_end(&mut rows).unwrap();
            }
            (kind, _) => assert_eq!(kind, b"IEND"),
        }
        rest = behind;
    }
    let rows = rows.chunks_exact(1 + 3 * width);
    assert!(rows.remainder().is_empty());
    let rows = rows.inspect(|row| assert_eq!(row[0], 0));
    let pixels = rows.flat_map(|row| row[1..].chunks_exact(3));
    (
        width,
        pixels.map(|pixel| pixel.try_into().unwrap()).collect(),
    )
}

/// Columns and rows of a colour, from the left and from above.
fn places(png: &Path, color: [u8; 3]) -> Vec<(usize, usize)> {
    let (width, pixels) = pixels(png);
    let numbers = pixels
        .into_iter()
        .enumerate()
        .filter(|(_, pixel)| *pixel == color);
    numbers
        .map(|(number, _)| (number % width, number / width))
        .collect()
}

/// Colours of the first runs.
const FIRST: [u8; 3] = [31, 119, 180];
const SECOND: [u8; 3] = [255, 127, 14];

#[test]
fn runs_are_curves_of_their_colours() {
    let folder = tempfile::tempdir().unwrap();
    let (slow, fast) = (
        run(folder.path(), "slow", 0.1),
        run(folder.path(), "fast", 0.8),
    );
    let png = folder.path().join("curves.png");
    let plot = [
        "--json",
        "train",
        "plot",
        text(&slow),
        text(&fast),
        "--out",
        text(&png),
    ];
    let report = json([&plot[..], &["--size", "640x480", "--metric", "dev/loss"]].concat());
    assert_eq!(report["runs"], serde_json::json!(["slow", "fast"]));
    let (width, all) = pixels(&png);
    assert_eq!((width, all.len()), (640, 640 * 480));
    // Dots on the right border, of 8 and of 1; on the left both runs have 10, and the later one covers the other.
    let row = |color, column| {
        let places = places(&png, color).into_iter();
        let rows: Vec<usize> = places
            .filter(|&(x, y)| x == column && y > 60)
            .map(|(_, y)| y)
            .collect();
        rows.iter().sum::<usize>() as f64 / rows.len() as f64
    };
    let (ten, eight, one) = (row(SECOND, 72), row(FIRST, 616), row(SECOND, 616));
    let pixels_a_unit = (one - ten) / 9.0;
    assert!(pixels_a_unit > 30.0, "{ten} {eight} {one}");
    assert!(
        ((eight - ten) / pixels_a_unit - 2.0).abs() < 0.1,
        "{ten} {eight} {one}"
    );

    // A panel each, one of which only dots have.
    let dev = ["--metric", "dev/mrr@10,train/loss", "--x", "hours"];
    succeed([&plot[1..], &dev].concat());
    let (width, all) = pixels(&png);
    assert_eq!((width, all.len()), (1000, 1000 * 600));
}

#[test]
fn what_cannot_be_drawn_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let run = run(folder.path(), "one", 0.1);
    let refused = |exit, arguments: &[&str], expected: &str| {
        let errors = fail(exit, [&["train", "plot"], arguments].concat());
        assert!(errors.contains(expected), "{expected} is not in {errors}");
    };
    let unknown = "no run has `bow_loss`; there are loss, mrr@10, tokens_per_s";
    refused(2, &[text(&run), "--metric", "bow_loss"], unknown);
    refused(2, &[text(&run), "--metric", "train/mrr@10"], "no run has");
    refused(2, &[text(&run), "--smooth", "1"], "below 1");
    refused(2, &[text(&run), "--size", "10x10"], "from 200 to 8000");
    refused(
        1,
        &[text(folder.path())],
        "metrics.jsonl`, the metrics of a run",
    );
    let log = run.join("metrics.jsonl");
    fs::write(&log, "{\"kind\":\"train\",\"step\":1}\n[]\n").unwrap();
    refused(65, &[text(&run)], "metrics.jsonl:2: no line of metrics");
    fs::write(&log, "").unwrap();
    refused(1, &[text(&run)], "has no line");
}
