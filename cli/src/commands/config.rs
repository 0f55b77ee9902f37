//! `trawl config`: what `serve` would run with.

use std::path::PathBuf;

use collection::Collection;
use rand::RngExt;
use serde_json::{Map, json};
use server::{AttachError, QueueConfig, Scope, check_name, check_queue};
use sha2::{Digest, Sha256};

use crate::output::Output;
use crate::server_file::{ModelRole, ServerFile};
use crate::storage;

/// Arguments of `trawl config`.
#[derive(Debug, clap::Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, clap::Subcommand)]
enum ConfigCommand {
    /// Read the configuration and what it names, and say what is wrong, without serving.
    #[command(after_help = "Examples:
  trawl config check --config server.toml")]
    Check(FileArgs),
    /// Print every setting as it is in force.
    #[command(after_help = "Examples:
  trawl config print
  TRAWL__LIMITS__TOP_K=100 trawl config print --config server.toml --origin")]
    Print(PrintArgs),
    /// Make an API key: the key for its user, and the entry for `server.toml`, which holds its sha256 only.
    #[command(after_help = "Examples:
  trawl config key shop --scopes search --rate 200/s")]
    Key(KeyArgs),
}

#[derive(Debug, clap::Args)]
struct FileArgs {
    /// Configuration file (default: `server.toml` here, else in `/etc/trawl`).
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct PrintArgs {
    #[command(flatten)]
    file: FileArgs,
    /// Say of each setting where it comes from.
    #[arg(long)]
    origin: bool,
}

#[derive(Debug, clap::Args)]
struct KeyArgs {
    /// Name of the key, for the log.
    name: String,
    /// What it may be used for: search, embed, rerank, write, metrics, admin.
    #[arg(long, value_name = "SCOPE,..", value_delimiter = ',', default_value = "search", value_parser = scope)]
    scopes: Vec<Scope>,
    /// Requests that it may make, such as 200/s, 60/m, 1000/h.
    #[arg(long, value_name = "RATE", value_parser = rate)]
    rate: Option<String>,
}

fn scope(text: &str) -> Result<Scope, String> {
    serde_json::from_value(text.into()).map_err(|error| error.to_string())
}

fn rate(text: &str) -> Result<String, String> {
    text.parse::<server::Rate>().map(|_| text.to_owned())
}

pub fn run(args: ConfigArgs, output: &Output) -> anyhow::Result<()> {
    match args.command {
        ConfigCommand::Check(args) => check(&args, output),
        ConfigCommand::Print(args) => print_settings(&args, output),
        ConfigCommand::Key(args) => key(&args, output),
    }
}

fn check(args: &FileArgs, output: &Output) -> anyhow::Result<()> {
    let file = ServerFile::read(args.config.as_deref(), variables())?;
    let auth = file.auth.resolve()?;
    let n_keys = auth.keys.len();
    server::Server::new(server::ServerConfig::default()).set_auth(auth)?;
    file.query_log.resolve()?;
    if let Some(tls) = &file.server.tls {
        tls.load()?;
    }
    for name in file.models.keys().chain(file.collections.keys()) {
        check_name(name)?;
    }
    check_queue(&QueueConfig {
        interactive_share: file.queue.interactive_share,
        ..QueueConfig::default()
    })?;
    for section in file.models.values() {
        crate::model::find(&section.path)?;
    }
    check_models(&file)?;
    for section in file.collections.values() {
        match storage::location(&section.path)? {
            Some(location) => {
                storage::open(&location)?.resolve(&section.alias)?;
            }
            None => {
                let bundle = crate::model::bundle(&section.path)?;
                let path = bundle.map_or_else(|| section.path.clone(), |bundle| bundle.collection);
                Collection::open(&path)?.resolve(&section.alias)?;
            }
        }
    }
    let bind = file.server.bind;
    if !bind.ip().is_loopback() && n_keys == 0 {
        output.remark(format!(
            "without keys, `serve` listens on {bind} with `--insecure` only"
        ));
    }
    let (n_models, n_collections) = (file.models.len(), file.collections.len());
    output.remark(format!(
        "the configuration can be served: {n_models} models, {n_collections} collections, {n_keys} keys"
    ));
    Ok(())
}

/// Refuses a collection that names a model which `serve` would not have.
fn check_models(file: &ServerFile) -> Result<(), AttachError> {
    // Collections that name no encoder have theirs loaded, under a name that their manifest gives it.
    let mut sections = file.collections.values();
    let loads_others = sections.any(|section| section.encoder.is_none());
    for (collection, section) in &file.collections {
        for (kind, role, name) in [
            ("encoder", ModelRole::Encoder, &section.encoder),
            ("reranker", ModelRole::Reranker, &section.reranker),
        ] {
            let Some(name) = name else { continue };
            let is_there = match file.models.get(name) {
                Some(model) => model.role == role,
                None => role == ModelRole::Encoder && loads_others,
            };
            if !is_there {
                return Err(AttachError::NoModel {
                    collection: collection.clone(),
                    kind,
                    name: name.clone(),
                });
            }
        }
    }
    Ok(())
}

fn print_settings(args: &PrintArgs, output: &Output) -> anyhow::Result<()> {
    let settings = ServerFile::settings(args.file.config.as_deref(), variables())?;
    let mut shown = Map::new();
    for (name, setting) in &settings {
        let value = match args.origin {
            true => json!({ "value": setting.value, "origin": setting.origin }),
            false => json!(setting.value),
        };
        shown.insert(name.clone(), value);
    }
    output.result(&shown, |_| {
        let lines = settings.iter();
        let lines = lines.map(|(name, setting)| format!("{name} = {}", setting.value));
        let lines: Vec<String> = lines.collect();
        let width = lines.iter().map(|line| line.chars().count());
        let width = width.filter(|&width| width <= 60).max().unwrap_or(0);
        let mut text = String::new();
        for (line, setting) in lines.iter().zip(settings.values()) {
            match args.origin {
                true => text.push_str(&format!("{line:width$}  # {}\n", setting.origin)),
                false => text.push_str(&format!("{line}\n")),
            }
        }
        text
    })
}

fn key(args: &KeyArgs, output: &Output) -> anyhow::Result<()> {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut random = rand::rng();
    // 43 of 62 digits: 256 bits.
    let digit = |_| char::from(DIGITS[random.random_range(0..DIGITS.len())]);
    let key: String = (0..43).map(digit).collect();
    let sha256: String = Sha256::digest(&key)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let scopes = serde_json::to_string(&args.scopes)?;
    let mut entry = json!({ "name": args.name, "sha256": sha256, "scopes": args.scopes });
    if let Some(rate) = &args.rate {
        entry["rate"] = json!(rate);
    }
    output.result(&json!({ "key": key, "entry": entry }), |_| {
        let rate = args.rate.as_ref();
        let rate = rate.map_or_else(String::new, |rate| format!(", rate = \"{rate}\""));
        let name = toml::Value::from(args.name.as_str());
        format!(
            "key:   {key}\nentry: {{ name = {name}, sha256 = \"{sha256}\", scopes = {scopes}{rate} }}\n"
        )
    })
}

/// The variables of the environment that are text.
pub fn variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}
