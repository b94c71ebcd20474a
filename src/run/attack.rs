//! Test sets of which a file says that a network is to be surer of their images.

use std::sync::Arc;

use serde_json::json;

use super::{
    execute::Runner,
    plan::short_hash,
    sets::LoadedSet,
    subject::{Networks, Subject},
};
use crate::{
    Result, config,
    data::{Attack, ImageSet},
    detectors::pgd,
};

/// Changes when attacks change their meaning.
const VERSION: u32 = 2;

impl Runner<'_> {
    /// The test sets of a task, attacked where the file says so, on the task's `networks` of a seed.
    ///
    /// # Errors
    /// Those of reading the images and of the networks; [`Error::Interrupted`](crate::Error::Interrupted) when the user asks to stop.
    pub(super) fn attacked_sets(
        &mut self,
        experiment: &config::Experiment,
        networks: &Networks,
        seed: u64,
    ) -> Result<Vec<Arc<LoadedSet>>> {
        let mut sets = self.test_sets(&experiment.data)?;
        for (at, dataset) in experiment.data.ood_sets().iter().enumerate() {
            let Some(attack) = &dataset.attack else { continue };
            let subject = self.subject(experiment, &attack.network, &[], (networks, seed))?;
            let set = &mut sets[at + 1];
            *set = self.attacked(attack, &subject, set)?;
        }
        Ok(sets)
    }

    /// A set after the attack, once. Its digest stays that of the images before: those after differ from seed to seed.
    fn attacked(&mut self, attack: &Attack, subject: &Subject<'_>, set: &LoadedSet) -> Result<Arc<LoadedSet>> {
        let member = &subject.members[0];
        let hash = short_hash(&json!([VERSION, attack.epsilon, attack.steps, member.trained.sha256]));
        let key = format!("{} attacked {hash}", set.file_stem());
        if let Some(set) = self.sets.get(&key) {
            return Ok(set.clone());
        }
        let pixels = pgd::moved(attack, &self.forward_pass(member, set, subject))?;
        let images = Arc::new(ImageSet { pixels: pixels.into(), ..(*set.images).clone() });
        let (sha256, masks_sha256) = (set.sha256.clone(), set.masks_sha256.clone());
        let attacked = Arc::new(LoadedSet { images, sha256, masks_sha256, made_of: None, attacked: Some(hash) });
        self.sets.insert(key, attacked.clone());
        Ok(attacked)
    }
}
