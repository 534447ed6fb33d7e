//! The only list of layers: a line for its file, a word in the table. One layer, one file: its formula, its
//! struct, its rule, its samples, its tests.

pub(crate) mod pointwise;

pub(crate) mod activation {
    //! Functions of each element or row.
    mod gelu;
    mod leaky_relu;
    mod log_softmax;
    mod relu;
    mod sigmoid;
    mod softmax;
    mod tanh;
    pub use {
        gelu::Gelu, leaky_relu::LeakyRelu, log_softmax::LogSoftmax, relu::Relu, sigmoid::Sigmoid,
        softmax::Softmax, tanh::Tanh,
    };
}
pub(crate) mod attention {
    //! Layers that weigh values by how well queries and keys fit.
    mod multi_head_attention;
    pub use multi_head_attention::{MultiHeadAttention, MultiHeadAttentionConfig};
}
pub(crate) mod dense {
    //! Layers with a weight for every pair of features.
    mod linear;
    pub use linear::{Linear, LinearConfig};
    mod embedding;
    pub use embedding::{Embedding, EmbeddingConfig};
}
pub(crate) mod regular {
    //! Layers against overfitting, and layers that only change the shape.
    mod dropout;
    pub use dropout::Dropout;
    mod flatten;
    pub use flatten::Flatten;
}
pub(crate) mod pool {
    //! Layers with one output for each window of an image.
    mod max_pool2d;
    pub use max_pool2d::{MaxPool2d, MaxPool2dConfig};
}
pub(crate) mod conv {
    //! A kernel that moves over images.
    mod conv2d;
    pub use conv2d::{Conv2d, Conv2dConfig};
}
pub(crate) mod norm {
    //! Layers that give their inputs the mean 0 and the variance 1.
    mod layer_norm;
    pub use layer_norm::{LayerNorm, LayerNormConfig};
    mod batch_norm;
    pub use batch_norm::{BatchNorm, BatchNormConfig};
}
pub(crate) mod recurrent {
    //! Layers that go along sequences.
    mod lstm;
    pub use lstm::{Lstm, LstmConfig};
}
pub(crate) mod container;

pub use activation::*;
pub use attention::*;
pub use container::*;
pub use conv::*;
pub use dense::*;
pub use norm::*;
pub use pointwise::{Of, Pointwise};
pub use pool::*;
pub use recurrent::*;
pub use regular::*;

// A line for a letter.
crate::builtin::layer_table! {
    Add,
    BatchNorm<T>,
    Concat, Conv2d<T>,
    Dropout,
    Embedding<T>,
    Flatten, Frozen<T>,
    Gelu, Graph<T>,
    LayerNorm<T>, LeakyRelu, Linear<T>, LogSoftmax, Lstm<T>,
    MaxPool2d, Mul, MultiHeadAttention<T>,
    Relu, Residual<T>,
    Sequential<T>, Sigmoid, Softmax,
    Tanh,
}
