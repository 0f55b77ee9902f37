//! Progress of long work on standard error: a bar on a terminal, a line now and then elsewhere.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};

use crate::output::{Output, say};

const LINE_EVERY: Duration = Duration::from_secs(10);

/// Shows how far one phase after another has come, with rate and time left.
pub struct Progress {
    shown: bool,
    terminal: bool,
    phase: Mutex<Option<Phase>>,
}

struct Phase {
    name: String,
    unit: String,
    bar: ProgressBar,
    last_line: Instant,
    start: Instant,
}

impl Progress {
    pub fn new(output: &Output) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self {
            shown: !output.quiet,
            terminal,
            phase: Mutex::new(None),
        }
    }

    /// Tells that `done` of `total` units of the phase are finished; a total of 0 is unknown.
    pub fn update(&self, phase: &str, unit: &str, done: u64, total: u64) {
        self.update_with(phase, unit, done, total, "");
    }

    /// Does as [`Self::update`], with a word on how it goes.
    pub fn update_with(&self, phase: &str, unit: &str, done: u64, total: u64, note: &str) {
        if !self.shown {
            return;
        }
        let mut current = self
            .phase
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if current.as_ref().is_none_or(|current| current.name != phase) {
            if let Some(previous) = current.take() {
                self.end(&previous);
            }
            let (bar, now) = (self.bar(phase, unit, total), Instant::now());
            // What an earlier run has done says nothing of how fast this one is.
            bar.set_position(done);
            bar.reset_eta();
            *current = Some(Phase {
                name: phase.to_owned(),
                unit: unit.to_owned(),
                bar,
                last_line: now,
                start: now,
            });
        }
        let Some(current) = current.as_mut() else {
            return;
        };
        if total > 0 {
            current.bar.set_length(total);
        }
        current.bar.set_position(done);
        let note = if note.is_empty() {
            String::new()
        } else {
            current.bar.set_message(format!("{phase}: {note}"));
            format!(", {note}")
        };
        if !self.terminal && current.last_line.elapsed() >= LINE_EVERY {
            current.last_line = Instant::now();
            let bar = &current.bar;
            let rate = bar.per_sec();
            let n_digits = if rate < 10.0 { 2 } else { 0 };
            if total > 0 {
                let left = HumanDuration(bar.eta());
                say(format_args!(
                    "{phase}: {done}/{total} {unit}, {rate:.n_digits$}/s, {left} left{note}"
                ));
            } else {
                say(format_args!(
                    "{phase}: {done} {unit}, {rate:.n_digits$}/s{note}"
                ));
            }
        }
    }

    /// A line for the person watching, above the bar.
    pub fn remark(&self, text: &str) {
        if !self.shown {
            return;
        }
        let current = self
            .phase
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        match &*current {
            Some(phase) => phase.bar.suspend(|| say(text)),
            None => say(text),
        }
    }

    /// Ends the last phase.
    pub fn finish(&self) {
        let mut current = self
            .phase
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(phase) = current.take() {
            self.end(&phase);
        }
    }

    fn bar(&self, phase: &str, unit: &str, total: u64) -> ProgressBar {
        let bar = if total > 0 {
            ProgressBar::new(total)
        } else {
            ProgressBar::no_length()
        };
        if !self.terminal {
            bar.set_draw_target(indicatif::ProgressDrawTarget::hidden());
        }
        let template = if total > 0 {
            format!(
                "{{msg:10}} {{bar:30}} {{human_pos}}/{{human_len}} {unit}  {{per_sec}}  {{eta}} left"
            )
        } else {
            format!("{{msg:10}} {{spinner}} {{human_pos}} {unit}  {{per_sec}}")
        };
        if let Ok(style) = ProgressStyle::with_template(&template) {
            bar.set_style(style);
        }
        bar.set_message(phase.to_owned());
        bar
    }

    fn end(&self, phase: &Phase) {
        let done = phase.bar.position();
        phase.bar.finish_and_clear();
        let seconds = phase.start.elapsed().as_secs_f64();
        say(format_args!(
            "{}: {done} {} in {seconds:.1} s",
            phase.name, phase.unit
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_before_is_no_speed() {
        let progress = Progress {
            shown: true,
            terminal: false,
            phase: Mutex::new(None),
        };
        progress.update("encode", "passages", 1_000_000, 2_000_000);
        let phase = progress.phase.lock().expect("nobody panics");
        let bar = &phase.as_ref().expect("a phase").bar;
        assert_eq!(bar.position(), 1_000_000);
        let rate = bar.per_sec();
        assert!(rate.is_nan() || rate < 1.0, "{rate}");
    }
}
