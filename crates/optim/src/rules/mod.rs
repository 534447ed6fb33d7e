//! The only list of rules: a word for its file and its type. One rule, one file: its formula, its struct, its
//! update, its samples, its tests.

/// Being public and being tested begin here.
macro_rules! rules {
    ($($module:ident::$rule:ident),+ $(,)?) => {
        $(
            mod $module;
            pub use $module::$rule;
        )+

        /// Every rule, with each of the options that change its update.
        #[cfg(feature = "testing")]
        #[doc(hidden)]
        pub fn samples<T: backrule_tensor::Scalar>() -> Vec<Box<dyn crate::rule::Rule<T>>> {
            let mut samples: Vec<Box<dyn crate::rule::Rule<T>>> = Vec::new();
            $(samples.extend($rule::samples().into_iter().map(|rule| Box::new(rule) as _));)+
            samples
        }
    };
}

rules! {
    sgd::Sgd,
}

pub use sgd::Momentum;
