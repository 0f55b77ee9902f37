//! Pre-training: the texts of `[data] corpus`, and the method of `[objective]` on them.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use encoder::TextTokenizer;
use trainer::data::{Ids, TokenCache};
use trainer::masking::{FrequencyDictionary, KeywordWeights, MasterText, Vocabulary};
use trainer::objective::pretraining::{
    Condenser, CotMae, Drawn, Electra, ElectraMlm, Master, MasterDraw, Method, Mlm, Pretrained,
    Pretraining, RetroMae, SimLm,
};
use trainer::run::{Describe, Evaluator, LossEvaluator};
use trainer::spans::SpanDocument;
use trainer::{Batches, Draw, TextBatches, TextBatchesConfig, TextSource, Texts};

use super::file::{CorpusSection, Sections};
use super::objective::{MethodSection, ObjectiveSection, PretrainingSection};
use super::texts::{Reading, Source};
use super::{Session, Work, ends_alone};
use crate::failure::Failure;
use crate::model;
use crate::progress::Progress;

impl Session<'_> {
    /// Pre-trains the model of a folder.
    pub fn pretrain(&self, section: &PretrainingSection, folder: &Path) -> anyhow::Result<()> {
        let corpus = corpus(&self.file.sections)?;
        if section.tells_documents_apart() && self.file.sections.data.batch_size == 1 {
            let text = "`objective.contrastive` tells the documents of a batch from each other: `data.batch_size` is at least 2";
            return Err(Failure::usage(text).into());
        }
        if !self.args.dry_run && self.ranks.is_first() {
            self.check_folder()?;
        }
        let tokenizer = TextTokenizer::load(folder, false)
            .with_context(|| format!("cannot load the tokenizer of `{}`", folder.display()))?;
        let reading = &Reading {
            corpus,
            vocabulary: Vocabulary::of(&tokenizer)?,
            tokenizer,
            n_threads: compute::thread_budget(self.file.sections.engine.threads),
        };
        let engine = &self.engine;
        match &section.method {
            MethodSection::Mlm(config, masks) if Electra::is_in(folder)? => {
                let method = ElectraMlm::load(folder, config, engine)?;
                self.pretrain_by::<_, Ids, _>(section, method, reading, masks.clone())
            }
            MethodSection::Mlm(config, masks) => {
                let method = Mlm::load(folder, config, engine)?;
                self.pretrain_by::<_, Ids, _>(section, method, reading, masks.clone())
            }
            MethodSection::Condenser(config, masks) if config.contrastive => {
                let method = Condenser::load(folder, config, engine)?;
                self.pretrain_by::<_, SpanDocument, _>(section, method, reading, masks.clone())
            }
            MethodSection::Condenser(config, masks) => {
                let method = Condenser::load(folder, config, engine)?;
                self.pretrain_by::<_, Ids, _>(section, method, reading, masks.clone())
            }
            MethodSection::RetroMae(config, masks) | MethodSection::DupMae(config, masks) => {
                let method = RetroMae::load(folder, config, engine)?;
                self.pretrain_by(section, method, reading, masks.clone())
            }
            MethodSection::CotMae(config, masks) => {
                let method = CotMae::load(folder, config, engine)?;
                self.pretrain_by(section, method, reading, masks.clone())
            }
            MethodSection::SimLm(config, masks) => {
                let mut config = config.clone();
                if let Some(path) = &mut config.generator {
                    *path = model::find(path)?;
                }
                let method = SimLm::load(folder, &config, engine)?;
                self.pretrain_by(section, method, reading, masks.clone())
            }
            MethodSection::Master(config, masks, keywords) => {
                let is_tf_idf = keywords.weights == KeywordWeights::TfIdf;
                if is_tf_idf && keywords.dictionary.is_some() {
                    let text = "`objective.dictionary` does not go with `keyword_weights = \"tf_idf\"`, which counts the texts that \
                                have a word";
                    return Err(Failure::usage(text).into());
                }
                let method = Master::load(folder, config, engine)?;
                let dictionary = keywords.dictionary.as_deref();
                let dictionary = dictionary.map(FrequencyDictionary::read);
                let dictionary = dictionary.transpose()?;
                let counts_words = dictionary.is_none();
                let mut draw = MasterDraw {
                    masks: masks.clone(),
                    dictionary: dictionary.unwrap_or_default(),
                };
                let objective = self.objective(section, method, &draw, reading)?;
                let texts = self.texts(reading)?;
                self.remark_missing(&texts)?;
                if counts_words {
                    let texts = texts.iter().map(|line| line.map(|line| line.text));
                    let vocabulary = &reading.vocabulary;
                    draw.dictionary = match keywords.weights {
                        KeywordWeights::InverseCount => {
                            FrequencyDictionary::of_texts(texts, vocabulary)?
                        }
                        KeywordWeights::TfIdf => {
                            FrequencyDictionary::document_frequencies(texts, vocabulary)?
                        }
                    };
                }
                self.pretrain_on(objective, reading, texts, draw)
            }
        }
    }

    /// Makes the objective of a method, and refuses what cannot be before hours are spent on the texts.
    fn objective<M: Method, T>(
        &self,
        section: &PretrainingSection,
        method: M,
        draw: &impl Draw<T>,
        reading: &Reading<'_>,
    ) -> anyhow::Result<Pretraining<M>> {
        check_draw(&method, draw, &reading.vocabulary)?;
        let folder = method.model().folder().display();
        match method.model().drawn() {
            Drawn::All => self
                .output
                .remark(format!("`{folder}` has no weights: they are drawn")),
            Drawn::Head => self.output.remark(format!(
                "`{folder}` has no head of masked language modelling: it is drawn"
            )),
            Drawn::Nothing => {}
        }
        let objective = Pretraining::new(method, section.dropout, section.keep_decoders)?;
        if let Some(path) = objective.read_from() {
            let text = format!("the decoders go on from `{}`", path.display());
            self.output.remark(text);
        }
        Ok(objective)
    }

    /// Says how many of MASTER's lines have no queries and no continuation.
    fn remark_missing(&self, texts: &TokenCache<MasterText>) -> anyhow::Result<()> {
        let (mut n_queries, mut n_next) = (0, 0);
        for line in texts.iter() {
            let line = line?;
            n_queries += usize::from(!line.has_queries());
            n_next += usize::from(line.continuation().is_none());
        }
        if n_queries + n_next > 0 {
            self.output.remark(format!(
                "{n_queries} of all {n} texts have no queries, and that stream no label; {n_next} have no continuation, \
                 and the text stands for it",
                n = texts.len()
            ));
        }
        Ok(())
    }

    /// Reads the texts and trains on them.
    fn pretrain_by<M, T, D>(
        &self,
        section: &PretrainingSection,
        method: M,
        reading: &Reading<'_>,
        draw: D,
    ) -> anyhow::Result<()>
    where
        M: Method<Example = D::Example>,
        T: Source,
        D: Draw<T>,
        Vec<D::Example>: Describe,
    {
        let objective = self.objective(section, method, &draw, reading)?;
        let texts = self.texts::<T>(reading)?;
        self.pretrain_on(objective, reading, texts, draw)
    }

    /// Says where a document stands alone in a batch of coCondenser, and refuses data of one.
    fn remark_alone(&self, n_trained: usize, n_held_out: usize) -> anyhow::Result<()> {
        let data = &self.file.sections.data;
        match &self.file.objective {
            ObjectiveSection::Pretraining(section) if section.tells_documents_apart() => {}
            _ => return Ok(()),
        }
        if n_trained == 1 {
            let text = "`objective.contrastive` tells documents from each other, and there is one to train on";
            return Err(Failure::usage(text).into());
        }
        if ends_alone(n_trained, data.batch_size) && !data.drop_last {
            let text = "the last batch of an epoch has one document: its contrastive loss is 0; `data.drop_last` leaves it out";
            self.output.remark(text);
        }
        if ends_alone(n_held_out, data.batch_size) {
            let text = "one of the held-out documents stands alone in its batch: its contrastive loss is 0";
            self.output.remark(text);
        }
        Ok(())
    }

    fn pretrain_on<M, T, D>(
        &self,
        objective: Pretraining<M>,
        reading: &Reading<'_>,
        texts: TokenCache<T>,
        draw: D,
    ) -> anyhow::Result<()>
    where
        M: Method<Example = D::Example>,
        T: Source,
        D: Draw<T>,
        Vec<D::Example>: Describe,
    {
        let sections = &self.file.sections;
        let n_held_out = sections.dev.as_ref().and_then(|dev| dev.texts).unwrap_or(0);
        let config = TextBatchesConfig {
            batch_size: sections.data.batch_size,
            seed: sections.run.seed,
            drop_last: sections.data.drop_last,
            shard: sections.data.shard,
        };
        let source = TextSource::new(texts, reading.vocabulary.clone(), draw)?;
        let source = Arc::new(source);
        let (trained, held_out) = source.split(n_held_out, config.seed)?;
        let n_texts = trained.len();
        let n_own = match config.shard {
            Some(shard) => n_texts
                .saturating_sub(shard.index)
                .div_ceil(shard.count.max(1)),
            None => n_texts,
        };
        self.remark_alone(n_own, held_out.len())?;
        let batches = TextBatches::new(Arc::clone(&source), trained, config)?;
        let held_out_config = TextBatchesConfig {
            drop_last: false,
            shard: None,
            ..config
        };
        let held_out = TextBatches::new(source, held_out, held_out_config)?;
        self.train(
            objective,
            Work {
                batches,
                remark: |n_tokens| {
                    let part = config
                        .shard
                        .map(|shard| format!(" in {} parts, of which this reads one", shard.count));
                    format!(
                        "{n_texts} texts{}; {} a batch, about {n_tokens} tokens",
                        part.unwrap_or_default(),
                        config.batch_size
                    )
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

/// Refuses draws that are none, or that the model cannot read.
fn check_draw<T>(
    method: &impl Method,
    draw: &impl Draw<T>,
    vocabulary: &Vocabulary,
) -> anyhow::Result<()> {
    draw.check()?;
    let architecture = method.model().architecture();
    let refuse = |text: String| Err(Failure::usage(text).into());
    let (n_ids, n_vocabulary) = (vocabulary.len(), architecture.n_vocabulary);
    if n_ids > n_vocabulary {
        return refuse(format!(
            "the tokenizer has {n_ids} tokens, and the model {n_vocabulary}"
        ));
    }
    let n_drawn = draw.max_tokens();
    let readers = [
        ("the model", architecture.max_tokens()),
        ("its generator", method.max_tokens()),
    ];
    match readers.into_iter().find(|&(_, most)| n_drawn > most) {
        Some((reader, most)) => refuse(format!(
            "`objective.masks.max_tokens` is {n_drawn}, and {reader} reads {most}"
        )),
        None => Ok(()),
    }
}

/// The texts of a configuration.
fn corpus(sections: &Sections) -> anyhow::Result<&CorpusSection> {
    let text = "there is no `data.corpus`, which pre-training reads";
    let corpus = sections
        .data
        .corpus
        .as_ref()
        .ok_or_else(|| Failure::usage(text))?;
    if corpus.files.is_empty() {
        return Err(Failure::usage("`data.corpus.files` names no file").into());
    }
    Ok(corpus)
}
