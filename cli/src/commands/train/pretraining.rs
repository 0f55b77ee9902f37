//! Pre-training: the texts of `[data] corpus`, and the method of `[objective]` on them.

use std::hash::Hash;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use corpus::{CorpusConfig, Template};
use encoder::TextTokenizer;
use trainer::data::{DataError, TextCorpus};
use trainer::masking::{FrequencyDictionary, MasterText, Vocabulary};
use trainer::objective::pretraining::{
    Condenser, CotMae, Master, MasterDraw, Method, Mlm, Pretraining, RetroMae, SimLm,
};
use trainer::run::{Describe, Evaluator, LossEvaluator};
use trainer::spans::SpanDocument;
use trainer::{Batches, Draw, TextBatches, TextBatchesConfig, TextSource};

use super::file::{CorpusSection, Sections, TextFormat};
use super::objective::{MethodSection, PretrainingSection};
use super::{Session, Work};
use crate::failure::Failure;
use crate::model;
use crate::progress::Progress;

/// Token ids of a text.
type Ids = Box<[u32]>;

impl Session<'_> {
    /// Pre-trains the model of a folder.
    pub fn pretrain(&self, section: &PretrainingSection, folder: &Path) -> anyhow::Result<()> {
        let corpus = corpus(&self.file.sections)?;
        let tokenizer = TextTokenizer::load(folder, false)
            .with_context(|| format!("cannot load the tokenizer of `{}`", folder.display()))?;
        let reading = Reading {
            corpus,
            vocabulary: Vocabulary::of(&tokenizer)?,
            tokenizer,
            n_threads: compute::thread_budget(self.file.sections.engine.threads),
        };
        let engine = &self.engine;
        match &section.method {
            MethodSection::Mlm(config, masks) => {
                let method = Mlm::load(folder, config, engine)?;
                let texts = self.read(|progress| reading.ids(progress))?;
                self.pretrain_on(section, method, reading.vocabulary, texts, masks.clone())
            }
            MethodSection::Condenser(config, masks) if config.contrastive => {
                let method = Condenser::load(folder, config, engine)?;
                let texts = self.read(|progress| reading.spans(progress))?;
                self.pretrain_on(section, method, reading.vocabulary, texts, masks.clone())
            }
            MethodSection::Condenser(config, masks) => {
                let method = Condenser::load(folder, config, engine)?;
                let texts = self.read(|progress| reading.ids(progress))?;
                self.pretrain_on(section, method, reading.vocabulary, texts, masks.clone())
            }
            MethodSection::RetroMae(config, masks) | MethodSection::DupMae(config, masks) => {
                let method = RetroMae::load(folder, config, engine)?;
                let texts = self.read(|progress| reading.ids(progress))?;
                self.pretrain_on(section, method, reading.vocabulary, texts, masks.clone())
            }
            MethodSection::CotMae(config, masks) => {
                let method = CotMae::load(folder, config, engine)?;
                let texts = self.read(|progress| reading.spans(progress))?;
                self.pretrain_on(section, method, reading.vocabulary, texts, masks.clone())
            }
            MethodSection::SimLm(config, masks) => {
                let mut config = config.clone();
                if let Some(path) = &mut config.generator {
                    *path = model::find(path)?;
                }
                let method = SimLm::load(folder, &config, engine)?;
                let texts = self.read(|progress| reading.ids(progress))?;
                self.pretrain_on(section, method, reading.vocabulary, texts, masks.clone())
            }
            MethodSection::Master(config, masks, dictionary) => {
                let method = Master::load(folder, config, engine)?;
                let texts = self.read(|progress| reading.master(progress))?;
                self.remark_missing(&texts);
                let dictionary = match dictionary {
                    Some(path) => FrequencyDictionary::read(path)?,
                    None => {
                        let texts = texts.iter().map(|line| line.text.as_slice());
                        FrequencyDictionary::of_texts(texts, &reading.vocabulary)
                    }
                };
                let masks = masks.clone();
                let draw = MasterDraw { masks, dictionary };
                self.pretrain_on(section, method, reading.vocabulary, texts, draw)
            }
        }
    }

    /// Reads the texts and says what was left out.
    fn read<T>(
        &self,
        read: impl FnOnce(&Progress) -> anyhow::Result<TextCorpus<T>>,
    ) -> anyhow::Result<Vec<T>> {
        let progress = Progress::new(self.output);
        let read = read(&progress);
        progress.finish();
        let corpus = read?;
        if corpus.n_empty > 0 {
            let text = format!("left out: {} texts without a token", corpus.n_empty);
            self.output.remark(text);
        }
        if let Some(first) = corpus.first_bad {
            let n_bad = corpus.n_bad;
            let text = format!("left out: {n_bad} bad lines, the first is {first}");
            self.output.remark(text);
        }
        Ok(corpus.texts)
    }

    /// Says how many of MASTER's lines have no queries and no continuation.
    fn remark_missing(&self, texts: &[MasterText]) {
        let n_queries = texts.iter().filter(|line| line.queries.is_empty()).count();
        let has_next = |line: &&MasterText| line.next.first().is_none_or(Vec::is_empty);
        let n_next = texts.iter().filter(has_next).count();
        if n_queries + n_next > 0 {
            self.output.remark(format!(
                "in each epoch {n_queries} of {n} texts have no queries, and that stream no label; {n_next} have no \
                 continuation, and the text stands for it",
                n = texts.len()
            ));
        }
    }

    fn pretrain_on<M, T, D>(
        &self,
        section: &PretrainingSection,
        method: M,
        vocabulary: Vocabulary,
        texts: Vec<T>,
        draw: D,
    ) -> anyhow::Result<()>
    where
        M: Method<Batch = Vec<D::Example>>,
        T: Hash + Send + Sync,
        D: Draw<T>,
        Vec<D::Example>: Describe,
    {
        let architecture = method.model().encoder().architecture();
        let refuse = |text: String| Err(Failure::usage(text).into());
        let (n_ids, n_vocabulary) = (vocabulary.len(), architecture.n_vocabulary);
        if n_ids > n_vocabulary {
            return refuse(format!(
                "the tokenizer has {n_ids} tokens, and the model {n_vocabulary}"
            ));
        }
        let (n_drawn, max_tokens) = (draw.max_tokens(), architecture.max_tokens());
        if n_drawn > max_tokens {
            return refuse(format!(
                "`objective.masks.max_tokens` is {n_drawn}, and the model reads {max_tokens}"
            ));
        }
        let objective = Pretraining::new(method, section.dropout, section.keep_decoders)?;

        let sections = &self.file.sections;
        let n_held_out = sections.dev.as_ref().and_then(|dev| dev.texts).unwrap_or(0);
        let config = TextBatchesConfig {
            batch_size: sections.data.batch_size,
            seed: sections.run.seed,
            drop_last: sections.data.drop_last,
        };
        let source = Arc::new(TextSource::new(texts, vocabulary, draw)?);
        let (trained, held_out) = source.split(n_held_out, config.seed)?;
        let (n_texts, batch_size) = (trained.len(), config.batch_size);
        let batches = TextBatches::new(Arc::clone(&source), trained, config)?;
        let held_out_config = TextBatchesConfig {
            drop_last: false,
            ..config
        };
        let held_out = TextBatches::new(source, held_out, held_out_config)?;
        self.train(
            objective,
            Work {
                batches,
                remark: |n_tokens| {
                    format!("{n_texts} texts; {batch_size} a batch, about {n_tokens} tokens")
                },
                evaluators: |_: &Path, _: &Progress| {
                    let mut evaluators: Vec<Box<dyn Evaluator<_>>> = Vec::new();
                    if !held_out.is_empty(0) {
                        evaluators.push(Box::new(LossEvaluator { batches: held_out }));
                    }
                    Ok(evaluators)
                },
            },
        )
    }
}

/// The texts of a configuration, in which nothing of fine-tuning stands.
fn corpus(sections: &Sections) -> anyhow::Result<&CorpusSection> {
    let (data, dev) = (&sections.data, sections.dev.as_ref());
    let strange = [
        ("data.train", !data.train.is_empty()),
        ("data.stream", data.stream),
        ("data.shuffle_buffer", data.shuffle_buffer.is_some()),
        ("data.no_duplicates", data.no_duplicates),
        ("dev.dataset", dev.is_some_and(|dev| dev.dataset.is_some())),
        (
            "dev.examples",
            dev.is_some_and(|dev| !dev.examples.is_empty()),
        ),
    ];
    if let Some((key, _)) = strange.iter().find(|(_, is_given)| *is_given) {
        let text = format!("`{key}` is for fine-tuning; pre-training reads `data.corpus`");
        return Err(Failure::usage(text).into());
    }
    let text = "there is no `data.corpus`, which pre-training reads";
    let corpus = data.corpus.as_ref().ok_or_else(|| Failure::usage(text))?;
    if corpus.files.is_empty() {
        return Err(Failure::usage("`data.corpus.files` names no file").into());
    }
    Ok(corpus)
}

/// How texts are read.
struct Reading<'a> {
    corpus: &'a CorpusSection,
    tokenizer: TextTokenizer,
    vocabulary: Vocabulary,
    n_threads: usize,
}

impl Reading<'_> {
    /// Texts of passages, or of MASTER's lines.
    fn ids(&self, progress: &Progress) -> anyhow::Result<TextCorpus<Ids>> {
        match self.corpus.format.unwrap_or(TextFormat::Texts) {
            TextFormat::Texts => Ok(self.tokenised(progress)?),
            TextFormat::Master => Ok(self
                .master_lines(progress)?
                .map(|line| line.text.into_boxed_slice())),
            TextFormat::Spans => refuse("texts, not spans: `format` is `texts` or `master`"),
        }
    }

    /// MASTER's lines, or passages without queries and continuations.
    fn master(&self, progress: &Progress) -> anyhow::Result<TextCorpus<MasterText>> {
        match self.corpus.format.unwrap_or(TextFormat::Master) {
            TextFormat::Master => Ok(self.master_lines(progress)?),
            TextFormat::Texts => Ok(self.tokenised(progress)?.map(|ids| MasterText {
                text: ids.into_vec(),
                ..MasterText::default()
            })),
            TextFormat::Spans => refuse("texts, not spans: `format` is `master` or `texts`"),
        }
    }

    /// Documents cut into spans.
    fn spans(&self, progress: &Progress) -> anyhow::Result<TextCorpus<SpanDocument>> {
        match self.corpus.format.unwrap_or(TextFormat::Spans) {
            TextFormat::Spans => {
                let parse = |line: &str| SpanDocument::parse(line, &self.vocabulary);
                Ok(self.lines(parse, progress)?)
            }
            _ => refuse("spans, which `trawl data span-pairs` makes of texts"),
        }
    }

    fn tokenised(&self, progress: &Progress) -> Result<TextCorpus<Ids>, DataError> {
        let section = self.corpus;
        let corpus = CorpusConfig {
            paths: section.files.clone(),
            columns: section.columns.clone(),
            skip_bad_lines: section.skip_bad_lines,
            ..CorpusConfig::default()
        };
        let template: Template = section.passage_template.clone().unwrap_or_default();
        let mut on_bytes = |done, total| progress.update("read", "bytes", done, total);
        TextCorpus::tokenise(
            &corpus,
            &template,
            &self.tokenizer,
            self.n_threads,
            &mut on_bytes,
        )
    }

    fn master_lines(&self, progress: &Progress) -> Result<TextCorpus<MasterText>, DataError> {
        self.lines(|line| MasterText::parse(line, &self.vocabulary), progress)
    }

    fn lines<T: Send>(
        &self,
        parse: impl Fn(&str) -> Result<T, String> + Sync,
        progress: &Progress,
    ) -> Result<TextCorpus<T>, DataError> {
        let section = self.corpus;
        let mut on_bytes = |done, total| progress.update("read", "bytes", done, total);
        TextCorpus::lines(
            &section.files,
            section.skip_bad_lines,
            parse,
            self.n_threads,
            &mut on_bytes,
        )
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
