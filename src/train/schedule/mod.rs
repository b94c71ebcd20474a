//! The learning rate over time.

pub mod constant;
pub mod cosine;
pub mod exponential;
pub mod multi_step;
pub mod triangle;

use crate::{train::recipe::Train, yaml::keys::keys};

keys! {
    /// The learning rate as a factor of the optimiser's `lr`.
    #[schemars(rename = "Schedule")]
    pub enum Schedule: Curve {
        default {
            /// The same throughout.
            Constant = "constant" in constant::Constant
        }
        /// Half a cosine from `lr` to `final_lr`, moving every step (energy_ood, OpenOOD).
        Cosine = "cosine" in cosine::Settings,
        /// Multiplied by `gamma` after each epoch (FCDD).
        Exponential = "exponential" in exponential::Settings,
        /// Multiplied by `gamma` at each milestone (DDU).
        MultiStep = "multi_step" in multi_step::Settings,
        /// Linearly up to `lr` and down again, moving every step (airbench).
        Triangle = "triangle" in triangle::Settings,
    }
}

/// How a schedule moves the learning rate.
pub trait Curve {
    /// The learning rate at a step, where `full` is the optimiser's.
    fn lr(&self, full: f64, place: Place) -> f64;

    /// What is wrong with its settings together, and with which of them.
    fn problem(&self) -> Option<(&'static str, &'static str)> {
        None
    }
}

/// Where training is.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// Steps of an epoch.
    pub steps_per_epoch: u64,
    /// Steps in all.
    pub total_steps: u64,
    /// This step, from 0.
    pub step: u64,
}

/// The learning rate of optimiser step `step`, counted from 0, out of `total_steps`.
pub fn lr(train: &Train, steps_per_epoch: u64, total_steps: u64, step: u64) -> f64 {
    let full = train.optimizer.lr();
    let place = Place { steps_per_epoch, total_steps, step };
    train.schedule.lr(full, place) * warmup(train, place)
}

/// What warm-up multiplies every learning rate by: (step + 1) / (warm-up steps) until that is 1, so that no step has a rate of 0 (Goyal
/// et al. 2017 start from a fraction of the rate, too).
pub(super) fn warmup(train: &Train, place: Place) -> f64 {
    let warmup_steps = train.warmup_epochs * place.steps_per_epoch as f64;
    if warmup_steps > 0.0 { ((place.step + 1) as f64 / warmup_steps).min(1.0) } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::f64::consts::PI;

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
        let train = recipe(Schedule::Cosine(cosine::Settings { final_lr: 1e-6 }), 0.0);
        close(lr(&train, 10, 100, 0), 0.1);
        close(lr(&train, 10, 100, 50), (0.1 + 1e-6) / 2.0);
        close(lr(&train, 10, 100, 100), 1e-6);
        let expected = 1e-6 + (0.1 - 1e-6) * 0.5 * (1.0 + (99.0 / 100.0 * PI).cos());
        close(lr(&train, 10, 100, 99), expected);
        assert!(lr(&train, 10, 100, 1) < 0.1);
    }

    #[test]
    fn milestones_act_at_epoch_starts() {
        let train = recipe(Schedule::MultiStep(multi_step::Settings { milestones: vec![2, 4], gamma: 0.1 }), 0.0);
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
        let train = recipe(Schedule::MultiStep(multi_step::Settings { milestones: vec![1], gamma: 0.1 }), 2.0);
        close(lr(&train, 10, 100, 14), 0.1 * 0.1 * 15.0 / 20.0);
    }
}
