//! Stored rows against rows made anew: whether a generation holds the vectors of its own texts.

use collection::Generation;
use encoder::{BiEncoder, EncodeError, Role, Text};
use index::{Metric, RowType, ShardedIndex, Verify, normalize};
use retriever::FingerprintError;
use serde::Serialize;
use store::{Store, StoreError};

/// Rows compared unless told otherwise. Of 5 % wrong rows, 256 of them miss all in one case of 500,000.
pub const DEFAULT_SAMPLE: usize = 256;

/// How far stored rows are from those of their texts.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct SampleReport {
    /// Rows compared.
    pub n_rows: usize,
    /// Rows that are not those of their texts.
    pub n_differing: usize,
    /// The largest distance of a row from the one made anew, as a part of its length.
    pub largest_distance: f64,
    /// What rounding and arithmetic may account for in that row.
    pub tolerance: f64,
    /// The passage of the first row that differs.
    pub first: Option<String>,
}

/// Why rows could not be compared.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SampleError {
    /// The encoder is another than the one that the generation was built with.
    #[error("the encoder does not belong to generation `{generation}`")]
    Fingerprint {
        /// The generation.
        generation: String,
        /// The first entry that differs.
        source: FingerprintError,
    },
    /// A template of the manifest cannot be read.
    #[error("cannot use the template")]
    Template(#[from] corpus::TemplateError),
    /// The rows cannot be read.
    #[error("cannot read the vectors")]
    Vectors(#[from] index::OpenError),
    /// The texts cannot be read.
    #[error("cannot read the passages")]
    Store(#[from] StoreError),
    /// The texts cannot be encoded.
    #[error("cannot encode the passages")]
    Encode(#[from] EncodeError),
}

/// Encodes the texts of `n_rows` passages, drawn by `seed`, again and compares them with the rows that are stored.
///
/// Rows of the same arithmetic agree to their rounding; the engine gives a text one vector, whatever it is batched with.
/// Rows of another arithmetic agree as far as that keeps cosines.
///
/// # Errors
/// [`SampleError`]; rows that differ are no error but in the report.
pub fn check_sample(
    generation: &Generation,
    encoder: &BiEncoder,
    n_rows: usize,
    seed: u64,
) -> Result<SampleReport, SampleError> {
    let manifest = &generation.manifest;
    retriever::check_encoder(manifest, encoder).map_err(|source| SampleError::Fingerprint {
        generation: generation.id.to_string(),
        source,
    })?;
    if manifest.counts.passages == 0 {
        return Ok(SampleReport::default()); // It has no shards either.
    }
    let paths: Vec<_> = manifest
        .shards
        .iter()
        .map(|shard| generation.path.join(&shard.path))
        .collect();
    let rows = ShardedIndex::open(&paths, Verify::Header)?;
    let store = Store::open(&generation.path, store::Verify::Header)?;
    let ordinals = draw(store.len(), n_rows, seed);
    let passages = store.passages(&ordinals)?;
    let template = corpus::Template::parse(&manifest.templates.passage)?;
    let rendered: Vec<String> = passages
        .iter()
        .map(|passage| template.render(passage).text)
        .collect();
    let is_pair = manifest.fingerprint["passage"]["pair"] == true;
    let texts: Vec<Text<'_>> = passages
        .iter()
        .zip(&rendered)
        .map(|(passage, text)| match is_pair {
            true => Text::Pair(&passage.title, text),
            false => Text::Single(text),
        })
        .collect();
    let mut report = SampleReport {
        n_rows: texts.len(),
        ..SampleReport::default()
    };
    if texts.is_empty() {
        return Ok(report);
    }
    let mut made = encoder.encode_texts(Role::Passage, &texts)?;
    let arithmetic = encoder.config().arithmetic.as_str();
    for ((row, &ordinal), passage) in made
        .values
        .chunks_exact_mut(made.width)
        .zip(&ordinals)
        .zip(&passages)
    {
        let shard = manifest
            .shards
            .iter()
            .rfind(|shard| shard.first_ordinal <= ordinal);
        let (Some(stored), Some(shard)) = (rows.row(ordinal), shard) else {
            report.n_differing += 1;
            report.first.get_or_insert_with(|| passage.id.clone());
            continue;
        };
        let config = rows.shards()[0].config();
        if config.metric == Metric::Cosine {
            normalize(row);
        }
        let tolerance =
            rounding(config.row_type, row) + of_arithmetic(&shard.arithmetic, arithmetic);
        let distance = distance(row, &stored);
        if distance > report.largest_distance {
            (report.largest_distance, report.tolerance) = (distance, tolerance);
        }
        if distance.is_nan() || distance > tolerance {
            report.n_differing += 1;
            report.first.get_or_insert_with(|| passage.id.clone());
        }
    }
    Ok(report)
}

/// `n` different ordinals below `n_total`, ascending; all of them where there are not more.
pub(crate) fn draw(n_total: u32, n: usize, seed: u64) -> Vec<u32> {
    if n >= n_total as usize {
        return (0..n_total).collect();
    }
    let mut drawn = std::collections::BTreeSet::new();
    let mut state = seed;
    while drawn.len() < n {
        // SplitMix64, Steele, Lea & Flood 2014.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
        drawn.insert(((u128::from(bits) * u128::from(n_total)) >> 64) as u32);
    }
    drawn.into_iter().collect()
}

/// `‖a − b‖ / ‖a‖`.
fn distance(a: &[f32], b: &[f32]) -> f64 {
    let square =
        |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>();
    let difference = square(&mut a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    let length = square(&mut a.iter().map(|&value| f64::from(value)));
    match difference {
        0.0 => 0.0,
        _ => (difference / length).sqrt(),
    }
}

/// The most that rounding moves a row, as a part of its length. The last bits of other builds of the same code are in it.
fn rounding(row_type: RowType, row: &[f32]) -> f64 {
    let of_type = match row_type {
        RowType::F32 => 0.0,
        RowType::F16 => 1e-3, // half of 2⁻¹⁰ for each value, and small values lose more
        RowType::Bf16 => 4e-3, // half of 2⁻⁷
        _ => {
            // Each value moves by half a step at most, a 254th of the largest.
            let largest = row
                .iter()
                .fold(0.0_f32, |largest, value| largest.max(value.abs()));
            let length = row
                .iter()
                .map(|value| f64::from(value * value))
                .sum::<f64>()
                .sqrt();
            f64::from(largest) / 254.0 * (row.len() as f64).sqrt() / length.max(f64::MIN_POSITIVE)
        }
    };
    of_type + 1e-5
}

/// How far rows of two kinds of arithmetic may be apart: a cosine of 0.9999, of 8 bits 0.98.
fn of_arithmetic(stored: &str, now: &str) -> f64 {
    match (stored, now) {
        _ if stored == now => 0.0,
        ("int8", _) | (_, "int8") => 0.2,
        _ => 0.0142,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinals_are_drawn_once_each() {
        let drawn = draw(1000, 256, 7);
        assert_eq!(drawn.len(), 256);
        assert!(drawn.is_sorted_by(|a, b| a < b) && drawn[255] < 1000);
        assert_eq!(drawn, draw(1000, 256, 7));
        assert_ne!(drawn, draw(1000, 256, 8));
        assert_eq!(draw(3, 256, 7), [0, 1, 2]);
        assert!(draw(0, 256, 7).is_empty());
    }

    #[test]
    fn distances_are_parts_of_the_length() {
        assert_eq!(distance(&[0.0, 2.0], &[0.0, 2.0]), 0.0);
        assert_eq!(distance(&[0.0, 2.0], &[0.0, 1.0]), 0.5);
        assert!(distance(&[0.0], &[f32::NAN]).is_nan());
        assert!(rounding(RowType::Int8, &[0.5; 4]) < 0.005);
    }
}
