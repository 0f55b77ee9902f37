//! Where results, progress and logs go.

use std::io::{IsTerminal, Write};
use std::path::Path;

use anyhow::Context;
use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, Width, presets};
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
/// Words of a table that are no longer stay whole; a table of many columns is rather too wide.
const MAX_WHOLE_CHARS: u16 = 24;

/// A table with a header; columns named in `numbers` are aligned to the right.
pub fn table(header: &[&str], numbers: &[&str], rows: Vec<Vec<String>>) -> String {
    let width = (!std::io::stdout().is_terminal()).then_some(WIDTH_OF_NO_TERMINAL);
    table_within(width, header, numbers, rows)
}

fn table_within(
    width: Option<u16>,
    header: &[&str],
    numbers: &[&str],
    rows: Vec<Vec<String>>,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    if let Some(width) = width {
        table.set_width(width);
    }
    let longest_word = |position: usize| {
        let cells = rows.iter().filter_map(|row| row.get(position));
        let cells = cells.map(String::as_str).chain([header[position]]);
        let words = cells.flat_map(str::split_whitespace);
        words.map(|word| word.chars().count()).max().unwrap_or(0)
    };
    let longest_words: Vec<usize> = (0..header.len()).map(longest_word).collect();
    table.set_header(header.to_vec());
    table.add_rows(rows);
    for (position, (name, n_chars)) in header.iter().zip(longest_words).enumerate() {
        let Some(column) = table.column_mut(position) else {
            continue;
        };
        let n_chars = u16::try_from(n_chars).map_or(MAX_WHOLE_CHARS, |n| n.min(MAX_WHOLE_CHARS));
        // A space on both sides is counted in.
        column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(n_chars + 2)));
        if numbers.contains(name) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("{table}\n")
}

/// A number of things, of which more than one have an `s`.
pub fn counted(n: u64, one: &str) -> String {
    let end = if n == 1 { "" } else { "s" };
    format!("{n} {one}{end}")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_is_no_plural() {
        let counts = [0, 1, 2].map(|n| counted(n, "chunk"));
        assert_eq!(counts, ["0 chunks", "1 chunk", "2 chunks"]);
    }

    #[test]
    fn figures_of_many_columns_are_not_broken() {
        let names: Vec<String> = (1..=30).map(|k| format!("recall@{k}")).collect();
        let header: Vec<&str> = std::iter::once("data set")
            .chain(names.iter().map(String::as_str))
            .collect();
        let figures: Vec<String> = (1..=30).map(|k| format!("0.{k:04}")).collect();
        let row = [vec!["nfcorpus".to_owned()], figures.clone()].concat();
        let text = table_within(Some(120), &header, &header[1..], vec![row]);
        for word in names.iter().chain(&figures) {
            assert!(text.contains(word), "{word} in {text}");
        }
        assert!(text.contains("nfcorpus"), "{text}");
    }

    #[test]
    fn long_texts_take_the_lines_that_they_need() {
        let long = "word ".repeat(60) + &"x".repeat(300);
        let rows = vec![vec!["1".to_owned(), long]];
        let text = table_within(Some(80), &["rank", "text"], &["rank"], rows);
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
    }
}
