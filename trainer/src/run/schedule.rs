use super::config::{ScheduleConfig, ScheduleKind, Warmup};

/// Learning rates of all steps, those of the Hugging Face schedules of the same names; with a logarithmic warm-up DeepSpeed's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    kind: ScheduleKind,
    warmup: Warmup,
    peak: f64,
    n_warmup: u64,
    n_steps: u64,
}

impl Schedule {
    /// The schedule of a run of `n_steps`; a warm-up is never longer than the run.
    pub fn new(config: &ScheduleConfig, peak: f64, n_steps: u64) -> Self {
        let share = (n_steps as f64 * config.warmup_ratio).ceil() as u64;
        Self {
            kind: config.kind,
            warmup: config.warmup,
            peak,
            n_warmup: config.warmup_steps.unwrap_or(share).min(n_steps),
            n_steps,
        }
    }

    /// The learning rate of a step, counted from 0: the first step of a warm-up has 0, the first after it has the peak.
    pub fn learning_rate(&self, step: u64) -> f64 {
        if step < self.n_warmup {
            let (step, n_warmup) = (step as f64, self.n_warmup as f64);
            let share = match self.warmup {
                Warmup::Linear => step / n_warmup,
                Warmup::Logarithmic => (step + 1.0).ln() / n_warmup.max(2.0).ln(),
            };
            return self.peak * share;
        }
        let n_after = (self.n_steps - self.n_warmup).max(1);
        let done = ((step - self.n_warmup) as f64 / n_after as f64).min(1.0);
        let share = match self.kind {
            ScheduleKind::Linear => 1.0 - done,
            ScheduleKind::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * done).cos()),
            ScheduleKind::Constant => 1.0,
        };
        self.peak * share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rates of a run of 10 steps with 4 of warm-up and a peak of 1.
    fn check(kind: ScheduleKind, expected: [f64; 10]) {
        let config = ScheduleConfig {
            kind,
            warmup_ratio: 0.35, // 3.5 steps, rounded up
            ..ScheduleConfig::default()
        };
        let schedule = Schedule::new(&config, 1.0, 10);
        for (step, expected) in expected.into_iter().enumerate() {
            let found = schedule.learning_rate(step as u64);
            assert!(
                (found - expected).abs() < 1e-12,
                "{kind:?} {step}: {found} {expected}"
            );
        }
    }

    /// Of transformers' `get_linear_schedule_with_warmup` and its siblings.
    #[test]
    fn rates_are_those_of_transformers() {
        let sixth = 1.0 / 6.0;
        check(
            ScheduleKind::Linear,
            [
                0.0,
                0.25,
                0.5,
                0.75,
                1.0,
                5.0 * sixth,
                4.0 * sixth,
                0.5,
                2.0 * sixth,
                sixth,
            ],
        );
        let root = 3f64.sqrt() / 4.0; // cos 30° = √3 / 2
        check(
            ScheduleKind::Cosine,
            [
                0.0,
                0.25,
                0.5,
                0.75,
                1.0,
                0.5 + root,
                0.75,
                0.5,
                0.25,
                0.5 - root,
            ],
        );
        check(
            ScheduleKind::Constant,
            [0.0, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
        );
    }

    /// Of DeepSpeed's `WarmupDecayLR` as SimLM's script has it: 4,000 of 80,000 steps, to 3e-4.
    #[test]
    fn a_logarithmic_warmup_is_that_of_deepspeed() {
        let config = ScheduleConfig {
            warmup: Warmup::Logarithmic,
            warmup_steps: Some(4000),
            ..ScheduleConfig::default()
        };
        let schedule = Schedule::new(&config, 3e-4, 80_000);
        for (step, expected) in [
            (0, 0.0),
            (999, 0.832_857),
            (3999, 1.0),
            (4000, 1.0),
            (42_000, 0.5),
            (80_000, 0.0),
        ] {
            let found = schedule.learning_rate(step) / 3e-4;
            assert!(
                (found - expected).abs() < 1e-6,
                "{step}: {found}, not {expected}"
            );
        }
        let short = ScheduleConfig {
            warmup_steps: Some(1),
            ..config
        };
        assert_eq!(Schedule::new(&short, 1.0, 10).learning_rate(0), 0.0);
    }

    #[test]
    fn steps_of_warmup_stand_above_the_ratio_and_below_the_run() {
        let config = ScheduleConfig {
            warmup_steps: Some(1000),
            ..ScheduleConfig::default()
        };
        let schedule = Schedule::new(&config, 1.0, 10);
        assert_eq!(schedule.learning_rate(9), 0.9);
        assert_eq!(schedule.learning_rate(10), 1.0);
        let none = Schedule::new(
            &ScheduleConfig {
                warmup_steps: Some(0),
                ..config
            },
            1.0,
            10,
        );
        assert_eq!(none.learning_rate(0), 1.0);
    }
}
