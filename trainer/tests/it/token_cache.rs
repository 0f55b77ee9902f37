//! Tokens of corpora in files: the same texts and batches as in memory, and what is noticed of files that are not what they were.

use std::fmt::Debug;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;

use encoder::TextTokenizer;
use trainer::data::{
    CacheState, Cached, DataError, Fingerprint, Ids, TextReport, TokenCache, read_text_lines,
};
use trainer::masking::{FrequencyDictionary, MasterMasks, MasterText, Vocabulary};
use trainer::objective::pretraining::{CotMaeMasks, MasterDraw, RetroMaeMasks};
use trainer::spans::{SpanDocument, SpanPairs};
use trainer::{Batches, Draw, TextBatches, TextBatchesConfig, TextSource, Texts};

/// Takes texts one after the other.
type Each<'a> = dyn FnMut(Ids) -> Result<(), DataError> + 'a;

fn tokenizer() -> TextTokenizer {
    TextTokenizer::load(&testkit::fixture("models/tiny-bert"), false).unwrap()
}

fn fingerprint(file: &Path) -> Fingerprint {
    let (files, settings) = ([file.to_owned()], "plain".to_owned());
    Fingerprint::take(&files, &tokenizer(), settings, &mut |_, _| {}).unwrap()
}

/// A folder with a file of one number a line, which is read as texts of so many tokens.
struct Corpus {
    folder: tempfile::TempDir,
    file: PathBuf,
}

impl Corpus {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("numbers.txt");
        fs::write(&file, "3\n1\nx\n70\n2\n").unwrap();
        Self { folder, file }
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    fn open(&self) -> Result<(TokenCache<Ids>, CacheState), DataError> {
        let fingerprint = fingerprint(&self.file);
        let parse = |line: &str| {
            let n: u32 = line.parse().map_err(|_| "no number".to_owned())?;
            Ok((0..n).collect::<Ids>())
        };
        let make = |each: &mut dyn FnMut(Ids) -> _| {
            read_text_lines(
                std::slice::from_ref(&self.file),
                true,
                parse,
                2,
                &mut |_, _| {},
                each,
            )
        };
        TokenCache::open_or_make(&self.cache(), &fingerprint, 576, &mut || {}, make)
    }

    /// Opens the cache, checks what is in it, and returns what it was before.
    fn check(&self, expected: &[usize]) -> CacheState {
        let (cache, state) = self.open().unwrap();
        let lengths: Vec<usize> = cache.iter().map(|ids| ids.unwrap().len()).collect();
        assert_eq!(lengths, expected);
        let left_out = cache.left_out();
        assert_eq!((left_out.n_bad, left_out.n_empty), (1, 0));
        let first = left_out.first_bad.as_deref().unwrap();
        assert!(first.ends_with("numbers.txt:3: no number"), "{first}");
        state
    }

    /// The one file of the cache.
    fn file(&self) -> PathBuf {
        let entries = fs::read_dir(self.cache()).unwrap();
        let paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        assert_eq!(paths.len(), 1, "{paths:?}");
        paths[0].clone()
    }
}

/// Texts come back as they were written, and batches of them are those of texts in memory.
fn check_texts<T, D>(texts: Vec<T>, n_vocabulary: usize, draw: &D, bytes_of_an_id: u64)
where
    T: Cached + Clone + Debug + PartialEq + std::hash::Hash + Send + Sync,
    D: Draw<T> + Clone,
    D::Example: Debug + PartialEq,
{
    let corpus = Corpus::new();
    let make = |each: &mut dyn FnMut(T) -> Result<(), DataError>| {
        texts.iter().cloned().try_for_each(each)?;
        Ok(TextReport::default())
    };
    let fingerprint = fingerprint(&corpus.file);
    let folder = corpus.cache();
    let opened =
        TokenCache::open_or_make(&folder, &fingerprint, n_vocabulary, &mut || {}, make).unwrap();
    let (cache, state) = opened;
    assert_eq!(state, CacheState::New);
    let read: Vec<T> = cache.iter().map(Result::unwrap).collect();
    assert_eq!(read, texts);
    let about = fs::read(corpus.file()).unwrap();
    let said = format!("\"bytes_of_an_id\":{bytes_of_an_id},");
    let has_said = about
        .windows(said.len())
        .any(|part| part == said.as_bytes());
    assert!(has_said, "{said} is not in the file");

    let pieces = (0..n_vocabulary).map(|id| match id {
        0..5 => ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"][id].to_owned(),
        _ => format!("t{id}"),
    });
    let vocabulary = Vocabulary::new(pieces.collect()).unwrap();
    let config = TextBatchesConfig {
        batch_size: 3,
        seed: 7,
        drop_last: false,
        shard: None,
    };
    let in_memory = TextSource::new(texts, vocabulary.clone(), draw.clone()).unwrap();
    let in_file = TextSource::new(cache, vocabulary, draw.clone()).unwrap();
    let (rest, held_out) = in_memory.split(2, 7).unwrap();
    assert_eq!(in_file.split(2, 7).unwrap(), (rest.clone(), held_out));
    let in_memory = TextBatches::new(Arc::new(in_memory), rest.clone(), config).unwrap();
    let in_file = TextBatches::new(Arc::new(in_file), rest, config).unwrap();
    assert_eq!(in_memory.len(0), in_file.len(0));
    for (epoch, index) in [(0, 0), (0, 1), (1, 2), (9, 0)] {
        let batch = in_file.batch(epoch, index).unwrap();
        assert_eq!(batch, in_memory.batch(epoch, index).unwrap());
    }
}

#[test]
fn batches_of_a_file_are_those_of_memory() {
    let lists = |first: u32| -> Vec<Vec<u32>> {
        let list = |n: u32| (0..7 * n % 41 + 1).map(move |i| first + (i * i + n) % 60);
        (0..12).map(|n| list(n).collect()).collect()
    };
    for (n_vocabulary, first, bytes) in [(576, 10, 2), (1 << 16, 65_470, 2), (70_000, 69_000, 4)] {
        let ids = lists(first).into_iter().map(Vec::into_boxed_slice);
        check_texts::<Ids, _>(
            ids.collect(),
            n_vocabulary,
            &RetroMaeMasks::default(),
            bytes,
        );
        let line = |(n, text): (usize, Vec<u32>)| MasterText {
            text,
            queries: lists(first)[..n % 3].to_vec(),
            next: vec![Vec::new(); n % 2],
        };
        let lines = lists(first).into_iter().enumerate().map(line);
        let draw = MasterDraw {
            masks: MasterMasks::default(),
            dictionary: FrequencyDictionary::default(),
        };
        check_texts(lines.collect(), n_vocabulary, &draw, bytes);
        let document = |n: usize| SpanDocument {
            spans: lists(first)[..n + 2]
                .windows(2)
                .map(|pair| SpanPairs {
                    anchor: pair[0].clone(),
                    random_sampled: pair[1].clone(),
                    nearby: pair.concat(),
                    overlap: vec![first],
                })
                .collect(),
        };
        let documents = (0..9).map(document).collect();
        check_texts(documents, n_vocabulary, &CotMaeMasks::default(), bytes);
    }
}

#[test]
fn a_cache_is_used_until_a_file_changes() {
    let corpus = Corpus::new();
    let all = [3, 1, 70, 2];
    assert_eq!(corpus.check(&all), CacheState::New);
    let written = fs::read(corpus.file()).unwrap();
    assert_eq!(corpus.check(&all), CacheState::Found);
    // The same content at another time.
    fs::write(&corpus.file, fs::read(&corpus.file).unwrap()).unwrap();
    assert_eq!(corpus.check(&all), CacheState::Found);
    assert_eq!(fs::read(corpus.file()).unwrap(), written);
    // Another content of the same length.
    fs::write(&corpus.file, "3\n1\nx\n71\n2\n").unwrap();
    let CacheState::Renewed(reason) = corpus.check(&[3, 1, 71, 2]) else {
        panic!("the file is another one");
    };
    assert!(reason.ends_with("numbers.txt` has changed"), "{reason}");
    assert_eq!(corpus.check(&[3, 1, 71, 2]), CacheState::Found);
    // Other settings have a cache of their own.
    let settings = "otherwise".to_owned();
    let files = [corpus.file.clone()];
    let other = Fingerprint::take(&files, &tokenizer(), settings, &mut |_, _| {}).unwrap();
    let make = |each: &mut Each<'_>| each([1].into()).map(|()| TextReport::default());
    let opened = TokenCache::open_or_make(&corpus.cache(), &other, 576, &mut || {}, make);
    let (cache, state) = opened.unwrap();
    assert_eq!((cache.len(), state), (1, CacheState::New));
    assert_eq!(fs::read_dir(corpus.cache()).unwrap().count(), 2);
}

#[test]
fn a_damaged_cache_is_made_again() {
    let corpus = Corpus::new();
    let all = [3, 1, 70, 2];
    corpus.check(&all);
    let (file, whole) = (corpus.file(), fs::read(corpus.file()).unwrap());
    let renewed = |bytes: &[u8], what: &str| {
        fs::write(&file, bytes).unwrap();
        match corpus.check(&all) {
            CacheState::Renewed(reason) => {
                assert!(reason.contains(".tokens`"), "{what}: {reason}");
            }
            state => panic!("{what}: {state:?}"),
        }
        assert_eq!(fs::read(&file).unwrap(), whole, "{what}");
    };
    for at in (0..whole.len()).step_by(7) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        renewed(&bytes, &format!("byte {at}"));
    }
    for length in [0, 7, 64, whole.len() / 2, whole.len() - 1] {
        renewed(&whole[..length], &format!("length {length}"));
    }
}

#[test]
fn what_is_not_finished_leaves_nothing() {
    let corpus = Corpus::new();
    let fingerprint = fingerprint(&corpus.file);
    let folder = corpus.cache();
    let open = |make: &dyn Fn(&mut Each<'_>) -> Result<_, _>| {
        let opened = TokenCache::<Ids>::open_or_make(&folder, &fingerprint, 576, &mut || {}, make);
        opened.map(drop).unwrap_err()
    };
    let error = open(&|each| {
        each([1, 2].into())?;
        Err(DataError::TooManyPassages)
    });
    assert!(matches!(error, DataError::TooManyPassages), "{error}");
    let error = open(&|_| Ok(TextReport::default()));
    assert!(matches!(error, DataError::Empty { .. }), "{error}");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);

    // What a killed process left is written over.
    corpus.check(&[3, 1, 70, 2]);
    let file = corpus.file();
    let half = file.with_extension("tokens.tmp");
    fs::write(&half, &fs::read(&file).unwrap()[..99]).unwrap();
    fs::remove_file(&file).unwrap();
    assert_eq!(corpus.check(&[3, 1, 70, 2]), CacheState::New);
    assert_eq!(corpus.file(), file);
}

#[test]
fn of_several_processes_one_makes_the_cache() {
    let corpus = Corpus::new();
    let fingerprint = fingerprint(&corpus.file);
    let (begun, begins) = channel();
    let (waiting, waits) = channel();
    std::thread::scope(|scope| {
        let (folder, fingerprint) = (corpus.cache(), &fingerprint);
        scope.spawn(move || {
            let make = |each: &mut Each<'_>| {
                begun.send(()).unwrap();
                waits.recv().unwrap();
                each([1, 2].into()).map(|()| TextReport::default())
            };
            let made = TokenCache::open_or_make(&folder, fingerprint, 576, &mut || {}, make);
            assert_eq!(made.unwrap().1, CacheState::New);
        });
        begins.recv().unwrap();
        let make = |_: &mut Each<'_>| panic!("it is there");
        let mut on_wait = || waiting.send(()).unwrap();
        let folder = corpus.cache();
        let found = TokenCache::open_or_make(&folder, fingerprint, 576, &mut on_wait, make);
        let (cache, state) = found.unwrap();
        assert_eq!((cache.len(), state), (1, CacheState::Found));
    });
}
