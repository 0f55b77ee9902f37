//! Where results, progress and logs go.

use std::io::{IsTerminal, Write};
use std::path::Path;

use anyhow::Context;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::Serialize;

/// Options of every command.
#[derive(Debug, clap::Args)]
pub struct OutputArgs {
    /// Print results as JSON on standard output.
    #[arg(long, global = true)]
    json: bool,
    /// No progress and no remarks on standard error; errors only.
    #[arg(long, short, global = true)]
    quiet: bool,
    /// Log more: -v information, -vv details.
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

/// What the user wants to see.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// Results as JSON.
    pub json: bool,
    /// No progress.
    pub quiet: bool,
    verbose: u8,
}

impl OutputArgs {
    pub fn resolve(self) -> Output {
        Output {
            json: self.json,
            quiet: self.quiet,
            verbose: self.verbose,
        }
    }
}

impl Output {
    /// Sends log events of the chosen level to standard error.
    pub fn start_log(&self) {
        let level = match self.verbose {
            0 => tracing::Level::WARN,
            1 => tracing::Level::INFO,
            _ => tracing::Level::DEBUG,
        };
        tracing_subscriber::fmt()
            .with_max_level(level)
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            // It would say so on standard error, which is what failed.
            .log_internal_errors(false)
            .init();
    }

    /// For one of several processes of which another one speaks: errors only.
    pub fn silent(self) -> Self {
        Self {
            quiet: true,
            ..self
        }
    }

    /// A line for the person watching, on standard error; not printed with `--quiet`.
    pub fn remark(&self, text: impl std::fmt::Display) {
        if !self.quiet {
            say(text);
        }
    }

    /// Prints `value` as one JSON document with `--json`, else what `text` makes of it.
    pub fn result<T: Serialize>(
        &self,
        value: &T,
        text: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<()> {
        let mut shown = if self.json {
            serde_json::to_string_pretty(value)?
        } else {
            text(value)
        };
        if !shown.ends_with('\n') {
            shown.push('\n');
        }
        print(&shown)
    }
}

/// Writes a line to standard error. That nobody reads it any more (`2>&1 | head`) does not end the work.
pub fn say(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Writes to standard output. A reader that has gone away (`| head`) ends the program quietly.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        outcome => Ok(outcome?),
    }
}

/// Says whether a file can be made in the folder of `path`, before hours are spent on what goes into it.
pub fn check_folder(path: &Path) -> anyhow::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    tempfile::tempfile_in(folder)
        .with_context(|| format!("cannot write into `{}`", folder.display()))?;
    Ok(())
}

/// Characters of a line that is printed into a file or a pipe.
const WIDTH_OF_NO_TERMINAL: u16 = 120;

/// A table with a header; columns named in `numbers` are aligned to the right.
pub fn table(header: &[&str], numbers: &[&str], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    if !std::io::stdout().is_terminal() {
        table.set_width(WIDTH_OF_NO_TERMINAL);
    }
    table.set_header(header.to_vec());
    table.add_rows(rows);
    for (position, name) in header.iter().enumerate() {
        if numbers.contains(name)
            && let Some(column) = table.column_mut(position)
        {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("{table}\n")
}

/// The first characters of a text on one line, cut at a word.
pub fn beginning(text: &str, max_chars: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(max_chars) {
        None => line,
        Some((end, _)) => {
            let cut = line[..end].rfind(' ').unwrap_or(end);
            format!("{}…", &line[..cut])
        }
    }
}
