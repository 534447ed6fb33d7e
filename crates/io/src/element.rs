//! The element types of files, and their values as those of a tensor.
//!
//! All of it is done with whole numbers on the bits, so no rounding mode of the caller's and no flush to zero
//! changes a value.

use std::fmt;

use backrule_tensor::{DType, Scalar};

/// The type of a tensor's elements in a file. Checkpoints have `F32` and `F64`; files of others have more.
///
/// ```
/// use backrule_io::ElementType;
/// use backrule_io::tensor::DType;
///
/// assert_eq!(ElementType::from(DType::F32).to_string(), "f32");
/// assert_eq!(ElementType::BF16.to_string(), "bf16");
/// assert!(ElementType::F64 == DType::F64);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ElementType {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 double precision.
    F64,
    /// IEEE 754 half precision.
    F16,
    /// The upper half of `F32`.
    BF16,
    /// 8 bits: 4 of exponent and 3 of mantissa, with NaN and without infinities.
    F8E4M3,
    /// The upper half of `F16`.
    F8E5M2,
    /// 8 bits: 4 of exponent and 3 of mantissa, with one NaN, without infinities and −0.
    F8E4M3Fnuz,
    /// 8 bits: 5 of exponent and 2 of mantissa, with one NaN, without infinities and −0.
    F8E5M2Fnuz,
    /// 8 bits of exponent: powers of two.
    F8E8M0,
    /// Whole numbers of 8 bits with a sign.
    I8,
    /// Whole numbers of 16 bits with a sign.
    I16,
    /// Whole numbers of 32 bits with a sign.
    I32,
    /// Whole numbers of 64 bits with a sign.
    I64,
    /// Whole numbers of 8 bits.
    U8,
    /// Whole numbers of 16 bits.
    U16,
    /// Whole numbers of 32 bits.
    U32,
    /// Whole numbers of 64 bits.
    U64,
    /// 0 or 1 in a byte.
    Bool,
    /// Something else, which is listed and can't be restored.
    Other(OtherType),
}

/// A file's name for an element type that this crate doesn't know: the first 15 bytes of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct OtherType {
    name: [u8; 15],
    length: u8,
}

/// All that have a name in files of others.
#[cfg(feature = "safetensors")]
const NAMES: [(&str, ElementType); 18] = [
    ("F32", ElementType::F32),
    ("F64", ElementType::F64),
    ("F16", ElementType::F16),
    ("BF16", ElementType::BF16),
    ("F8_E4M3", ElementType::F8E4M3),
    ("F8_E5M2", ElementType::F8E5M2),
    ("F8_E4M3FNUZ", ElementType::F8E4M3Fnuz),
    ("F8_E5M2FNUZ", ElementType::F8E5M2Fnuz),
    ("F8_E8M0", ElementType::F8E8M0),
    ("I8", ElementType::I8),
    ("I16", ElementType::I16),
    ("I32", ElementType::I32),
    ("I64", ElementType::I64),
    ("U8", ElementType::U8),
    ("U16", ElementType::U16),
    ("U32", ElementType::U32),
    ("U64", ElementType::U64),
    ("BOOL", ElementType::Bool),
];

/// Whether a tensor can have the values of a file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    /// Each of them, whatever it is.
    Always,
    /// Where it has each of them: they have to be looked at.
    IfHeld,
    Never,
}

/// The first element that a tensor's type doesn't have.
pub(crate) struct NotHeld {
    pub(crate) at: usize,
    pub(crate) value: String,
}

impl ElementType {
    /// Bytes of one element; `None` for [`Other`](Self::Other).
    pub fn size(self) -> Option<usize> {
        match self {
            Self::F8E4M3 | Self::F8E5M2 | Self::F8E4M3Fnuz | Self::F8E5M2Fnuz | Self::F8E8M0 => Some(1),
            Self::I8 | Self::U8 | Self::Bool => Some(1),
            Self::F16 | Self::BF16 | Self::I16 | Self::U16 => Some(2),
            Self::F32 | Self::I32 | Self::U32 => Some(4),
            Self::F64 | Self::I64 | Self::U64 => Some(8),
            Self::Other(_) => None,
        }
    }

    /// The type that a safetensors file calls so.
    #[cfg(feature = "safetensors")]
    pub(crate) fn named(name: &str) -> Self {
        match NAMES.iter().find(|(known, _)| *known == name) {
            Some((_, dtype)) => *dtype,
            None => Self::Other(OtherType::new(name)),
        }
    }

    /// Bits of one element, where they are known.
    #[cfg(feature = "safetensors")]
    pub(crate) fn bits(self) -> Option<usize> {
        match self {
            Self::Other(other) => match other.name() {
                "F4" => Some(4),
                "F6_E2M3" | "F6_E3M2" => Some(6),
                "C64" => Some(64),
                _ => None,
            },
            _ => self.size().map(|bytes| bytes.saturating_mul(8)),
        }
    }

    /// Whether a tensor of `target` can have such elements; `convert` allows another precision.
    pub(crate) fn fit(self, target: DType, convert: bool) -> Fit {
        match (self, target) {
            _ if self == target => Fit::Always,
            (Self::Other(_), _) => Fit::Never,
            (Self::F32 | Self::F64, _) if !convert => Fit::Never,
            // Rounded, but no finite number becomes infinite.
            (Self::F64, DType::F32) => Fit::IfHeld,
            (Self::I64 | Self::U64, _) | (Self::I32 | Self::U32, DType::F32) | (Self::Bool, _) => Fit::IfHeld,
            (_, DType::F32 | DType::F64) => Fit::Always,
            _ => Fit::Never,
        }
    }

    /// Little-endian elements as those of a tensor, up to the first one that it doesn't have. Of double
    /// precision into single they are `rounded`, or have to be exact.
    pub(crate) fn read<T: Scalar>(
        self,
        bytes: &[u8],
        values: &mut [T],
        rounded: bool,
    ) -> Result<(), NotHeld> {
        if self == T::DTYPE {
            T::read_le(bytes, values);
            return Ok(());
        }
        let not_held = |at, value| NotHeld { at, value };
        let Some(size) = self.size() else {
            return Err(not_held(0, self.to_string()));
        };
        // A whole number is exact or an error.
        let rounded = rounded && self == Self::F64;
        let mut before = 0_usize;
        let pieces = bytes.chunks(size.saturating_mul(PIECE)).zip(values.chunks_mut(PIECE));
        for (bytes, values) in pieces {
            let mut out = [0; 8 * PIECE];
            let slots = out.chunks_exact_mut(T::DTYPE.size());
            for (at, (element, slot)) in bytes.chunks_exact(size).zip(slots).enumerate() {
                let mut held = self.value(element);
                if slot.len() == size_of::<f32>() {
                    held = held.and_then(|bits| single(bits, rounded)).map(u64::from);
                }
                let Some(bits) = held else {
                    return Err(not_held(before.saturating_add(at), self.text(element)));
                };
                // Of an `f32` the first four.
                slot.iter_mut().zip(bits.to_le_bytes()).for_each(|(to, from)| *to = from);
            }
            T::read_le(&out, values);
            before = before.saturating_add(values.len());
        }
        Ok(())
    }

    /// Whether a tensor of `T` has each of these elements.
    pub(crate) fn check<T: Scalar>(self, bytes: &[u8], rounded: bool) -> Result<(), NotHeld> {
        let size = self.size().unwrap_or(1);
        let mut scratch = [T::ZERO; PIECE];
        let mut before = 0_usize;
        for bytes in bytes.chunks(size.saturating_mul(PIECE)) {
            self.read(bytes, &mut scratch, rounded)
                .map_err(|NotHeld { at, value }| NotHeld { at: at.saturating_add(before), value })?;
            before = before.saturating_add(PIECE);
        }
        Ok(())
    }

    /// An element's value as the bits of an `f64`; `None` where there is none.
    fn value(self, element: &[u8]) -> Option<u64> {
        let bits = raw(element);
        match self {
            Self::F64 => Some(bits),
            Self::F32 => Some(widened(bits, 8, 23, 127, true)),
            Self::F16 => Some(widened(bits, 5, 10, 15, true)),
            Self::BF16 => Some(widened(bits, 8, 7, 127, true)),
            Self::F8E5M2 => Some(widened(bits, 5, 2, 15, true)),
            Self::F8E4M3 if bits & 0x7f == 0x7f => Some(NAN | (bits & 0x80) << 56),
            Self::F8E4M3 => Some(widened(bits, 4, 3, 7, false)),
            Self::F8E4M3Fnuz | Self::F8E5M2Fnuz if bits == 0x80 => Some(NAN),
            Self::F8E4M3Fnuz => Some(widened(bits, 4, 3, 8, false)),
            Self::F8E5M2Fnuz => Some(widened(bits, 5, 2, 16, false)),
            Self::F8E8M0 if bits == 0xff => Some(NAN),
            Self::F8E8M0 => Some(widened(bits, 8, 0, 127, false)).map(|value| match bits {
                // Here the smallest exponent is no mark of a subnormal number.
                0 => (1023 - 127) << 52,
                _ => value,
            }),
            Self::Bool if bits > 1 => None,
            Self::Other(_) => None,
            _ => whole(self.number(element)),
        }
    }

    /// The whole number that an element is.
    fn number(self, element: &[u8]) -> i128 {
        let bits = raw(element);
        match self {
            Self::I8 => (bits as i8).into(),
            Self::I16 => (bits as i16).into(),
            Self::I32 => (bits as i32).into(),
            Self::I64 => (bits as i64).into(),
            _ => bits.into(),
        }
    }

    /// An element for a message.
    fn text(self, element: &[u8]) -> String {
        match self {
            Self::Bool => format!("the byte {}", raw(element)),
            Self::F64 => format!("{:?}", f64::from_bits(raw(element))),
            _ => self.number(element).to_string(),
        }
    }
}

/// Elements that are converted at a time.
const PIECE: usize = 64;
/// A quiet NaN.
const NAN: u64 = 0x7ff8 << 48;
/// The mantissa of an `f64`, without its hidden bit.
const MANTISSA: u64 = (1 << 52) - 1;

/// Up to eight little-endian bytes.
fn raw(element: &[u8]) -> u64 {
    element.iter().rev().fold(0, |bits, byte| bits << 8 | u64::from(*byte))
}

/// A number of fewer bits as an `f64`, exactly. With `special`, the largest exponent is for infinities and
/// NaN.
#[expect(clippy::arithmetic_side_effects, reason = "at most 8 bits of exponent and 23 of mantissa")]
fn widened(bits: u64, exponent: u32, mantissa: u32, bias: u64, special: bool) -> u64 {
    let sign = (bits >> (exponent + mantissa) & 1) << 63;
    let largest = (1 << exponent) - 1;
    let (power, low) = (bits >> mantissa & largest, bits & ((1 << mantissa) - 1));
    let fraction = low << (52 - mantissa);
    let magnitude = match (power, low) {
        (0, 0) => 0,
        // Without a hidden bit: the first one that is set becomes it.
        (0, _) => {
            let first = low.ilog2();
            let power = 1024 + u64::from(first) - bias - u64::from(mantissa);
            power << 52 | (low << (52 - first) & MANTISSA)
        }
        _ if special && power == largest => 0x7ff << 52 | fraction,
        _ => (power + 1023 - bias) << 52 | fraction,
    };
    sign | magnitude
}

/// A whole number as an `f64`, if it is one.
#[expect(
    clippy::arithmetic_side_effects,
    reason = "a magnitude is below 2^64, and not 0 where it is shifted"
)]
fn whole(number: i128) -> Option<u64> {
    let sign = u64::from(number < 0) << 63;
    let magnitude = u64::try_from(number.unsigned_abs()).ok()?;
    if magnitude == 0 {
        return Some(0);
    }
    let first = magnitude.ilog2();
    if first - magnitude.trailing_zeros() > 52 {
        return None;
    }
    // The hidden bit moves to the left end and out.
    let fraction = magnitude.unbounded_shl(64 - first) >> 12;
    Some(sign | (1023 + u64::from(first)) << 52 | fraction)
}

/// The bits of an `f64` as those of an `f32`: `rounded` to the nearest one, ties to even, or `None` where it
/// isn't one. No finite number becomes infinite.
#[expect(clippy::arithmetic_side_effects, reason = "powers are below 2^11, and shifts from 29 to 63")]
fn single(bits: u64, rounded: bool) -> Option<u32> {
    let sign = ((bits >> 63) as u32) << 31;
    let (power, low) = (bits >> 52 & 0x7ff, bits & MANTISSA);
    let largest = 0xff_u32 << 23;
    if power == 0x7ff {
        // A NaN without its low bits has to be one.
        let payload = (low >> 29) as u32;
        let quiet = u32::from(low != 0 && payload == 0) << 22;
        return Some(sign | largest | payload | quiet);
    }
    let number = low | u64::from(power != 0) << 52;
    // 897 is the power of the smallest normal number.
    let (base, shift) = match power.checked_sub(897) {
        Some(base) if base < 0xff => ((base as u32) << 23, 29),
        Some(_) => return None,
        None => (0, (29 + 897 - power.max(1)).min(63)),
    };
    let (kept, lost) = (number >> shift, number & ((1 << shift) - 1));
    let half = 1 << (shift - 1);
    let up = lost > half || lost == half && kept & 1 == 1;
    if lost != 0 && !rounded {
        return None;
    }
    let magnitude = base + kept as u32 + u32::from(up);
    (magnitude < largest).then_some(sign | magnitude)
}

impl From<DType> for ElementType {
    fn from(dtype: DType) -> Self {
        match dtype {
            DType::F32 => Self::F32,
            DType::F64 => Self::F64,
            _ => Self::Other(OtherType::new(&dtype.to_string())),
        }
    }
}

impl PartialEq<DType> for ElementType {
    fn eq(&self, other: &DType) -> bool {
        *self == Self::from(*other)
    }
}

impl fmt::Display for ElementType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::F16 => "f16",
            Self::BF16 => "bf16",
            Self::F8E4M3 => "f8_e4m3",
            Self::F8E5M2 => "f8_e5m2",
            Self::F8E4M3Fnuz => "f8_e4m3fnuz",
            Self::F8E5M2Fnuz => "f8_e5m2fnuz",
            Self::F8E8M0 => "f8_e8m0",
            Self::I8 => "i8",
            Self::I16 => "i16",
            Self::I32 => "i32",
            Self::I64 => "i64",
            Self::U8 => "u8",
            Self::U16 => "u16",
            Self::U32 => "u32",
            Self::U64 => "u64",
            Self::Bool => "bool",
            // It may hold commands for the terminal.
            Self::Other(other) => return write!(f, "{}", other.name().escape_debug()),
        })
    }
}

impl OtherType {
    fn new(name: &str) -> Self {
        let mut this = Self { name: [0; 15], length: 0 };
        for char in name.chars() {
            let end = usize::from(this.length).saturating_add(char.len_utf8());
            let Some(place) = this.name.get_mut(this.length.into()..end) else { break };
            char.encode_utf8(place);
            this.length = end as u8;
        }
        this
    }

    /// As the file has it: it may hold anything.
    pub fn name(&self) -> &str {
        let name = self.name.get(..self.length.into()).unwrap_or_default();
        std::str::from_utf8(name).unwrap_or_default()
    }
}

impl fmt::Debug for OtherType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn singles(dtype: ElementType, bytes: &[u8]) -> Vec<f32> {
        let mut values = vec![0.0; bytes.len() / dtype.size().unwrap()];
        dtype.read(bytes, &mut values, false).unwrap_or_else(|it| panic!("{dtype}: {} {}", it.at, it.value));
        values
    }

    /// A value from its fields, in floating point: another way to the same number.
    fn defined(bits: u32, exponent: u32, mantissa: u32, bias: i32) -> f64 {
        let sign = if bits >> (exponent + mantissa) & 1 == 1 { -1.0 } else { 1.0 };
        let power = (bits >> mantissa & ((1 << exponent) - 1)) as i32;
        let low = f64::from(bits & ((1 << mantissa) - 1)) / f64::from(1 << mantissa);
        let hidden = if power == 0 { 0.0 } else { 1.0 };
        sign * (hidden + low) * 2_f64.powi(power.max(1) - bias)
    }

    #[test]
    fn every_number_of_16_and_8_bits_is_its_own() {
        type Case = (ElementType, u32, u32, i32);
        let ieee: [Case; 3] =
            [(ElementType::F16, 5, 10, 15), (ElementType::BF16, 8, 7, 127), (ElementType::F8E5M2, 5, 2, 15)];
        let finite: [Case; 3] = [
            (ElementType::F8E4M3, 4, 3, 7),
            (ElementType::F8E4M3Fnuz, 4, 3, 8),
            (ElementType::F8E5M2Fnuz, 5, 2, 16),
        ];
        for (dtype, exponent, mantissa, bias) in ieee.into_iter().chain(finite) {
            let size = dtype.size().unwrap();
            for bits in 0..1_u32 << (8 * size) {
                let value = singles(dtype, &bits.to_le_bytes()[..size])[0];
                let special = match dtype {
                    ElementType::F8E4M3 => (bits & 0x7f == 0x7f).then_some(f64::NAN),
                    ElementType::F8E4M3Fnuz | ElementType::F8E5M2Fnuz => (bits == 0x80).then_some(f64::NAN),
                    _ if bits >> mantissa & ((1 << exponent) - 1) < (1 << exponent) - 1 => None,
                    _ if bits & ((1 << mantissa) - 1) != 0 => Some(f64::NAN),
                    _ => Some(if bits >> (exponent + mantissa) == 1 {
                        f64::NEG_INFINITY
                    } else {
                        f64::INFINITY
                    }),
                };
                let expected = special.unwrap_or_else(|| defined(bits, exponent, mantissa, bias));
                let same = f64::from(value).to_bits() == expected.to_bits();
                assert!(
                    same || value.is_nan() && expected.is_nan(),
                    "{dtype} {bits:#x}: {value}, {expected}"
                );
                let mut wide = [0.0_f64];
                dtype.read(&bits.to_le_bytes()[..size], &mut wide, false).ok().unwrap();
                let same = wide[0].to_bits() == expected.to_bits();
                assert!(same || wide[0].is_nan() && expected.is_nan(), "{dtype} {bits:#x}: {}", wide[0]);
            }
        }
        for bits in 0..255_u8 {
            assert_eq!(
                f64::from(singles(ElementType::F8E8M0, &[bits])[0]),
                2_f64.powi(i32::from(bits) - 127)
            );
        }
        assert!(singles(ElementType::F8E8M0, &[255])[0].is_nan());
    }

    /// A signalling NaN stays one: the bits of BF16 are those of the upper half.
    #[test]
    fn the_bits_of_bf16_are_the_upper_half() {
        for bits in 0..=u16::MAX {
            let value = singles(ElementType::BF16, &bits.to_le_bytes())[0];
            assert_eq!(value.to_bits(), u32::from(bits) << 16);
        }
    }

    #[test]
    fn double_precision_is_rounded_as_the_processor_does() {
        let mut bits = 0x9e37_79b9_7f4a_7c15_u64;
        let mut seen = [0; 3];
        for i in 0..400_000_u64 {
            bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Around the range of single precision, with many ties.
            let power = (1023 - 155 + (bits >> 33) % 290) << 52;
            let low = if i % 3 == 0 { (bits >> 12) & !((1 << 28) - 1) } else { bits >> 12 };
            let value = f64::from_bits((bits & 1) << 63 | power | low);
            let expected = value as f32;
            let rounded = single(value.to_bits(), true).map(f32::from_bits);
            let exact = single(value.to_bits(), false).map(f32::from_bits);
            if expected.is_infinite() {
                assert_eq!((rounded, exact), (None, None), "{value:e}");
                seen[0] += 1;
                continue;
            }
            assert_eq!(rounded.map(f32::to_bits), Some(expected.to_bits()), "{value:e}");
            assert_eq!(exact.is_some(), f64::from(expected) == value, "{value:e}");
            seen[1] += usize::from(expected.is_subnormal());
            seen[2] += usize::from(exact.is_some());
        }
        assert!(seen.iter().all(|count| *count > 1_000), "{seen:?}");
        for value in [0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY, 5e-324, -5e-324, 1e-45, f64::MIN_POSITIVE]
        {
            let rounded = single(value.to_bits(), true).unwrap();
            assert_eq!(rounded, (value as f32).to_bits(), "{value:e}");
        }
        for value in [1e300, f64::MAX, -3.5e38, 2_f64.powi(128), -2_f64.powi(129), 2_f64.powi(640)] {
            assert_eq!(
                (single(value.to_bits(), true), single(value.to_bits(), false)),
                (None, None),
                "{value:e}"
            );
        }
        assert!(f32::from_bits(single(f64::NAN.to_bits(), false).unwrap()).is_nan());
        assert!(f32::from_bits(single(0x7ff0_0000_0000_0001, false).unwrap()).is_nan());
    }

    #[test]
    fn whole_numbers_are_exact_or_refused() {
        let numbers = |n: i64| [n, -n, n + 1, n - 1, -n - 1, 1 - n];
        let edges: Vec<i64> =
            (0..62).map(|power| 1 << power).flat_map(numbers).chain([i64::MIN, i64::MAX]).collect();
        for number in edges {
            let (mut one, mut two) = ([0.0_f32], [0.0_f64]);
            let bytes = number.to_le_bytes();
            let held = ElementType::I64.read(&bytes, &mut one, true).is_ok();
            assert_eq!(held, number as f32 as i128 == number.into(), "{number}");
            assert!(!held || one[0] == number as f32, "{number}: {}", one[0]);
            let held = ElementType::I64.read(&bytes, &mut two, true).is_ok();
            assert_eq!(held, number as f64 as i128 == number.into(), "{number}");
            assert!(!held || two[0] == number as f64, "{number}: {}", two[0]);
            let positive = number.unsigned_abs() << 1 | 1;
            let held = ElementType::U64.read(&positive.to_le_bytes(), &mut two, false).is_ok();
            assert_eq!(held, positive as f64 as i128 == positive.into(), "{positive}");
        }
        let refused = |dtype: ElementType, bytes: &[u8]| {
            dtype.check::<f32>(bytes, true).err().map(|NotHeld { at, value }| (at, value))
        };
        assert_eq!(singles(ElementType::I8, &[0x80, 0xff, 0x7f]), [-128.0, -1.0, 127.0]);
        assert_eq!(singles(ElementType::U8, &[0x80, 0xff]), [128.0, 255.0]);
        assert_eq!(singles(ElementType::I16, &[0, 0x80, 1, 0]), [-32768.0, 1.0]);
        assert_eq!(singles(ElementType::U16, &[0, 0x80, 1, 0]), [32768.0, 1.0]);
        assert_eq!(singles(ElementType::Bool, &[0, 1]), [0.0, 1.0]);
        assert_eq!(refused(ElementType::Bool, &[0, 1, 7]), Some((2, "the byte 7".to_string())));
        let many: Vec<u8> =
            (0..300_i32).map(|i| if i == 200 { -16_777_217 } else { i }).flat_map(i32::to_le_bytes).collect();
        assert_eq!(refused(ElementType::I32, &many), Some((200, "-16777217".to_string())));
        assert!(ElementType::I32.check::<f64>(&many, false).is_ok());
        assert_eq!(refused(ElementType::U64, &u64::MAX.to_le_bytes()), Some((0, u64::MAX.to_string())));
    }

    #[test]
    fn what_fits_without_a_look_always_reads() {
        let all = [ElementType::F16, ElementType::I8, ElementType::I16, ElementType::U8, ElementType::U16];
        for dtype in all {
            assert!(dtype.fit(DType::F32, false) == Fit::Always);
            let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
            assert!(dtype.check::<f32>(&bytes, false).is_ok(), "{dtype}");
        }
        assert!(ElementType::F32.fit(DType::F64, false) == Fit::Never);
        assert!(ElementType::F32.fit(DType::F64, true) == Fit::Always);
        assert!(ElementType::F64.fit(DType::F32, true) == Fit::IfHeld);
        assert!(ElementType::I32.fit(DType::F64, false) == Fit::Always);
    }

    #[test]
    fn another_type_keeps_its_name() {
        assert_eq!(OtherType::new("C64").name(), "C64");
        assert_eq!(OtherType::new("äääääääää").name(), "äääääää");
        assert_eq!(ElementType::Other(OtherType::new("\u{1b}[2J")).to_string(), "\\u{1b}[2J");
    }
}
