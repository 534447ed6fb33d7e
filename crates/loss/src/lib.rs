#![doc = include_str!("../README.md")]
// On docs.rs each item that needs a feature says so.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod cross_entropy;
mod error;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod listed;
mod mse;
mod pointwise;
mod reduction;
mod target;

pub use self::error::LossError;
pub use self::pointwise::PointwiseLoss;
pub use self::reduction::Reduction;
pub use self::target::Target;

// Part of this crate's interface: losses take and give its tensors.
pub use backrule_tensor as tensor;
pub use backrule_tensor::ConfigError;

/// The only list of losses. Being public, being written down and being tested begin here.
macro_rules! losses {
    ($($module:ident::$loss:ident),+ $(,)?) => {
        $(
            pub use self::$module::$loss;

            #[cfg(feature = "serde")]
            impl serde::Serialize for $loss {
                fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                    self.options().serialize(serializer)
                }
            }

            #[cfg(feature = "serde")]
            impl<'de> serde::Deserialize<'de> for $loss {
                fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                    let options = backrule_tensor::Options::deserialize(deserializer)?;
                    Self::build(options).map_err(serde::de::Error::custom)
                }
            }

            #[cfg(feature = "testing")]
            impl<T: tensor::Scalar> listed::AnyLoss<T> for $loss {
                fn kind(&self) -> &'static str {
                    stringify!($loss)
                }

                fn options(&self) -> tensor::Options {
                    self.options()
                }

                fn with(&self, reduction: Reduction) -> Box<dyn listed::AnyLoss<T>> {
                    Box::new(self.clone().reduction(reduction))
                }

                fn evaluate(
                    &self,
                    sample: &listed::Sample<T>,
                    dy: Option<&mut tensor::Tensor<T>>,
                ) -> Result<T, LossError> {
                    listed::Listed::evaluate(self, sample, dy)
                }
            }
        )+

        /// All losses.
        #[cfg(feature = "testing")]
        #[doc(hidden)]
        pub fn losses<T: tensor::Scalar>() -> Vec<listed::Kind<T>> {
            vec![$(listed::Kind {
                name: stringify!($loss),
                op: <$loss as listed::Listed<T>>::OP,
                new: || Box::new($loss::new()),
                build: |options| Ok(Box::new($loss::build(options)?)),
                samples: || {
                    let samples = <$loss as listed::Listed<T>>::samples().into_iter();
                    samples.map(|(loss, sample)| (Box::new(loss) as _, sample)).collect()
                },
            }),+]
        }
    };
}

losses! { cross_entropy::CrossEntropy, mse::Mse }
