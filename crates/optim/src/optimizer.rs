use std::convert::Infallible;
use std::mem::take;
use std::slice::ChunksMut;

use backrule_tensor::{
    ConfigError, Grads, Layout, LayoutEntry, NamedTensors, Options, Path, Role, Scalar, ShapeError, Tensor,
    TensorError, TrainingState, in_default_mode, memory, parallel,
};

use crate::error::StepError;
use crate::rule::Rule;

/// A rule and its state for one network: walks over the network's tensors and applies the rule to each.
///
/// ```
/// use backrule_optim::tensor::{Grads, NamedTensors, Tensor};
/// use backrule_optim::{Optimizer, Sgd};
///
/// let (weight, bias) = (Tensor::from([[1.0_f64, 2.0]]), Tensor::from([0.5]));
/// let mut net = vec![("weight", weight), ("bias", bias)];
/// let mut grads = Grads::new(&net)?;
/// grads[0] = Tensor::from([[1.0, -1.0]]).into();
/// grads[1] = Tensor::from([0.5]).into();
/// let mut optimizer = Optimizer::new(Sgd::new(0.5)?.momentum(0.9)?, &net)?;
///
/// optimizer.step(&mut net, &mut grads)?;
/// assert_eq!(net[0].1, Tensor::from([[0.5, 2.5]]));
/// assert_eq!(net[1].1, Tensor::from([0.25]));
/// assert!(grads[0].is_zero()); // the step has cleared them
///
/// assert_eq!(optimizer.tensor("weight.velocity"), Some(&Tensor::from([[1.0, -1.0]])));
/// optimizer.set_learning_rate(0.1)?; // from the next step on
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # What a step does with each tensor
/// - A **parameter** is updated by the rule. A gradient that nothing was added to since the last step counts
///   as zero. Where the gradient is [unwanted](backrule_tensor::Grad#unwanted-gradients), the parameter is
///   frozen: it and its state stay as they are, to the last bit, whatever momentum and weight decay there
///   are.
/// - A **buffer**, such as a batch norm's running mean, gets the mean of its increments: their sum ÷
///   [`count`](backrule_tensor::Grad::count). No rule and no learning rate is involved.
/// - A **constant** has no state and is never touched.
///
/// **Then all gradients are cleared**, ready for the next backward pass: there is no `zero_grad` to forget.
/// To accumulate over several batches, run several backward passes before the step.
///
/// # The state
/// It is visited like a network: `fc1.weight.velocity`, in the network's order. A run that goes on needs it
/// with the number of steps and the rule's options: see [`TrainingState`].
///
/// The optimizer belongs to the network as it was when it was made: after that, a tensor that was renamed,
/// added, lost, reordered or reshaped is an error in [`step`](Self::step).
#[derive(Clone, Debug)]
pub struct Optimizer<R, T: Scalar = f32> {
    rule: R,
    /// Steps made so far.
    steps: u64,
    /// That of the network. After the first step it is the gradients' own, so every path is in memory once.
    layout: Layout,
    /// The names of the slots of each parameter.
    names: &'static [&'static str],
    /// The slots: those of the first parameter in the order of `names`, then those of the second.
    slots: Vec<Tensor<T>>,
}

impl<T: Scalar, R: Rule<T>> Optimizer<R, T> {
    /// The rule, with fresh state for the parameters of `net`.
    ///
    /// # Errors
    /// When there is no memory for the state.
    pub fn new(rule: R, net: &(impl NamedTensors<T> + ?Sized)) -> Result<Self, TensorError> {
        const OPERATION: &str = "new optimizer";
        let (names, layout) = (rule.slots(), Layout::of(net)?);
        let mut slots = memory::room(OPERATION, parameters(&layout).count().saturating_mul(names.len()))?;
        for LayoutEntry { path, shape, .. } in parameters(&layout) {
            for _ in names {
                let slot = Tensor::zeros(*shape).map_err(|error| error.within(path))?;
                memory::push(OPERATION, &mut slots, slot)?;
            }
        }
        Ok(Self { rule, steps: 0, layout, names, slots })
    }

    /// Changes every parameter of `net` by the rule, moves every buffer, and **clears all gradients**.
    ///
    /// Allocates nothing.
    ///
    /// # Errors
    /// When network, gradients and state don't fit together any more, where the error names the tensor; or
    /// the gradients are [incomplete](Grads#incomplete-gradients). All is checked before anything is touched:
    /// on error neither parameters nor gradients, state or step count have changed.
    pub fn step(
        &mut self,
        net: &mut (impl NamedTensors<T> + ?Sized),
        grads: &mut Grads<T>,
    ) -> Result<(), StepError> {
        in_default_mode!(self.step(net, grads));
        self.check(net, grads)?;
        if !self.layout.is_shared_with(grads.layout()) {
            self.layout = grads.layout().clone();
        }
        self.steps = self.steps.saturating_add(1);
        let (rule, step, slots_each) = (&self.rule, self.steps, self.names.len());
        let (mut grads, mut slots) = (grads.iter_mut(), self.slots.as_mut_slice());
        net.visit_mut(Path::ROOT, &mut |_, role, x| {
            let Some(grad) = grads.next() else { return };
            match role {
                Role::Parameter => {
                    if let Some((own, others)) = take(&mut slots).split_at_mut_checked(slots_each) {
                        slots = others;
                        // The rule reads zeros where nothing was added. An unwanted gradient has none.
                        let Ok(()) = grad.add_to(|_| Ok::<_, Infallible>(()));
                        if let Some(dx) = grad.get() {
                            update(rule, step, x.as_mut_slice(), dx.as_slice(), own);
                        }
                    }
                }
                Role::Buffer => {
                    if let Some(sum) = grad.get() {
                        move_buffer(x.as_mut_slice(), sum.as_slice(), grad.count());
                    }
                }
                Role::Constant => {}
            }
            grad.clear();
        });
        Ok(())
    }

    /// The rule with its options.
    pub fn rule(&self) -> &R {
        &self.rule
    }

    /// The structure of the network that it belongs to.
    pub fn layout(&self) -> &Layout {
        &self.layout
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

    /// Whether everything fits together. The network is visited as it will be for the step, so a `visit_mut`
    /// that disagrees with `visit` is found out too.
    fn check(&self, net: &mut (impl NamedTensors<T> + ?Sized), grads: &Grads<T>) -> Result<(), StepError> {
        grads.expect_complete("optimizer step")?;
        self.layout.expect_mut("optimizer step", net).map_err(StepError::Network)?;
        self.layout.expect_layout("optimizer step", grads.layout()).map_err(StepError::Gradients)?;
        grads.expect_own_shapes("gradient")?;
        self.check_slots()
    }

    /// Slots are lent out by `visit_mut`, and a borrower can change their shape.
    fn check_slots(&self) -> Result<(), StepError> {
        let mut slots = self.slots.iter();
        for LayoutEntry { path, shape, .. } in parameters(&self.layout) {
            let mut own = self.names.iter().zip(slots.by_ref());
            if let Some((name, slot)) = own.find(|(_, slot)| slot.shape() != *shape) {
                let error = ShapeError::new("optimizer state", shape, slot.shape());
                return Err(error.within(name).within(path).into());
            }
        }
        Ok(())
    }
}

/// Those tensors that have slots.
fn parameters(layout: &Layout) -> impl Iterator<Item = &LayoutEntry> {
    layout.entries().iter().filter(|entry| entry.role == Role::Parameter)
}

/// Elements that a thread updates at a time, whatever the number of threads.
const CHUNK: usize = 1 << 14;
/// The same for parameters that have many times as many: memory is read in longer runs then.
const LARGE_CHUNK: usize = 1 << 17;
/// Bytes of a cache line.
const LINE: usize = 64;
/// Slots up to which the slices of a chunk are kept in an array; more cost an allocation per parameter.
const FEW: usize = 8;

/// Adds the mean of `count` increments.
fn move_buffer<T: Scalar>(x: &mut [T], sum: &[T], count: u64) {
    let all = x.iter_mut().zip(sum);
    if count > 1 {
        let count = T::from_f64(count as f64);
        all.for_each(|(x, &sum)| *x += sum / count);
    } else {
        all.for_each(|(x, &sum)| *x += sum);
    }
}

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
    // Large memory from the system begins 16 bytes behind a cache line. The elements before the next line are
    // updated by themselves. Then chunks begin at a line, and no register of theirs lies across two.
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
        for entry in parameters(&self.layout) {
            let place = path.join(&entry.path);
            for (name, slot) in self.names.iter().zip(slots.by_ref()) {
                visitor(place.join(name), Role::Buffer, slot);
            }
        }
    }

    fn visit_mut<'s>(
        &'s mut self,
        path: Path<'_>,
        visitor: &mut dyn FnMut(Path<'_>, Role, &'s mut Tensor<T>),
    ) {
        let mut slots = self.slots.iter_mut();
        for entry in parameters(&self.layout) {
            let place = path.join(&entry.path);
            for (name, slot) in self.names.iter().zip(slots.by_ref()) {
                visitor(place.join(name), Role::Buffer, slot);
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
