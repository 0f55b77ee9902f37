//! How the texts of `[data] corpus` are read: tokenised into a file, once.

use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use corpus::CorpusConfig;
use encoder::TextTokenizer;
use serde_json::json;
use trainer::Texts;
use trainer::data::{
    CacheState, Cached, DataError, Fingerprint, Ids, TextReport, TokenCache, read_text_lines,
    tokenise_texts,
};
use trainer::masking::{MasterText, Vocabulary};
use trainer::run::RunDirectory;
use trainer::spans::SpanDocument;

use super::Session;
use super::file::{CorpusSection, TextFormat};
use crate::failure::Failure;
use crate::progress::Progress;

/// How texts are read.
pub struct Reading<'a> {
    pub corpus: &'a CorpusSection,
    pub tokenizer: TextTokenizer,
    pub vocabulary: Vocabulary,
    pub n_threads: usize,
}

/// Takes texts one after the other.
type Each<'a, T> = dyn FnMut(T) -> Result<(), DataError> + 'a;

/// Texts as methods read them, of one or more formats.
pub trait Source: Cached + Send {
    /// The format that the configuration says, or its own.
    fn format(said: Option<TextFormat>) -> anyhow::Result<TextFormat>;

    fn stream(
        reading: &Reading<'_>,
        format: TextFormat,
        progress: &Progress,
        each: &mut Each<'_, Self>,
    ) -> Result<TextReport, DataError>;
}

impl Session<'_> {
    /// Opens the file of the texts' tokens, or makes it, and says what was left out.
    pub fn texts<T: Source>(&self, reading: &Reading<'_>) -> anyhow::Result<TokenCache<T>> {
        let format = T::format(reading.corpus.format)?;
        let progress = Progress::new(self.output);
        let opened = self.open_texts(reading, format, &progress);
        progress.finish();
        let (texts, state) = opened?;
        let (n, path) = (texts.len(), texts.path().display());
        self.output.remark(match state {
            CacheState::Found => format!("{n} texts, tokenised before: `{path}`"),
            CacheState::New => format!("{n} texts, now tokenised: `{path}`"),
            CacheState::Renewed(reason) => format!("{n} texts, tokenised again: {reason}"),
        });
        let left_out = texts.left_out();
        if left_out.n_empty > 0 {
            let text = format!("left out: {} texts without a token", left_out.n_empty);
            self.output.remark(text);
        }
        if let Some(first) = &left_out.first_bad {
            let n_bad = left_out.n_bad;
            let text = format!("left out: {n_bad} bad lines, the first is {first}");
            self.output.remark(text);
        }
        Ok(texts)
    }

    fn open_texts<T: Source>(
        &self,
        reading: &Reading<'_>,
        format: TextFormat,
        progress: &Progress,
    ) -> anyhow::Result<(TokenCache<T>, CacheState)> {
        let section = reading.corpus;
        let mut on_bytes = |done, total| progress.update("check", "bytes", done, total);
        let settings = json!({
            "format": format, "columns": section.columns, "passage_template": section.passage_template,
            "skip_bad_lines": section.skip_bad_lines,
        });
        let (files, settings) = (&section.files, settings.to_string());
        let fingerprint = Fingerprint::take(files, &reading.tokenizer, settings, &mut on_bytes)?;
        let make = |each: &mut Each<'_, T>| T::stream(reading, format, progress, each);
        let open = |folder: PathBuf| {
            let mut on_wait = || progress.remark("waiting for another run, which tokenises");
            TokenCache::open_or_make(
                &folder,
                &fingerprint,
                reading.vocabulary.len(),
                &mut on_wait,
                make,
            )
        };
        if let Some(folder) = &self.file.sections.data.cache {
            return Ok(open(folder.clone())?);
        }
        if self.args.dry_run {
            // A mapped file outlives its name.
            let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
            return Ok(open(folder.path().to_owned())?);
        }
        let run = self.folder();
        let opened = open(RunDirectory::corpus(&run));
        if opened.is_err() {
            // Texts that cannot be read leave no run; folders that hold something stay.
            let _ = fs::remove_dir(RunDirectory::corpus(&run)).and_then(|()| fs::remove_dir(&run));
        }
        Ok(opened?)
    }
}

impl Reading<'_> {
    fn passages(
        &self,
        progress: &Progress,
        each: impl FnMut(Ids) -> Result<(), DataError>,
    ) -> Result<TextReport, DataError> {
        let section = self.corpus;
        let corpus = CorpusConfig {
            paths: section.files.clone(),
            columns: section.columns.clone(),
            skip_bad_lines: section.skip_bad_lines,
            ..CorpusConfig::default()
        };
        let template = section.passage_template.clone().unwrap_or_default();
        let mut on_bytes = |done, total| progress.update("tokenise", "bytes", done, total);
        tokenise_texts(
            &corpus,
            &template,
            &self.tokenizer,
            self.n_threads,
            &mut on_bytes,
            each,
        )
    }

    fn lines<T: Send>(
        &self,
        parse: impl Fn(&str, &Vocabulary) -> Result<T, String> + Sync,
        progress: &Progress,
        each: impl FnMut(T) -> Result<(), DataError>,
    ) -> Result<TextReport, DataError> {
        let section = self.corpus;
        let mut on_bytes = |done, total| progress.update("read", "bytes", done, total);
        read_text_lines(
            &section.files,
            section.skip_bad_lines,
            |line| parse(line, &self.vocabulary),
            self.n_threads,
            &mut on_bytes,
            each,
        )
    }
}

/// Texts of passages, or of MASTER's lines.
impl Source for Ids {
    fn format(said: Option<TextFormat>) -> anyhow::Result<TextFormat> {
        match said.unwrap_or(TextFormat::Texts) {
            TextFormat::Spans => refuse("texts, not spans: `format` is `texts` or `master`"),
            format => Ok(format),
        }
    }

    fn stream(
        reading: &Reading<'_>,
        format: TextFormat,
        progress: &Progress,
        each: &mut Each<'_, Self>,
    ) -> Result<TextReport, DataError> {
        match format {
            TextFormat::Texts => reading.passages(progress, each),
            _ => reading.lines(MasterText::parse, progress, |line| {
                each(line.text.into_boxed_slice())
            }),
        }
    }
}

/// MASTER's lines, or passages without queries and continuations.
impl Source for MasterText {
    fn format(said: Option<TextFormat>) -> anyhow::Result<TextFormat> {
        match said.unwrap_or(TextFormat::Master) {
            TextFormat::Spans => refuse("texts, not spans: `format` is `master` or `texts`"),
            format => Ok(format),
        }
    }

    fn stream(
        reading: &Reading<'_>,
        format: TextFormat,
        progress: &Progress,
        each: &mut Each<'_, Self>,
    ) -> Result<TextReport, DataError> {
        match format {
            TextFormat::Texts => reading.passages(progress, |ids| {
                each(MasterText {
                    text: ids.into_vec(),
                    ..MasterText::default()
                })
            }),
            _ => reading.lines(MasterText::parse, progress, each),
        }
    }
}

/// Documents cut into spans.
impl Source for SpanDocument {
    fn format(said: Option<TextFormat>) -> anyhow::Result<TextFormat> {
        match said.unwrap_or(TextFormat::Spans) {
            TextFormat::Spans => Ok(TextFormat::Spans),
            _ => refuse("spans, which `trawl data span-pairs` makes of texts"),
        }
    }

    fn stream(
        reading: &Reading<'_>,
        _: TextFormat,
        progress: &Progress,
        each: &mut Each<'_, Self>,
    ) -> Result<TextReport, DataError> {
        reading.lines(SpanDocument::parse, progress, each)
    }
}

fn refuse<T>(what: &str) -> anyhow::Result<T> {
    Err(Failure::usage(format!("this objective reads {what}")).into())
}

/// A line on the texts for people.
pub fn describe(section: &CorpusSection) -> String {
    section.note.clone().unwrap_or_else(|| {
        let name = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default();
            name.to_string_lossy().into_owned()
        };
        let names: Vec<String> = section.files.iter().map(name).collect();
        names.join(", ")
    })
}
