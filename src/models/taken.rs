//! What a model takes from another: the parameters whose names both have.

use crate::{
    models::{ModelConfig, teacher::TEACHER},
    nn::{Shape, weights::fit},
};

/// Names that are listed, at most.
const LISTED: usize = 3;

/// Why nothing can be taken, for images and classes of `shape`; `None` where something can, or a model cannot be built at all, which is told
/// elsewhere.
pub fn problem(from: &ModelConfig, to: &ModelConfig, shape: Shape) -> Option<String> {
    let sizes = |model: &ModelConfig| fit::sizes(&|shape, vb| model.build(shape, vb).map(|_| ()), shape).ok();
    let (given, wanted) = (sizes(from)?, sizes(to)?);
    let [theirs, ours] = [from.name(), to.name()];
    let common: Vec<_> = wanted.iter().filter_map(|(name, sizes)| Some((name, sizes, given.get(name)?))).collect();
    if common.is_empty() {
        let some = |names: Vec<&String>| {
            let listed = names.iter().take(LISTED).map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
            if names.len() > LISTED { format!("{listed}, …") } else { listed }
        };
        let (given, wanted) = (some(given.keys().collect()), some(wanted.keys().collect()));
        return Some(format!("{theirs} and {ours} have no parameter in common: {given} and {wanted}"));
    }
    // What a network does not learn is the teacher's own, or random.
    let of_teacher = |name: &&String| name.starts_with(&format!("{TEACHER}."));
    if theirs != ours
        && let Some(name) = wanted.keys().filter(of_teacher).find(|name| !given.contains_key(*name))
    {
        return Some(format!(
            "{theirs} has no {name}, which would stay as random as it starts: give both the same `patches` and `further`"
        ));
    }
    let other: Vec<_> = common.into_iter().filter(|(_, wanted, given)| wanted != given).collect();
    let (name, wanted, given) = other.first()?;
    let (count, more) =
        (other.len(), if other.len() > 1 { format!(" (and {} more)", other.len() - 1) } else { String::new() });
    let are = if count > 1 { "parameters are" } else { "parameter is" };
    Some(format!(
        "{count} common {are} of another shape: {name}{more} is {given:?} in {theirs} and {wanted:?} in {ours}: give both the same settings"
    ))
}
