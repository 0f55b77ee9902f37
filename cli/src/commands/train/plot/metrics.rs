//! What a run logged: `metrics.jsonl`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::Context;
use serde_json::Value;

use super::Axis;
use crate::failure::{Exit, Failure};

/// Whose figures a line has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Means of training batches.
    Train,
    /// Figures of the dev set.
    Dev,
    /// What was read of an epoch, which no curve shows.
    Epoch,
}

/// Keys of a line that say where it stands.
const PLACES: [&str; 5] = ["kind", "step", "epoch", "n_tokens", "n_operations"];

/// The log of a run, in the order of its steps.
pub struct Metrics {
    lines: Vec<Line>,
    /// The lines of training, and the beginning.
    clock: Vec<Moment>,
}

/// Where a run stood.
#[derive(Clone, Copy, Default)]
struct Moment {
    step: f64,
    n_tokens: f64,
    n_operations: f64,
    hours: f64,
}

struct Line {
    kind: Kind,
    step: f64,
    values: Value,
}

impl Metrics {
    /// Reads the log of a run's folder. A last line that breaks off is one that is being written.
    pub fn read(run: &Path) -> anyhow::Result<Self> {
        let path = run.join("metrics.jsonl");
        let text = fs::read_to_string(&path).with_context(|| {
            format!(
                "cannot read `{}`, the metrics of a run of `trawl train`",
                path.display()
            )
        })?;
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let mut lines = Vec::new();
        for (number, line) in whole.lines().enumerate() {
            lines.push(Line::parse(line).ok_or_else(|| {
                let place = format!("{}:{}", path.display(), number + 1);
                Failure::new(Exit::BadInput, format!("{place}: no line of metrics"))
            })?);
        }
        lines.retain(|line| line.kind != Kind::Epoch);
        if lines.is_empty() {
            let text = format!("`{}` has no line", path.display());
            return Err(Failure::new(Exit::Failed, text).into());
        }
        let clock = clock(&lines);
        Ok(Self { lines, clock })
    }

    /// The figures of a name, by step.
    pub fn values(&self, kind: Kind, name: &str) -> Vec<(f64, f64)> {
        let value = |line: &Line| Some((line.step, line.values.get(name)?.as_f64()?));
        self.of(kind).filter_map(value).collect()
    }

    /// The names of all figures.
    pub fn names(&self) -> BTreeSet<String> {
        let lines = self.lines.iter();
        let keys = lines
            .filter_map(|line| line.values.as_object())
            .flat_map(|line| line.keys());
        keys.filter(|key| !PLACES.contains(&key.as_str()))
            .cloned()
            .collect()
    }

    /// Figures by step in the measure of an axis; between two lines of training all is taken to grow evenly.
    pub fn along(&self, axis: Axis, values: &[(f64, f64)]) -> Vec<(f64, f64)> {
        let place = |step: f64| {
            let next = self.clock.partition_point(|known| known.step < step);
            let last = self.clock.len() - 1;
            let (from, to) = (
                self.clock[next.saturating_sub(1)],
                self.clock[next.min(last)],
            );
            let passed = match to.step - from.step {
                steps if steps > 0.0 => (step - from.step) / steps,
                _ => 0.0,
            };
            let between = |of: fn(&Moment) -> f64| of(&from) + passed * (of(&to) - of(&from));
            match axis {
                Axis::Steps => step,
                Axis::Tokens => between(|moment| moment.n_tokens),
                Axis::Operations => between(|moment| moment.n_operations),
                Axis::Hours => between(|moment| moment.hours),
            }
        };
        values
            .iter()
            .map(|&(step, value)| (place(step), value))
            .collect()
    }

    fn of(&self, kind: Kind) -> impl Iterator<Item = &Line> {
        self.lines.iter().filter(move |line| line.kind == kind)
    }
}

impl Line {
    fn parse(line: &str) -> Option<Self> {
        let values: Value = serde_json::from_str(line).ok()?;
        let kind = match values.get("kind")?.as_str()? {
            "train" => Kind::Train,
            "dev" => Kind::Dev,
            "epoch" => Kind::Epoch,
            _ => return None,
        };
        let step = values.get("step")?.as_f64()?;
        Some(Self { kind, step, values })
    }
}

/// Hours are tokens by tokens a second, which leaves out what a run does between steps.
fn clock(lines: &[Line]) -> Vec<Moment> {
    let mut clock = vec![Moment::default()];
    let mut now = Moment::default();
    for line in lines.iter().filter(|line| line.kind == Kind::Train) {
        let number = |name: &str| line.values.get(name).and_then(Value::as_f64);
        let n_tokens = number("n_tokens").unwrap_or(now.n_tokens);
        if let Some(rate) = number("tokens_per_s").filter(|&rate| rate > 0.0) {
            now.hours += (n_tokens - now.n_tokens) / rate / 3600.0;
        }
        now = Moment {
            step: line.step,
            n_tokens,
            n_operations: number("n_operations").unwrap_or(now.n_operations),
            ..now
        };
        clock.push(now);
    }
    clock
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dev_figures_stand_between_lines_of_training() {
        let train = |step, n_tokens: u64, rate: u64| {
            format!(
                r#"{{"kind":"train","step":{step},"n_tokens":{n_tokens},"tokens_per_s":{rate},"n_operations":{}}}"#,
                2 * n_tokens
            )
        };
        let lines = [train(10, 3600, 1), train(30, 10800, 2)];
        let lines: Vec<Line> = lines.iter().filter_map(|line| Line::parse(line)).collect();
        let clock = clock(&lines);
        let metrics = Metrics { lines, clock };
        let along = |axis, steps: [f64; 4]| -> Vec<f64> {
            let values = steps.map(|step| (step, 0.0));
            metrics
                .along(axis, &values)
                .into_iter()
                .map(|(place, _)| place)
                .collect()
        };
        let steps = [0.0, 5.0, 20.0, 40.0];
        assert_eq!(along(Axis::Steps, steps), steps);
        // Behind the last line nothing is known.
        assert_eq!(along(Axis::Tokens, steps), [0.0, 1800.0, 7200.0, 10800.0]);
        assert_eq!(
            along(Axis::Operations, steps),
            [0.0, 3600.0, 14400.0, 21600.0]
        );
        assert_eq!(along(Axis::Hours, steps), [0.0, 0.5, 1.5, 2.0]);
    }
}
