use std::fmt::Debug;

use backrule_nn::{Grads, Layer, Mode, Tape};
use backrule_optim::{Optimizer, Rule};
use backrule_tensor::{Scalar, Tensor};

/// Training steps that share their memory.
pub struct Trainer<T: Scalar = f32> {
    tape: Tape<T>,
    grads: Grads<T>,
    dy: Tensor<T>,
}

impl<T: Scalar> Trainer<T> {
    /// For this network, with a tape of its own.
    pub fn new(net: &dyn Layer<T>) -> Self {
        Self::with(Tape::new(), net)
    }

    /// The same with a tape of some parts.
    pub fn with(tape: Tape<T>, net: &dyn Layer<T>) -> Self {
        Self { tape, grads: Grads::new(net).expect("memory"), dy: Tensor::default() }
    }

    /// Forward, loss, backward, update: the value of the loss, which writes its gradient into its second
    /// argument.
    #[track_caller]
    pub fn step<E: Debug>(
        &mut self,
        net: &mut impl Layer<T>,
        optimizer: &mut Optimizer<impl Rule<T>, T>,
        x: &Tensor<T>,
        mode: Mode,
        loss: impl FnOnce(&Tensor<T>, &mut Tensor<T>) -> Result<T, E>,
    ) -> T {
        let pass = self.tape.forward(net, x, mode).expect("the network takes x");
        let value = loss(pass.output(), &mut self.dy).expect("the loss takes y");
        pass.backward(&self.dy, &mut self.grads).expect("the network takes dy");
        optimizer.step(net, &mut self.grads).expect("the optimizer is this network's");
        value
    }
}
