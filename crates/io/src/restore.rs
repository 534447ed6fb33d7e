use std::collections::BTreeMap;

use backrule_tensor::{NamedTensors, Path, Scalar, TrainingState};

use crate::{Checkpoint, Group, Mismatch, Misshapen, RestoreError, TensorInfo};

impl Checkpoint {
    /// Puts the network's values back, bit for bit. An optimiser that was saved too is left alone.
    ///
    /// Each tensor is found by its path, wherever it stands. Either all of them are restored or none: the same paths,
    /// shapes and element types have to be on both sides.
    ///
    /// ```
    /// # use backrule_io::Checkpoint;
    /// # use backrule_io::tensor::Tensor;
    /// let net = vec![("weight", Tensor::from([[1.0_f32, 2.0]])), ("bias", Tensor::from([3.0]))];
    /// let checkpoint = Checkpoint::from_bytes(&Checkpoint::of(&net).to_bytes()?)?;
    ///
    /// let mut other = vec![("weight", Tensor::from([[0.0_f32], [0.0]])), ("scale", Tensor::from([0.0]))];
    /// assert_eq!(
    ///     checkpoint.restore(&mut other).unwrap_err().to_string(),
    ///     "nothing restored, because the checkpoint doesn't fit:
    ///   missing in the checkpoint: network `scale` f32 [1]
    ///   only in the checkpoint: network `bias` f32 [1]
    ///   network `weight` f32 [1, 2] in the checkpoint, expected f32 [2, 1]"
    /// );
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`RestoreError::Mismatch`] with every tensor that doesn't fit; nothing has been changed then.
    pub fn restore<T: Scalar>(
        &self,
        network: &mut (impl NamedTensors<T> + ?Sized),
    ) -> Result<(), RestoreError> {
        let stored = Stored::new(self, Group::Network);
        let mut mismatch = Mismatch::default();
        stored.compare(network, &mut mismatch);
        mismatch.into_result()?;
        stored.write(network);
        Ok(())
    }

    /// Puts the network's and the optimiser's values back, bit for bit, and the optimiser's step count: both or none.
    ///
    /// # Errors
    /// [`RestoreError::NoOptimizer`] when none was saved, or [`RestoreError::Mismatch`] with every tensor of both that
    /// doesn't fit; nothing has been changed then.
    pub fn restore_with_optimizer<T: Scalar>(
        &self,
        network: &mut (impl NamedTensors<T> + ?Sized),
        optimizer: &mut (impl TrainingState<T> + ?Sized),
    ) -> Result<(), RestoreError> {
        let steps = self.optimizer_steps().ok_or(RestoreError::NoOptimizer)?;
        let net = Stored::new(self, Group::Network);
        let state = Stored::new(self, Group::Optimizer);
        let mut mismatch = Mismatch::default();
        net.compare(network, &mut mismatch);
        state.compare(optimizer, &mut mismatch);
        mismatch.into_result()?;
        net.write(network);
        state.write(optimizer);
        optimizer.set_step_count(steps);
        Ok(())
    }
}

/// The tensors of one group by path.
struct Stored<'c> {
    group: Group,
    by_path: BTreeMap<&'c str, (&'c TensorInfo, &'c [u8])>,
}

impl<'c> Stored<'c> {
    fn new(checkpoint: &'c Checkpoint, group: Group) -> Self {
        let tensors = checkpoint.group(group);
        let by_path = tensors.map(|(info, bytes)| (info.path.as_str(), (info, bytes)));
        Self { group, by_path: by_path.collect() }
    }

    /// Adds everything that doesn't fit to `mismatch`, and changes nothing.
    ///
    /// It visits as `write` will, for writing: what has been compared here is exactly what is going to be written.
    fn compare<T: Scalar>(&self, target: &mut (impl NamedTensors<T> + ?Sized), mismatch: &mut Mismatch) {
        let mut unused = self.by_path.clone();
        target.visit_mut(Path::ROOT, &mut |path, _, tensor| {
            let path = path.to_string();
            let (dtype, shape) = (T::DTYPE, tensor.shape());
            // Taken out, so that of two tensors with one name the second is missing.
            match unused.remove(path.as_str()) {
                None => mismatch.missing.push(TensorInfo { group: self.group, path, dtype, shape }),
                Some((stored, _)) if (stored.dtype, stored.shape) != (dtype, shape) => {
                    mismatch.misshapen.push(Misshapen { stored: stored.clone(), dtype, shape });
                }
                Some(_) => {}
            }
        });
        mismatch.unexpected.extend(unused.into_values().map(|(info, _)| info.clone()));
    }

    /// Copies all values. It can't fail after `compare` has found nothing.
    fn write<T: Scalar>(&self, target: &mut (impl NamedTensors<T> + ?Sized)) {
        target.visit_mut(Path::ROOT, &mut |path, _, tensor| {
            if let Some((_, bytes)) = self.by_path.get(path.to_string().as_str()) {
                T::read_le(bytes, tensor.as_mut_slice());
            }
        });
    }
}
