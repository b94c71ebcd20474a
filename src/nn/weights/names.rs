//! The names that others give to the parameters of our networks.
//!
//! Ours are PyTorch's where the network is PyTorch's: torchvision's and timm's ResNets, timm's EfficientNet-Lite0, ConvNeXt, RegNetY, Swin and
//! vision transformers, OpenOOD's ResNet-18 and pytorch-ood's wide ResNets (which are energy_ood's) load as they are. What differs is here.

use std::collections::BTreeMap;

use candle_core::Tensor;

/// What wrappers put before every name: `DataParallel`, `torch.compile`, and modules that hold the network under a name.
const PREFIXES: [&str; 5] = ["module.", "_orig_mod.", "model.", "net.", "backbone."];

/// Tensors under the names of our network.
#[derive(Debug, Clone)]
pub struct Named {
    /// By name.
    pub tensors: BTreeMap<String, Tensor>,
    /// What was changed in the names, in words; empty if nothing was.
    pub notes: Vec<String>,
}

/// The tensors with prefixes taken off and other programs' names changed to what `our_name` makes of them. `wanted` says whether the
/// network has a parameter of a name; names that stay unknown are left as they are.
pub fn ours(
    mut tensors: BTreeMap<String, Tensor>,
    our_name: &dyn Fn(&str) -> Option<String>,
    wanted: impl Fn(&str) -> bool,
) -> Named {
    let mut notes = Vec::new();
    let known = |name: &str| wanted(name) || our_name(name).is_some_and(|name| wanted(&name));
    // One wrapper may hold another; each round takes letters off, so there is an end.
    while let Some(prefix) = PREFIXES.into_iter().find(|prefix| is_prefix(prefix, &tensors, &known)) {
        tensors = renamed(tensors, |name| name.strip_prefix(prefix).map(str::to_owned));
        notes.push(format!("\"{prefix}\" is taken off the names"));
    }
    let change = |name: &str| if wanted(name) { None } else { our_name(name).filter(|name| wanted(name)) };
    let example = tensors.keys().find_map(|name| Some((name.clone(), change(name)?)));
    if let Some((theirs, ours)) = example {
        let changed = renamed(tensors.clone(), change);
        // Two names that become one are left for the message that lists what does not fit.
        if changed.len() == tensors.len() {
            tensors = changed;
            notes.push(format!("names are changed to ours, such as {theirs} to {ours}"));
        }
    }
    Named { tensors, notes }
}

fn renamed(tensors: BTreeMap<String, Tensor>, change: impl Fn(&str) -> Option<String>) -> BTreeMap<String, Tensor> {
    tensors.into_iter().map(|(name, tensor)| (change(&name).unwrap_or(name), tensor)).collect()
}

/// Whether without `prefix` more names are known, or all names have it; and no two names become one.
fn is_prefix(prefix: &str, tensors: &BTreeMap<String, Tensor>, known: &impl Fn(&str) -> bool) -> bool {
    let with: Vec<_> = tensors.keys().filter_map(|name| Some((name, name.strip_prefix(prefix)?))).collect();
    let none_lost = with.iter().all(|(name, without)| !known(name) && !tensors.contains_key(*without));
    !with.is_empty() && none_lost && (with.len() == tensors.len() || with.iter().any(|(_, without)| known(without)))
}
