/// The share of the last update in the next, in every row that trains.
pub const MOMENTUM: f64 = 0.9;

/// Dense layers with ReLU between them, and a batch.
#[derive(Debug, Clone, Copy)]
pub struct NetworkRow {
    /// Inputs, units of the hidden layers, outputs.
    pub sizes: &'static [usize],
    /// Rows of the input.
    pub batch: usize,
}

impl NetworkRow {
    /// Of a training step: the same batch again and again must not diverge.
    pub const LR: f64 = 0.001;

    pub(crate) fn id(&self, what: &str) -> String {
        let sizes: Vec<String> = self.sizes.iter().map(usize::to_string).collect();
        format!("{what}/{}/{}", sizes.join("-"), self.batch)
    }

    /// Numbers of one row of the input.
    #[must_use]
    pub fn inputs(&self) -> usize {
        self.sizes[0]
    }

    /// The input.
    #[must_use]
    pub fn x(&self) -> Vec<f32> {
        crate::normal(self.batch * self.inputs(), 2)
    }

    /// The right answers.
    #[must_use]
    pub fn labels(&self) -> Vec<usize> {
        crate::labels(self.batch, self.sizes[self.sizes.len() - 1])
    }
}

/// Forward, softmax cross-entropy, backward, and an update by SGD with momentum.
pub const TRAIN_STEP: &[NetworkRow] = &[
    NetworkRow { sizes: &[64, 32, 10], batch: 32 },
    NetworkRow { sizes: &[784, 128, 64, 10], batch: 64 },
    NetworkRow { sizes: &[784, 128, 64, 10], batch: 1024 },
    NetworkRow { sizes: &[1024, 4096, 4096, 1000], batch: 256 },
    NetworkRow { sizes: &[33, 33, 7], batch: 7 },
    NetworkRow { sizes: &[100, 50, 3], batch: 1 },
    NetworkRow { sizes: &[200, 300, 17], batch: 50 },
];

/// Forward alone.
pub const PREDICT: &[NetworkRow] = &[
    NetworkRow { sizes: &[784, 128, 64, 10], batch: 1 },
    NetworkRow { sizes: &[784, 128, 64, 10], batch: 2 },
    NetworkRow { sizes: &[784, 128, 64, 10], batch: 8 },
    NetworkRow { sizes: &[784, 128, 64, 10], batch: 16 },
    NetworkRow { sizes: &[784, 128, 64, 10], batch: 64 },
    NetworkRow { sizes: &[784, 128, 64, 10], batch: 256 },
    NetworkRow { sizes: &[784, 128, 64, 10], batch: 1024 },
    NetworkRow { sizes: &[1024, 4096, 4096, 1000], batch: 1 },
    NetworkRow { sizes: &[1024, 4096, 4096, 1000], batch: 16 },
    NetworkRow { sizes: &[1024, 4096, 4096, 1000], batch: 64 },
    NetworkRow { sizes: &[1024, 4096, 4096, 1000], batch: 1024 },
    NetworkRow { sizes: &[33, 33, 7], batch: 5 },
];

/// The loss and its gradient on logits.
#[derive(Debug, Clone, Copy)]
pub struct CrossEntropyRow {
    /// Rows of the logits.
    pub batch: usize,
    /// Columns of the logits.
    pub classes: usize,
}

impl CrossEntropyRow {
    pub(crate) fn id(&self) -> String {
        format!("cross_entropy/{}x{}", self.batch, self.classes)
    }

    /// The logits.
    #[must_use]
    pub fn logits(&self) -> Vec<f32> {
        crate::normal(self.batch * self.classes, 1)
    }

    /// The right answers.
    #[must_use]
    pub fn labels(&self) -> Vec<usize> {
        crate::labels(self.batch, self.classes)
    }
}

/// Few classes, many, and a vocabulary.
pub const CROSS_ENTROPY: &[CrossEntropyRow] = &[
    CrossEntropyRow { batch: 1024, classes: 10 },
    CrossEntropyRow { batch: 256, classes: 1000 },
    CrossEntropyRow { batch: 64, classes: 50_257 },
];

/// One update of one tensor.
#[derive(Debug, Clone, Copy)]
pub struct SgdRow;

impl SgdRow {
    /// Small: the parameters must stay as they are.
    pub const LR: f64 = 1e-6;
    /// Numbers in the tensor.
    pub const LEN: usize = 10_000_000;

    pub(crate) fn id() -> String {
        format!("sgd_momentum/{}", Self::LEN)
    }

    /// The parameters before the first update.
    #[must_use]
    pub fn parameters() -> Vec<f32> {
        crate::normal(Self::LEN, 1)
    }

    /// Their gradient, the same at each update.
    #[must_use]
    pub fn gradient() -> Vec<f32> {
        crate::normal(Self::LEN, 2)
    }
}

/// A whole run on the handwritten digits.
#[derive(Debug, Clone, Copy)]
pub struct DigitsRow;

impl DigitsRow {
    /// Pixels, hidden units, classes.
    pub const SIZES: &'static [usize] = &[64, 32, 10];
    /// Rows of a batch; the last one of an epoch has the rest.
    pub const BATCH: usize = 32;
    /// Passes over the data.
    pub const EPOCHS: usize = 50;
    /// Learning rate.
    pub const LR: f64 = 0.1;

    pub(crate) fn id() -> String {
        format!("digits/{}-epochs", Self::EPOCHS)
    }
}
