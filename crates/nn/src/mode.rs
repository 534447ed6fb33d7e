//! The purpose of a pass, and the source of its random numbers.

use backrule_tensor::rand::rngs::ChaCha8Rng;
use backrule_tensor::random;

/// Where a layer's randomness comes from: a small number that is handed down, never a global generator.
///
/// A training step takes a key of its own, containers split it for their children, and a layer draws from
/// its own. The same key gives the same dropout mask, in every run and whatever else was drawn before. A
/// layer of your own draws from [`rng`](Key::rng).
///
/// ```
/// use backrule_nn::Key;
///
/// let run = Key::new(42);
/// let step = run.child(1000);
/// assert_eq!(step, Key::new(42).child(1000));
/// assert_ne!(step.child(0), step.child(1));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Key(u64);

impl Key {
    /// The key of a run, from the seed that the user gave.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The key number `index` below this one: for step `index` of a run, or child `index` of a container.
    #[must_use]
    pub const fn child(self, index: u64) -> Self {
        // Mixed in between, so child(a).child(b) and child(b).child(a) differ.
        Self(mix(mix(self.0).wrapping_add(index)))
    }

    /// The number that a mask is drawn from.
    pub(crate) const fn bits(self) -> u64 {
        self.0
    }

    /// A generator that starts from this key.
    pub fn rng(self) -> ChaCha8Rng {
        random::rng(self.0)
    }
}

/// The output function of SplitMix64 (G. Steele, D. Lea, C. Flood, 2014): a bijection that spreads every bit.
const fn mix(state: u64) -> u64 {
    let z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The purpose of a forward pass. It is an argument, not a flag within layers: a network can train and
/// predict at once.
///
/// ```
/// use backrule_nn::{Key, Mode};
///
/// assert_eq!(Mode::train().key(), None);
/// assert_eq!(Mode::train_with(Key::new(7)).key(), Some(Key::new(7)));
/// assert!(Mode::train().is_train() && !Mode::Eval.is_train());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Mode {
    /// Training, with this key for all that is random. A network that draws no random numbers needs none.
    Train(Option<Key>),
    /// Prediction: nothing is random.
    Eval,
}

impl Mode {
    /// Training of a network that draws no random numbers. A layer that does, such as dropout, asks for a key
    /// by an error.
    pub const fn train() -> Self {
        Self::Train(None)
    }

    /// Training, with this key for all that is random: `Mode::train_with(run.child(step))`.
    pub const fn train_with(key: Key) -> Self {
        Self::Train(Some(key))
    }

    /// The key, if there is one.
    pub const fn key(self) -> Option<Key> {
        match self {
            Self::Train(key) => key,
            Self::Eval => None,
        }
    }

    /// Whether this is training.
    pub const fn is_train(self) -> bool {
        matches!(self, Self::Train(_))
    }

    /// The mode for child `index` of a container: the same kind, with a key of its own.
    #[must_use]
    pub const fn child(self, index: usize) -> Self {
        match self {
            Self::Train(Some(key)) => Self::Train(Some(key.child(index as u64))),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn all_keys_of_a_run_differ() {
        let run = Key::new(1);
        let mut keys = BTreeSet::from([run.0]);
        for i in 0..100 {
            assert!(keys.insert(run.child(i).0));
            for j in 0..100 {
                assert!(keys.insert(run.child(i).child(j).0), "{i} {j}");
            }
        }
    }

    #[test]
    fn eval_stays_eval() {
        assert_eq!(Mode::Eval.child(3), Mode::Eval);
        let key = Key::new(1);
        assert_eq!(Mode::train_with(key).child(3), Mode::train_with(key.child(3)));
        assert_eq!(Mode::train().child(3), Mode::train());
    }

    /// Frozen: a change would silently change everybody's dropout masks and break resumed runs.
    #[test]
    fn the_keys_stay() {
        assert_eq!(Key::new(42).child(7).0, 18_315_876_358_090_669_558);
    }
}
