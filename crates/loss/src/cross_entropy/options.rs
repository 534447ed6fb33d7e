//! How a cross-entropy is written down: deserialising goes through the same checks as building one.

use backrule_tensor::ConfigError;

use super::settings::CrossEntropy;
use crate::reduction::Reduction;

#[derive(serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields, rename = "CrossEntropy")]
#[derive(Default)]
pub(super) struct Options {
    reduction: Reduction,
    class_weights: Option<Vec<f64>>,
    label_smoothing: f64,
    ignore_index: Option<usize>,
}

impl TryFrom<Options> for CrossEntropy {
    type Error = ConfigError;

    fn try_from(options: Options) -> Result<Self, ConfigError> {
        let mut loss = Self::new().reduction(options.reduction).label_smoothing(options.label_smoothing)?;
        if let Some(weights) = options.class_weights {
            loss = loss.class_weights(weights)?;
        }
        loss.ignore_index = options.ignore_index;
        Ok(loss)
    }
}

impl From<CrossEntropy> for Options {
    fn from(loss: CrossEntropy) -> Self {
        Self {
            reduction: loss.reduction,
            class_weights: loss.class_weights,
            label_smoothing: loss.label_smoothing,
            ignore_index: loss.ignore_index,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Mse;

    #[test]
    fn everything_comes_back() {
        let loss = CrossEntropy::new()
            .reduction(Reduction::Sum)
            .class_weights([0.1, 2.0])
            .unwrap()
            .label_smoothing(0.3)
            .unwrap()
            .ignore_index(255);
        let json = serde_json::to_string(&loss).unwrap();
        let text =
            r#"{"reduction":"sum","class_weights":[0.1,2.0],"label_smoothing":0.3,"ignore_index":255}"#;
        assert_eq!(json, text);
        assert_eq!(serde_json::from_str::<CrossEntropy>(&json).unwrap(), loss);
        let mse = Mse::new().reduction(Reduction::Sum);
        let json = serde_json::to_string(&mse).unwrap();
        assert_eq!(json, r#"{"reduction":"sum"}"#);
        assert_eq!(serde_json::from_str::<Mse>(&json).unwrap(), mse);
    }

    #[test]
    fn what_is_missing_has_its_default() {
        assert_eq!(serde_json::from_str::<CrossEntropy>("{}").unwrap(), CrossEntropy::new());
        assert_eq!(serde_json::from_str::<Mse>("{}").unwrap(), Mse::new());
    }

    #[test]
    fn what_cannot_be_built_cannot_be_read() {
        for (json, why) in [
            (r#"{"label_smoothing":1.5}"#, "label_smoothing: expected a number from 0 to 1, got 1.5"),
            (
                r#"{"class_weights":[1.0,-1.0]}"#,
                "class_weights: expected finite weights from 0 up, got -1 for class 1",
            ),
            (r#"{"smoothing":0.1}"#, "unknown field `smoothing`"),
            (r#"{"reduction":"none"}"#, "unknown variant `none`"),
            (r#"{"ignore_index":-100}"#, "invalid value"),
        ] {
            let error = serde_json::from_str::<CrossEntropy>(json).unwrap_err();
            assert!(error.to_string().contains(why), "{json}: {error}");
        }
        assert!(serde_json::from_str::<Mse>(r#"{"reduce":"sum"}"#).is_err());
    }
}
