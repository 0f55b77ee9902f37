use std::ops::RangeInclusive;

use tantivy::columnar::{Column, ColumnIndex, ColumnType, MonotonicallyMappableToU64};
use tantivy::error::DataCorruption;
use tantivy::{Searcher, SegmentReader, TantivyError};

use crate::Bitmap;
use crate::lexical::{ORDINAL, metadata_field};
use crate::predicate::{Predicate, Values, gaps, point};

/// Ranges that tantivy's vectorised scan looks for, one after another; with more of them, one pass looks up each value instead, at
/// a cost that hardly grows with their number. Where the two cost the same was not measured.
const MAX_SCANS: usize = 8;

/// Where the documents of tantivy's segments stand in ordinal order: a run is as many as follow each other in both.
pub(crate) struct Runs(Vec<Run>);

struct Run {
    first_ordinal: u32,
    segment: usize,
    first_document: u32,
    len: u32,
}

impl Runs {
    /// Reads the ordinal of every document.
    pub fn read(searcher: &Searcher) -> tantivy::Result<Self> {
        let mut runs: Vec<Run> = Vec::new();
        for (segment, reader) in searcher.segment_readers().iter().enumerate() {
            let ordinals = reader.fast_fields().u64(ORDINAL)?;
            for (first_document, ordinal) in (0..).zip(ordinals.values.iter()) {
                let first_ordinal = u32::try_from(ordinal).map_err(|_| disordered())?;
                match runs.last_mut() {
                    Some(run)
                        if run.segment == segment
                            && first_ordinal.checked_sub(run.len) == Some(run.first_ordinal) =>
                    {
                        run.len += 1;
                    }
                    _ => runs.push(Run {
                        first_ordinal,
                        segment,
                        first_document,
                        len: 1,
                    }),
                }
            }
        }
        runs.sort_unstable_by_key(|run| run.first_ordinal);
        Ok(Self(runs))
    }

    /// The ordinals of documents, given segment by segment.
    fn ordinals(&self, mut documents: Vec<Bitmap>) -> tantivy::Result<Bitmap> {
        if let [run] = self.0.as_slice()
            && (run.first_ordinal, run.first_document) == (0, 0)
        {
            return Ok(documents.pop().unwrap_or_default());
        }
        let in_order = self.0.iter().flat_map(|run| {
            let of_run = run.first_document..run.first_document + run.len;
            let found = documents[run.segment].range(of_run);
            found.map(|document| document - run.first_document + run.first_ordinal)
        });
        Bitmap::from_sorted_iter(in_order).map_err(|_| disordered())
    }

    /// The segment of a passage and its document there.
    pub fn document(&self, ordinal: u32) -> Option<(usize, u32)> {
        let next = self.0.partition_point(|run| run.first_ordinal <= ordinal);
        let run = self.0.get(next.checked_sub(1)?)?;
        let position = ordinal - run.first_ordinal;
        (position < run.len).then_some((run.segment, run.first_document + position))
    }

    /// The documents of a segment whose ordinals are among these, all of them where there are none given.
    pub fn documents<'a>(
        &'a self,
        segment: usize,
        ordinals: Option<&'a Bitmap>,
    ) -> impl Iterator<Item = u32> + 'a {
        let runs = self.0.iter().filter(move |run| run.segment == segment);
        runs.flat_map(move |run| {
            let of_run = run.first_ordinal..run.first_ordinal + run.len;
            let all = ordinals.is_none().then(|| of_run.clone());
            let found = ordinals.map(|ordinals| ordinals.range(of_run));
            let ordinals = all.into_iter().flatten().chain(found.into_iter().flatten());
            ordinals.map(|ordinal| ordinal - run.first_ordinal + run.first_document)
        })
    }
}

fn disordered() -> TantivyError {
    TantivyError::DataCorruption(DataCorruption::comment_only(
        "ordinals repeat or are too large",
    ))
}

/// Returns the ordinals of the passages that a predicate holds for.
///
/// Each field costs one pass over its column, in segments one after another; sets of documents are combined before they
/// become ordinals.
pub(crate) fn select(
    searcher: &Searcher,
    runs: &Runs,
    predicate: &Predicate,
) -> tantivy::Result<Bitmap> {
    let readers = searcher.segment_readers().iter();
    let documents: tantivy::Result<Vec<Bitmap>> =
        readers.map(|reader| holds(predicate, reader)).collect();
    runs.ordinals(documents?)
}

/// The documents of a segment that a predicate holds for.
fn holds(predicate: &Predicate, reader: &SegmentReader) -> tantivy::Result<Bitmap> {
    match predicate {
        Predicate::All(predicates) => {
            let mut documents = every_document(reader);
            for predicate in predicates {
                if documents.is_empty() {
                    break;
                }
                match predicate {
                    Predicate::Not(unwanted) => documents -= holds(unwanted, reader)?,
                    wanted => documents &= holds(wanted, reader)?,
                }
            }
            Ok(documents)
        }
        Predicate::Any(predicates) => {
            let mut documents = Bitmap::new();
            for predicate in predicates {
                documents |= holds(predicate, reader)?;
            }
            Ok(documents)
        }
        Predicate::Not(unwanted) => Ok(every_document(reader) - holds(unwanted, reader)?),
        Predicate::Has { field, values } => has(&metadata_field(field), values, reader),
    }
}

fn every_document(reader: &SegmentReader) -> Bitmap {
    let mut documents = Bitmap::new();
    documents.insert_range(0..reader.max_doc());
    documents
}

/// The documents that have one of the values in a field. A segment without any value of the field has no column.
fn has(field: &str, values: &Values, reader: &SegmentReader) -> tantivy::Result<Bitmap> {
    let (column, ranges) = match values {
        Values::Numbers(ranges) => match column(field, reader)? {
            Some((column, ColumnType::DateTime)) => (column, ranges.iter().map(nanos).collect()),
            Some((column, _)) => (column, ranges.clone()),
            None => return Ok(Bitmap::new()),
        },
        Values::Keywords(texts) | Values::OtherKeywords(texts) => {
            let Some(column) = reader.fast_fields().str(field)? else {
                return Ok(Bitmap::new());
            };
            let mut ranges = Vec::new();
            for text in texts {
                // Sorted texts have rising numbers.
                ranges.extend(column.dictionary().term_ord(text)?.map(point));
            }
            if matches!(values, Values::OtherKeywords(_)) {
                ranges = gaps(&ranges);
            }
            (column.ords().clone(), ranges)
        }
    };
    Ok(within(&column, &ranges, reader))
}

/// The column of a field as numbers, and its type.
pub(crate) fn column(
    field: &str,
    reader: &SegmentReader,
) -> tantivy::Result<Option<(Column<u64>, ColumnType)>> {
    let mut handles = reader.fast_fields().dynamic_column_handles(field)?;
    let Some(handle) = handles.pop() else {
        return Ok(None);
    };
    let column = handle.open_u64_lenient()?;
    Ok(column.map(|column| (column, handle.column_type())))
}

/// A range of microseconds in nanoseconds. Earlier versions indexed dates by tantivy's own type, which has nanoseconds, cut
/// to seconds.
fn nanos(micros: &RangeInclusive<u64>) -> RangeInclusive<u64> {
    let scale = |micros: u64| i64::from_u64(micros).saturating_mul(1000);
    scale(*micros.start()).to_u64()..=scale(*micros.end()).saturating_add(999).to_u64()
}

/// The documents that have a value in one of the ranges, which are in order and apart.
fn within(column: &Column<u64>, ranges: &[RangeInclusive<u64>], reader: &SegmentReader) -> Bitmap {
    if matches!(column.index, ColumnIndex::Empty { .. }) {
        return Bitmap::new();
    }
    let set = |documents: Vec<u32>| {
        Bitmap::from_sorted_iter(documents).expect("documents of a column are in order")
    };
    if ranges.len() <= MAX_SCANS {
        let mut found = Bitmap::new();
        for range in ranges {
            // tantivy 0.27 takes a range that ends below all values for one that holds the smallest.
            let start = *range.start().max(&column.min_value());
            let end = *range.end().min(&column.max_value());
            if start <= end {
                let (range, mut documents) = (start..=end, Vec::new());
                column.get_docids_for_value_range(range, 0..reader.max_doc(), &mut documents);
                found |= set(documents);
            }
        }
        return found;
    }
    let mut rows = Vec::new();
    for (row, value) in (0..).zip(column.values.iter()) {
        let next = ranges.partition_point(|range| *range.end() < value);
        if ranges
            .get(next)
            .is_some_and(|range| *range.start() <= value)
        {
            rows.push(row);
        }
    }
    column.index.select_batch_in_place(0, &mut rows);
    set(rows)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tantivy::schema::{FAST, INDEXED, Schema};
    use tantivy::{DateTime, Index, TantivyDocument};

    use super::*;
    use crate::predicate::resolve;
    use crate::{Bounds, Condition, Filter, Test};

    #[test]
    fn dates_of_earlier_versions_are_compared_by_seconds() {
        let mut schema = Schema::builder();
        let ordinal = schema.add_u64_field(ORDINAL, FAST);
        let day = schema.add_date_field(&metadata_field("day"), FAST | INDEXED);
        let index = Index::create_in_ram(schema.build());
        let mut writer = index.writer_with_num_threads(1, 15_000_000).unwrap();
        let texts = ["2026-11-20", "2026-11-20T00:00:01.5Z", "1969-12-31"];
        for (n, text) in (0..).zip(texts) {
            let mut document = TantivyDocument::new();
            document.add_u64(ordinal, n);
            document.add_date(day, DateTime::from_utc(corpus::parse_date(text).unwrap()));
            writer.add_document(document).unwrap();
        }
        writer.commit().unwrap();
        let searcher = index.reader().unwrap().searcher();
        let runs = Runs::read(&searcher).unwrap();
        let schema = serde_json::from_value(json!({"fields": {"day": "date"}})).unwrap();
        let check = |test: Test, expected: &[u32]| {
            let key = "day".to_owned();
            let filter = Filter {
                must: vec![Condition::Field { key, test }],
                ..Filter::default()
            };
            let predicate = resolve(&filter, &schema, "").unwrap();
            let selected = select(&searcher, &runs, &predicate).unwrap();
            assert_eq!(selected.iter().collect::<Vec<_>>(), expected, "{filter:?}");
        };
        check(Test::Match(json!("2026-11-20")), &[0]);
        check(Test::Match(json!("2026-11-20T00:00:01Z")), &[1]);
        check(Test::Except(vec![json!("2026-11-20")]), &[1, 2]);
        check(Test::Exists, &[0, 1, 2]);
        let range = |gt: &str, lte: &str| {
            let (gt, lte) = (Some(json!(gt)), Some(json!(lte)));
            Test::Range(Bounds {
                gt,
                lte,
                ..Bounds::default()
            })
        };
        check(range("2026-11-20", "9999-12-31"), &[1]);
        check(range("0001-01-01", "1970-01-01"), &[2]);
    }
}
