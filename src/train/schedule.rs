//! The learning rate over time.

use std::f64::consts::PI;

use crate::config::{Schedule, Train};

/// The learning rate of optimiser step `step`, counted from 0, out of `total_steps`.
///
/// - Constant: `lr`.
/// - Cosine, every step: final + (lr − final)·½(1 + cos(π·step/total)); energy_ood and OpenOOD. The first step has `lr`,
///   the last one still a little more than `final_lr`.
/// - Multi-step: `lr`·γ^(milestones reached by the epoch that the step is in); PyTorch's `MultiStepLR`, DDU.
///
/// Warm-up multiplies this by (step + 1) / (warm-up steps) until that is 1, so that no step has a rate of 0 (Goyal et al.
/// 2017 start from a fraction of the rate, too).
pub fn lr(train: &Train, steps_per_epoch: u64, total_steps: u64, step: u64) -> f64 {
    let full = train.optimizer.lr();
    let scheduled = match &train.schedule {
        Schedule::Constant => full,
        Schedule::Cosine(cosine) => {
            let progress = step.min(total_steps) as f64 / total_steps.max(1) as f64;
            cosine.final_lr + (full - cosine.final_lr) * 0.5 * (1.0 + (progress * PI).cos())
        }
        Schedule::MultiStep(multi_step) => {
            let epoch = step / steps_per_epoch.max(1);
            let reached = multi_step.milestones.iter().filter(|milestone| **milestone as u64 <= epoch).count();
            full * multi_step.gamma.powi(reached as i32)
        }
    };
    let warmup_steps = train.warmup_epochs * steps_per_epoch as f64;
    let warmup = if warmup_steps > 0.0 { ((step + 1) as f64 / warmup_steps).min(1.0) } else { 1.0 };
    scheduled * warmup
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Cosine, MultiStep};

    fn recipe(schedule: Schedule, warmup_epochs: f64) -> Train {
        let json = serde_json::json!({ "epochs": 10, "batch_size": 2, "optimizer": { "sgd": { "lr": 0.1 } } });
        Train { schedule, warmup_epochs, ..serde_json::from_value(json).unwrap() }
    }

    fn close(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-15, "{a} is not {b}");
    }

    #[test]
    fn constant_stays() {
        let train = recipe(Schedule::Constant, 0.0);
        close(lr(&train, 10, 100, 0), 0.1);
        close(lr(&train, 10, 100, 99), 0.1);
    }

    #[test]
    fn cosine_moves_every_step() {
        let train = recipe(Schedule::Cosine(Cosine { final_lr: 1e-6 }), 0.0);
        close(lr(&train, 10, 100, 0), 0.1);
        close(lr(&train, 10, 100, 50), (0.1 + 1e-6) / 2.0);
        close(lr(&train, 10, 100, 100), 1e-6);
        let expected = 1e-6 + (0.1 - 1e-6) * 0.5 * (1.0 + (99.0 / 100.0 * PI).cos());
        close(lr(&train, 10, 100, 99), expected);
        assert!(lr(&train, 10, 100, 1) < 0.1);
    }

    #[test]
    fn milestones_act_at_epoch_starts() {
        let train = recipe(Schedule::MultiStep(MultiStep { milestones: vec![2, 4], gamma: 0.1 }), 0.0);
        close(lr(&train, 10, 100, 19), 0.1);
        close(lr(&train, 10, 100, 20), 0.01);
        close(lr(&train, 10, 100, 40), 0.001);
    }

    #[test]
    fn warm_up_rises_to_one_and_multiplies() {
        let train = recipe(Schedule::Constant, 0.5);
        close(lr(&train, 10, 100, 0), 0.02);
        close(lr(&train, 10, 100, 4), 0.1);
        close(lr(&train, 10, 100, 5), 0.1);
        let train = recipe(Schedule::MultiStep(MultiStep { milestones: vec![1], gamma: 0.1 }), 2.0);
        close(lr(&train, 10, 100, 14), 0.1 * 0.1 * 15.0 / 20.0);
    }
}
