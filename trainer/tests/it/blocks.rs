//! Blocks of whole sentences, from documents to lines that training reads.

use std::fs;
use std::path::{Path, PathBuf};

use corpus::{CorpusConfig, CorpusReader, Template};
use encoder::TextTokenizer;
use trainer::data::{DataError, Ids, read_text_lines};
use trainer::masking::{MasterText, Vocabulary};
use trainer::spans::{
    BlockConfig, BlockReport, ClosingRule, CutError, DocumentSource, write_blocks,
};

fn tokenizer() -> TextTokenizer {
    TextTokenizer::load(&testkit::fixture("models/tiny-bert"), false).unwrap()
}

fn config(path: &Path) -> CorpusConfig {
    CorpusConfig {
        paths: vec![path.to_owned()],
        ..CorpusConfig::default()
    }
}

fn cut(
    path: &Path,
    blocks: &BlockConfig,
    n_threads: usize,
) -> Result<(Vec<u8>, BlockReport), CutError> {
    let source = DocumentSource {
        corpus: config(path),
        template: Template::default(),
        n_threads,
    };
    let mut lines = Vec::new();
    let report = write_blocks(&source, blocks, &tokenizer(), &mut lines, &mut |_, _| {})?;
    Ok((lines, report))
}

/// Texts enough for two chunks.
fn long_corpus(folder: &Path) -> PathBuf {
    let path = folder.join("long.jsonl");
    let mut corpus = String::new();
    for number in 0..300 {
        let text = format!("It is {number}. It was more, said Dr. No. ").repeat(100);
        corpus += &format!("{{\"_id\": \"n{number}\", \"text\": \"{text}\"}}\n");
    }
    fs::write(&path, corpus).unwrap();
    path
}

/// The blocks of lines, as training reads them.
fn read(lines: &[u8], folder: &Path) -> Vec<Ids> {
    let (path, vocabulary) = (
        folder.join("blocks.jsonl"),
        Vocabulary::of(&tokenizer()).unwrap(),
    );
    fs::write(&path, lines).unwrap();
    let mut blocks = Vec::new();
    let parse = |line: &str| MasterText::parse(line, &vocabulary);
    let each = |line: MasterText| {
        blocks.push(line.text.into_boxed_slice());
        Ok(())
    };
    read_text_lines(&[path], false, parse, 1, &mut |_, _| {}, each).unwrap();
    blocks
}

#[test]
fn blocks_hold_all_tokens_of_the_corpus_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let sample = testkit::fixture("sample/corpus.jsonl");
    for (path, rule, joined, n_threads) in [
        (&sample, ClosingRule::RetroMae, 1, 1),
        (&sample, ClosingRule::Condenser, 1, 1),
        (&long_corpus(folder.path()), ClosingRule::RetroMae, 8, 3),
    ] {
        let blocks = BlockConfig {
            max_tokens: 42,
            short_probability: 0.2,
            joined,
            ..BlockConfig::of(rule)
        };
        check(path, &blocks, n_threads, folder.path());
    }
}

/// Cuts a corpus on one thread and on several, and compares the blocks with its texts.
fn check(path: &Path, blocks: &BlockConfig, n_threads: usize, folder: &Path) {
    let tokenizer = tokenizer();
    let passages = CorpusReader::open(&config(path)).unwrap();
    let text = |passage: Result<_, _>| Template::default().render(&passage.unwrap()).text;
    let texts: Vec<Vec<u32>> = passages
        .map(|passage| tokenizer.ids(&text(passage)).unwrap())
        .collect();
    let (lines, report) = cut(path, blocks, 1).unwrap();
    let found = read(&lines, folder);
    assert_eq!(found.concat(), texts.concat());
    let n_tokens = texts.iter().map(Vec::len).sum::<usize>() as u64;
    let beyond = found.iter().filter_map(|block| block.len().checked_sub(41));
    let expected = BlockReport {
        n_documents: texts.len().div_ceil(blocks.joined) as u64,
        n_blocks: found.len() as u64,
        n_tokens,
        n_long: beyond.clone().count() as u64,
        n_beyond: beyond.map(|n| n as u64 + 1).sum(),
        ..BlockReport::default()
    };
    assert_eq!(report, expected, "{blocks:?}");

    // Where a document, or so many joined ones, ends, a block does.
    let mut n_read = 0;
    let ends: Vec<usize> = found
        .iter()
        .map(|block| {
            n_read += block.len();
            n_read
        })
        .collect();
    let mut n_read = 0;
    for documents in texts.chunks(blocks.joined) {
        n_read += documents.iter().map(Vec::len).sum::<usize>();
        assert!(ends.binary_search(&n_read).is_ok(), "{blocks:?} {n_read}");
    }

    assert_eq!(
        cut(path, blocks, n_threads).unwrap(),
        (lines.clone(), report)
    );
    let other = BlockConfig {
        seed: 7,
        ..blocks.clone()
    };
    assert_ne!(cut(path, &other, 1).unwrap().0, lines);
}

#[test]
fn draws_depend_on_the_number_of_a_document_and_not_on_its_chunk() {
    let folder = tempfile::tempdir().unwrap();
    let sample = fs::read_to_string(testkit::fixture("sample/corpus.jsonl")).unwrap();
    let blocks = BlockConfig {
        max_tokens: 42,
        short_probability: 0.5,
        ..BlockConfig::of(ClosingRule::RetroMae)
    };
    // A first text without a token, which has a chunk of its own where it is long.
    let [beside, behind] = [1, 400_000].map(|length| {
        let path = folder.path().join(format!("{length}.jsonl"));
        let first = "\u{200b}".repeat(length);
        let first = format!("{{\"_id\": \"first\", \"text\": \"{first}\"}}\n");
        fs::write(&path, first + &sample).unwrap();
        cut(&path, &blocks, 1).unwrap().0
    });
    assert!(beside == behind, "the same blocks");
}

#[test]
fn documents_that_cannot_be_cut_are_counted_or_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("corpus.jsonl");
    let blocks = BlockConfig::of(ClosingRule::RetroMae);
    let (empty, good) = (
        "{\"_id\": \"a\", \"text\": \"\u{200b}\"}\n",
        "{\"_id\": \"b\", \"text\": \"One. Two.\"}\n",
    );
    fs::write(&path, [empty, good].concat()).unwrap();
    let (_, report) = cut(&path, &blocks, 1).unwrap();
    assert_eq!(
        (report.n_documents, report.n_empty, report.n_blocks),
        (2, 1, 1)
    );
    fs::write(&path, empty).unwrap();
    let error = cut(&path, &blocks, 1).unwrap_err();
    assert!(
        matches!(error, CutError::Data(DataError::Empty { .. })),
        "{error}"
    );
    fs::write(&path, [good, "{\"_id\": 1.5}\n"].concat()).unwrap();
    let error = cut(&path, &blocks, 2).unwrap_err().to_string();
    assert!(error.contains("corpus.jsonl:2: "), "{error}");
    let wrong = BlockConfig {
        max_tokens: 4,
        ..blocks
    };
    let error = cut(&path, &wrong, 1).unwrap_err().to_string();
    assert!(error.contains("max_tokens is 4"), "{error}");
}
