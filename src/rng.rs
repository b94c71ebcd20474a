//! Randomness as named streams.
//!
//! Every draw comes from a stream that is named by what it is for: `stream(seed, "augment", "epoch 3 step 17")`.
//! A stream depends on nothing but its name, so the order in which things happen cannot change a number, adding a layer
//! does not change the others, and a run that continues from a checkpoint needs no generator state: the step number is
//! the state.

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

/// The generator behind every stream: portable, the same on every platform and in every version.
pub type Rng = ChaCha8Rng;

/// Its rounds, for kernels that draw the same words.
#[cfg(any(feature = "cuda", test))]
pub(crate) const ROUNDS: usize = 8;

/// The random stream named (`seed`, `purpose`, `name`); equal names give equal streams, different names unrelated ones.
pub fn stream(seed: u64, purpose: &str, name: &str) -> Rng {
    let mut hash = Sha256::new();
    hash.update(seed.to_le_bytes());
    // Lengths first, so that ("ab", "c") and ("a", "bc") are different streams.
    for part in [purpose, name] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    Rng::from_seed(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::RngCore;

    #[test]
    fn a_stream_is_its_name() {
        let first = |seed, purpose, name| stream(seed, purpose, name).next_u64();
        assert_eq!(first(0, "init", "fc.weight"), first(0, "init", "fc.weight"));
        assert_ne!(first(0, "init", "fc.weight"), first(1, "init", "fc.weight"));
        assert_ne!(first(0, "ab", "c"), first(0, "a", "bc"));
    }
}
