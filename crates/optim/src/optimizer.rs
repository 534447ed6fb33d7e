use std::mem::take;
use std::slice::ChunksMut;

use backrule_tensor::{
    ConfigError, Grad, NamedTensors, Options, Path, Role, Scalar, Shape, ShapeError, Tensor, TensorError,
    TrainingState, parallel,
};

use crate::{Rule, StepError};

/// A rule and its state for one network: walks over the network's tensors and applies the rule to each.
///
/// ```
/// use backrule_optim::tensor::{Grad, NamedTensors, Tensor};
/// use backrule_optim::{Optimizer, Sgd};
///
/// let mut net = vec![("weight", Tensor::from([[1.0_f64, 2.0]])), ("bias", Tensor::from([0.5]))];
/// let mut grads = [Tensor::from([[1.0, -1.0]]), Tensor::from([0.5])].map(Grad::from);
/// let mut optimizer = Optimizer::new(Sgd::new(0.5)?.momentum(0.9)?, &net)?;
///
/// optimizer.step(&mut net, &mut grads)?;
/// assert_eq!(net[0].1, Tensor::from([[0.5, 2.5]]));
/// assert_eq!(net[1].1, Tensor::from([0.25]));
/// assert_eq!(grads[0], Tensor::from([[0.0, 0.0]])); // the step has used them up
///
/// assert_eq!(optimizer.tensor("weight.velocity"), Some(&Tensor::from([[1.0, -1.0]])));
/// optimizer.set_learning_rate(0.1)?; // from the next step on
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # The gradients
/// There is one [`Grad`] per tensor of the network, in visit order, in its shape. **A step uses them up, and all of them are
/// zero then**, ready for the next backward pass to add to: no `zero_grad` to forget. No zero is written for that, and a
/// gradient that isn't added to before the next step counts as zero in it. To accumulate over several batches, run several
/// backward passes before the step.
///
/// A tensor of [`Role::Statistic`] gets its entry among the gradients added as it is: no rule, no learning rate.
///
/// # The state
/// It is visited like a network: `fc1.weight.velocity`, in the network's order. With the number of steps, which the rule
/// may need, and the rule's options, that is all there is to save; see [`TrainingState`].
///
/// The optimizer belongs to the network as it was: tensors that were renamed, added, lost, reordered or reshaped since
/// then are an error in [`step`](Self::step).
#[derive(Clone, Debug)]
pub struct Optimizer<R, T: Scalar = f32> {
    rule: R,
    /// Steps made so far.
    steps: u64,
    /// The network's tensors, in visit order.
    entries: Vec<Entry>,
    /// The names of the slots of each parameter.
    names: &'static [&'static str],
    /// The slots: those of the first parameter in the order of `names`, then those of the second.
    slots: Vec<Tensor<T>>,
}

#[derive(Clone, Debug)]
struct Entry {
    path: String,
    role: Role,
    shape: Shape,
}

impl Entry {
    /// What is wrong with a tensor that should be this one.
    fn refuse(&self, path: Path<'_>, role: Role, shape: Shape) -> Option<StepError> {
        if path != self.path {
            Some(StepError::Path { expected: self.path.clone(), found: path.to_string() })
        } else if role != self.role {
            Some(StepError::Role { path: self.path.clone(), expected: self.role, found: role })
        } else {
            self.refuse_shape("optimizer step", shape)
        }
    }

    fn refuse_shape(&self, operation: &'static str, shape: Shape) -> Option<StepError> {
        let differs = shape != self.shape;
        differs.then(|| ShapeError::new(operation, self.shape, shape).within(&self.path).into())
    }
}

impl<T: Scalar, R: Rule<T>> Optimizer<R, T> {
    /// The rule, with fresh state for the tensors of `net`.
    ///
    /// # Errors
    /// When there is no memory for the state.
    pub fn new(rule: R, net: &(impl NamedTensors<T> + ?Sized)) -> Result<Self, TensorError> {
        let names = rule.slots();
        let (mut entries, mut slots, mut result) = (Vec::new(), Vec::new(), Ok(()));
        net.visit(Path::ROOT, &mut |path, role, x| {
            entries.push(Entry { path: path.to_string(), role, shape: x.shape() });
            if role == Role::Parameter && result.is_ok() {
                result = names.iter().try_for_each(|_| {
                    slots.push(Tensor::zeros_like(x).map_err(|error| error.within(&path.to_string()))?);
                    Ok(())
                });
            }
        });
        result.map(|()| Self { rule, steps: 0, entries, names, slots })
    }

    /// Changes every parameter of `net` by the rule, adds to every statistic, and **uses all gradients up**.
    ///
    /// Allocates nothing.
    ///
    /// # Errors
    /// When network, gradients and state don't fit together any more; the error names the tensor. All is checked before
    /// anything is touched: on error neither parameters nor gradients, state or step count have changed.
    pub fn step(
        &mut self,
        net: &mut (impl NamedTensors<T> + ?Sized),
        grads: &mut [Grad<T>],
    ) -> Result<(), StepError> {
        self.check(net, grads)?;
        self.steps = self.steps.saturating_add(1);
        let (rule, step, slots_each) = (&self.rule, self.steps, self.names.len());
        let (mut grads, mut slots) = (grads.iter_mut(), self.slots.as_mut_slice());
        net.visit_mut(Path::ROOT, &mut |_, role, x| {
            let Some(grad) = grads.next() else { return };
            // Zeros, if nothing was added since the last step.
            let (x, dx) = (x.as_mut_slice(), grad.as_mut_slice());
            match role {
                Role::Statistic => x.iter_mut().zip(&*dx).for_each(|(x, &dx)| *x += dx),
                Role::Parameter => {
                    if let Some((own, others)) = take(&mut slots).split_at_mut_checked(slots_each) {
                        slots = others;
                        update(rule, step, x, dx, own);
                    }
                }
            }
            grad.use_up();
        });
        Ok(())
    }

    /// The rule with its options.
    pub fn rule(&self) -> &R {
        &self.rule
    }

    /// The learning rate of the next step.
    pub fn learning_rate(&self) -> f64 {
        self.rule.learning_rate()
    }

    /// Changes the learning rate from the next step on.
    ///
    /// # Errors
    /// When it isn't finite or is negative; it stays as it was then.
    pub fn set_learning_rate(&mut self, rate: f64) -> Result<(), ConfigError> {
        self.rule.set_learning_rate(rate)
    }

    /// Whether everything fits together. The network is visited as it will be for the step, so that a `visit_mut` that
    /// disagrees with `visit` is found out too.
    fn check(&self, net: &mut (impl NamedTensors<T> + ?Sized), grads: &[Grad<T>]) -> Result<(), StepError> {
        let mut entries = self.entries.iter();
        let mut problem = None;
        net.visit_mut(Path::ROOT, &mut |path, role, x| {
            if problem.is_none() {
                problem = match entries.next() {
                    Some(entry) => entry.refuse(path, role, x.shape()),
                    None => Some(StepError::Unexpected { path: path.to_string() }),
                };
            }
        });
        if problem.is_none() {
            problem = entries.next().map(|entry| StepError::Missing { path: entry.path.clone() });
        }
        let problem = problem.or_else(|| self.refuse_gradients(grads)).or_else(|| self.refuse_slots());
        problem.map_or(Ok(()), Err)
    }

    fn refuse_gradients(&self, grads: &[Grad<T>]) -> Option<StepError> {
        let (gradients, tensors) = (grads.len(), self.entries.len());
        if let Some(entry) = self.entries.get(gradients) {
            return Some(StepError::MissingGradient { gradients, tensors, path: entry.path.clone() });
        }
        if gradients > tensors {
            let last = self.entries.last().map_or(String::new(), |entry| entry.path.clone());
            return Some(StepError::ExtraGradients { gradients, tensors, last });
        }
        let mut pairs = self.entries.iter().zip(grads);
        pairs.find_map(|(entry, dx)| entry.refuse_shape("gradient", dx.shape()))
    }

    /// Slots are lent out by `visit_mut`, and whoever borrows one can change its shape.
    fn refuse_slots(&self) -> Option<StepError> {
        let mut slots = self.slots.iter();
        let mut parameters = self.entries.iter().filter(|entry| entry.role == Role::Parameter);
        parameters.find_map(|entry| {
            let mut own = self.names.iter().zip(slots.by_ref());
            own.find_map(|(_, slot)| entry.refuse_shape("optimizer state", slot.shape()))
        })
    }
}

/// Elements that a thread updates at a time, whatever the number of threads.
const CHUNK: usize = 1 << 14;
/// The same for parameters that have many times as many: memory is read in longer runs then.
const LARGE_CHUNK: usize = 1 << 17;
/// Bytes of a cache line.
const LINE: usize = 64;
/// Slots up to which the slices of a chunk are kept in an array; more cost an allocation per parameter.
const FEW: usize = 8;

/// Updates one parameter: in chunks, unless the rule needs it whole.
fn update<T: Scalar>(rule: &impl Rule<T>, step: u64, mut x: &mut [T], mut dx: &[T], slots: &mut [Tensor<T>]) {
    if x.is_empty() {
        return;
    }
    let count = slots.len();
    if count > FEW {
        let mut slots: Vec<_> = slots.iter_mut().map(Tensor::as_mut_slice).collect();
        return rule.update(step, x, dx, &mut slots);
    }
    let mut slots = slots.iter_mut();
    let mut slots: [_; FEW] =
        std::array::from_fn(|_| slots.next().map(Tensor::as_mut_slice).unwrap_or_default());
    let size = (x.len() / 32).clamp(CHUNK, LARGE_CHUNK);
    if x.len() <= size || rule.needs_whole() {
        return rule.update(step, x, dx, &mut slots[..count]);
    }
    // Large memory from the system begins 16 bytes behind a cache line. What lies before the next line is updated by itself, so
    // that chunks begin at one, and no register of theirs lies across two.
    let gap = x.as_ptr().align_offset(LINE);
    if (1..size).contains(&gap) {
        let mut slots = slots.each_mut().map(|slot| slot.split_off_mut(..gap).unwrap_or_default());
        let (x, dx) = (x.split_off_mut(..gap), dx.split_off(..gap));
        rule.update(step, x.unwrap_or_default(), dx.unwrap_or_default(), &mut slots[..count]);
    }
    let slots = SlotChunks { chunks: slots.map(|slot| slot.chunks_mut(size)), left: x.len().div_ceil(size) };
    let chunks = x.chunks_mut(size).zip(dx.chunks(size)).zip(slots);
    parallel::for_each(chunks, |((x, dx), mut slots)| rule.update(step, x, dx, &mut slots[..count]));
}

/// The chunks of all slots at a time. Of slots that there aren't, they are empty.
struct SlotChunks<'a, T> {
    chunks: [ChunksMut<'a, T>; FEW],
    left: usize,
}

impl<'a, T> SlotChunks<'a, T> {
    fn take(
        &mut self,
        chunk: impl Fn(&mut ChunksMut<'a, T>) -> Option<&'a mut [T]>,
    ) -> Option<[&'a mut [T]; FEW]> {
        self.left = self.left.checked_sub(1)?;
        Some(self.chunks.each_mut().map(|chunks| chunk(chunks).unwrap_or_default()))
    }
}

impl<'a, T> Iterator for SlotChunks<'a, T> {
    type Item = [&'a mut [T]; FEW];
    fn next(&mut self) -> Option<Self::Item> {
        self.take(ChunksMut::next)
    }
    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<T> DoubleEndedIterator for SlotChunks<'_, T> {
    fn next_back(&mut self) -> Option<Self::Item> {
        self.take(ChunksMut::next_back)
    }
}

impl<T> ExactSizeIterator for SlotChunks<'_, T> {}

/// The slots, below the paths of their parameters: `fc1.weight.velocity`.
impl<T: Scalar, R> NamedTensors<T> for Optimizer<R, T> {
    fn visit<'s>(&'s self, path: Path<'_>, visitor: &mut dyn FnMut(Path<'_>, Role, &'s Tensor<T>)) {
        let mut slots = self.slots.iter();
        for entry in self.entries.iter().filter(|entry| entry.role == Role::Parameter) {
            let place = path.join(&entry.path);
            for (name, slot) in self.names.iter().zip(slots.by_ref()) {
                visitor(place.join(name), Role::Statistic, slot);
            }
        }
    }

    fn visit_mut<'s>(
        &'s mut self,
        path: Path<'_>,
        visitor: &mut dyn FnMut(Path<'_>, Role, &'s mut Tensor<T>),
    ) {
        let mut slots = self.slots.iter_mut();
        for entry in self.entries.iter().filter(|entry| entry.role == Role::Parameter) {
            let place = path.join(&entry.path);
            for (name, slot) in self.names.iter().zip(slots.by_ref()) {
                visitor(place.join(name), Role::Statistic, slot);
            }
        }
    }
}

impl<T: Scalar, R: Rule<T>> TrainingState<T> for Optimizer<R, T> {
    fn step_count(&self) -> u64 {
        self.steps
    }

    fn set_step_count(&mut self, steps: u64) {
        self.steps = steps;
    }

    fn options(&self) -> Options {
        self.rule.options()
    }

    fn set_options(&mut self, options: Options) -> Result<(), ConfigError> {
        self.rule.set_options(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_have_the_chunks_of_their_parameter_from_both_ends() {
        let (mut x, mut slot, size) = ([0, 1, 2, 3, 4, 5, 6], [0, 1, 2, 3, 4, 5, 6], 3);
        let mut slots: [&mut [i32]; FEW] = Default::default();
        slots[1] = &mut slot;
        let chunks = slots.map(|slot| slot.chunks_mut(size));
        let mut chunks = x.chunks_mut(size).zip(SlotChunks { chunks, left: 3 });
        assert_eq!(chunks.len(), 3);
        let check = |chunk: Option<(&mut [i32], [&mut [i32]; FEW])>| match chunk {
            Some((x, slots)) => assert!(slots[0].is_empty() && slots[1] == x, "{slots:?} of {x:?}"),
            None => panic!("three chunks"),
        };
        check(chunks.next_back());
        check(chunks.next());
        check(chunks.next_back());
        assert!(chunks.next().is_none() && chunks.next_back().is_none());
    }
}
