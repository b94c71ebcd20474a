//! Groups of parameters by their names, each with settings of its own: PyTorch's parameter groups.
//!
//! A parameter belongs to the first group whose pattern fits its name. One that fits none follows the recipe's optimiser.

use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    optim::Rules,
    recipe::{MOST_EPOCHS, MOST_LR, Train},
    schedule::{Place, Schedule, warmup},
};

/// Names that are listed, at most.
const LISTED: usize = 6;

/// Parameters by name, and in what they differ from the others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ParameterGroup")]
pub struct Group {
    /// Which parameters, by name: `*` stands for any characters, dots too. `"*.bias"` are all biases.
    #[serde(rename = "match")]
    #[garde(length(min = 1))]
    pub names: String,
    /// Their learning rate before the schedule. Default: the optimiser's `lr`.
    #[garde(range(min = 0.0, max = MOST_LR))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// Their decay. Default: the optimiser's `weight_decay`.
    #[garde(range(min = 0.0, max = 1.0))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
    /// They learn in the first epochs, so many, and then stay as they are; 0: they keep their first values. Default: in all.
    #[garde(range(max = MOST_EPOCHS))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epochs: Option<usize>,
    /// A learning rate over time of their own, which ends with their `epochs`. The recipe's warm-up counts for it, too. Default: the recipe's.
    #[garde(dive)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
    /// An optimiser of their own, with its `lr` and `weight_decay`. Default: the recipe's.
    #[garde(dive)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optimizer: Option<Rules>,
}

impl Group {
    /// Whether a parameter of this name fits the pattern.
    pub fn fits(&self, name: &str) -> bool {
        let parts: Vec<&str> = self.names.split('*').collect();
        let [first, middle @ .., last] = &parts[..] else { return self.names == name };
        let Some(mut rest) = name.strip_prefix(first) else { return false };
        for part in middle {
            let Some(at) = rest.find(part) else { return false };
            rest = &rest[at + part.len()..];
        }
        rest.ends_with(last)
    }

    /// How its parameters follow their gradients, where the others follow `usual`.
    pub fn rule(&self, usual: &Rules) -> Rules {
        self.optimizer.clone().unwrap_or_else(|| usual.altered(self.lr, self.weight_decay))
    }

    /// Its learning rate at this step; `None` where it no longer learns.
    fn rate(&self, train: &Train, place: Place) -> Option<f64> {
        let end = self.epochs.map(|epochs| epochs as u64 * place.steps_per_epoch);
        if end.is_some_and(|end| place.step >= end) {
            return None;
        }
        let full = self.rule(&train.optimizer).lr();
        let scheduled = match &self.schedule {
            None => train.schedule.lr(full, place),
            Some(own) => {
                let total_steps = end.map_or(place.total_steps, |end| end.min(place.total_steps));
                own.lr(full, Place { total_steps, ..place })
            }
        };
        Some(scheduled * warmup(train, place))
    }
}

/// The learning rate of each group of the recipe at a step, from its own as the others' follows from theirs; `None`: it does not learn.
pub fn rates(train: &Train, place: Place) -> Vec<Option<f64>> {
    train.groups.iter().map(|group| group.rate(train, place)).collect()
}

/// The place of the first group that fits a name.
pub fn first(groups: &[Group], name: &str) -> Option<usize> {
    groups.iter().position(|group| group.fits(name))
}

/// What is wrong with the settings of groups: the place, the keys below it, and the words.
pub fn setting_problems(groups: &[Group]) -> Vec<(usize, Vec<&'static str>, String)> {
    let mut found = Vec::new();
    for (at, group) in groups.iter().enumerate() {
        if let Some(own) = &group.optimizer {
            for (key, given) in [("lr", group.lr), ("weight_decay", group.weight_decay)] {
                if given.is_some() {
                    found.push((
                        at,
                        vec![key],
                        format!("goes without `optimizer`: give `{key}` there, in {}", own.name()),
                    ));
                }
            }
            if let Some((key, problem)) = own.problem() {
                found.push((at, vec!["optimizer", own.name(), key], problem.to_owned()));
            }
        }
        if let Some((schedule, (key, problem))) = group.schedule.as_ref().and_then(|own| Some((own, own.problem()?))) {
            found.push((at, vec!["schedule", schedule.name(), key], problem.to_owned()));
        }
    }
    found
}

/// The first parameter, of those of these names and numbers of dimensions, that its optimiser is not for: the place of its group, if it is in
/// one, and the words.
pub fn too_flat<'a>(
    groups: &[Group],
    usual: &Rules,
    parameters: impl IntoIterator<Item = (&'a str, usize)>,
) -> Option<(Option<usize>, String)> {
    let rules: Vec<Rules> = groups.iter().map(|group| group.rule(usual)).collect();
    parameters.into_iter().find_map(|(name, dims)| {
        let group = first(groups, name);
        let rule = group.map_or(usual, |group| &rules[group]);
        (dims < rule.least_dims()).then(|| {
            let message = format!(
                "{} is for filters and matrices, and {name} is neither: give it another optimiser in a group, `{{ match: \"*.bias\", \
                 optimizer: {{ sgd: {{ … }} }} }}`",
                rule.name()
            );
            (group, message)
        })
    })
}

/// The groups that no parameter belongs to, of those of these names: the place, and the words.
pub fn empty(groups: &[Group], names: &[&str]) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, group) in groups.iter().enumerate() {
        if names.iter().any(|name| first(groups, name) == Some(at)) {
            continue;
        }
        found.push((at, match names.iter().find(|name| group.fits(name)) {
            Some(taken) => {
                let before = first(groups, taken).map_or("", |before| groups[before].names.as_str());
                format!(
                    "all that \"{}\" fits, such as {taken}, belongs to \"{before}\" above it: put the narrower pattern first",
                    group.names
                )
            }
            None => {
                let listed = names.iter().take(LISTED).copied().collect::<Vec<_>>().join(", ");
                let more = if names.len() > LISTED { ", …" } else { "" };
                let nearest = crate::did_you_mean(&group.names, names.iter().copied());
                format!(
                    "no parameter that learns fits \"{}\"{nearest}: they are called {listed}{more}, and `*` stands for any characters",
                    group.names
                )
            }
        }));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn train(groups: &serde_json::Value) -> Train {
        let recipe = json!({
            "epochs": 4, "batch_size": 2, "optimizer": { "sgd": { "lr": 0.1, "weight_decay": 0.01 } },
            "schedule": { "multi_step": { "milestones": [2], "gamma": 0.5 } }, "groups": groups,
        });
        serde_json::from_value(recipe).unwrap()
    }

    #[test]
    fn a_star_stands_for_any_characters() {
        let fits = |pattern: &str, name: &str| {
            let group: Group = serde_json::from_value(json!({ "match": pattern })).unwrap();
            group.fits(name)
        };
        for pattern in
            ["*", "*.bias", "group1.norm2.bias", "group*.norm*.bias", "*norm*", "group1*bias", "group1.norm2.bias*"]
        {
            assert!(fits(pattern, "group1.norm2.bias"), "{pattern}");
        }
        for pattern in
            ["", "bias", "*.weight", "norm*", "group1.norm2", "*.bias.*", "*norm2*norm2*", "group1.norm2.bias*bias"]
        {
            assert!(!fits(pattern, "group1.norm2.bias"), "{pattern}");
        }
    }

    #[test]
    fn rates_follow_the_schedule_from_their_own() {
        let train = train(&json!([
            { "match": "a", "lr": 6.4 },
            { "match": "b", "epochs": 1 },
            { "match": "c", "epochs": 2, "schedule": { "cosine": { "final_lr": 0 } } },
            { "match": "d", "optimizer": { "adamw": { "lr": 0.5 } } },
        ]));
        let at = |step| rates(&train, Place { steps_per_epoch: 10, total_steps: 40, step });
        let half = 0.1 * 0.5 * (1.0 + (std::f64::consts::PI * 0.5).cos());
        assert_eq!(at(0), [Some(6.4), Some(0.1), Some(0.1), Some(0.5)]);
        assert_eq!(at(10), [Some(6.4), None, Some(half), Some(0.5)]);
        assert_eq!(at(20), [Some(3.2), None, None, Some(0.25)]);
        let Rules::Sgd(rule) = train.groups[0].rule(&train.optimizer) else { panic!("another rule") };
        assert_eq!((rule.lr, rule.weight_decay), (6.4, 0.01));
    }

    #[test]
    fn a_group_of_nothing_is_told() {
        let names = ["conv.weight", "conv.bias", "fc.weight"];
        let of = |groups| empty(&train(&groups).groups, &names);
        assert!(of(json!([{ "match": "*.bias" }, { "match": "conv.*" }])).is_empty());
        let told = of(json!([{ "match": "conv.*" }, { "match": "*.bias" }, { "match": "head.*" }]));
        let narrower = "all that \"*.bias\" fits, such as conv.bias, belongs to \"conv.*\" above it: put the narrower pattern first";
        let nothing = "no parameter that learns fits \"head.*\": they are called conv.weight, conv.bias, fc.weight, and `*` stands for \
                       any characters";
        assert_eq!(told, [(1, narrower.to_owned()), (2, nothing.to_owned())]);
    }

    #[test]
    fn settings_that_do_not_go_together_are_told() {
        let groups = train(&json!([
            { "match": "a", "lr": 1, "optimizer": { "sgd": { "lr": 1, "nesterov": true } } },
            { "match": "b", "schedule": { "multi_step": { "milestones": [2, 1] } } },
        ]));
        let told = setting_problems(&groups.groups);
        let told: Vec<_> = told.iter().map(|(at, keys, words)| (*at, keys.join("."), words.as_str())).collect();
        assert_eq!(
            told,
            [
                (0, "lr".to_owned(), "goes without `optimizer`: give `lr` there, in sgd"),
                (0, "optimizer.sgd.nesterov".to_owned(), "needs momentum above 0"),
                (1, "schedule.multi_step.milestones".to_owned(), "must rise"),
            ]
        );
    }
}
