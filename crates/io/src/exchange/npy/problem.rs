use backrule_tensor::DType;

/// A fault of a file of NumPy's.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// Something else.
    #[error("it doesn't begin like a file of NumPy's")]
    NotNpy,
    /// A zip archive, which `numpy.savez` makes of several arrays.
    #[error(
        "it is a zip archive, as several arrays of `numpy.savez` are: `npz::open` reads them, with the feature `npz` \
         of backrule-io"
    )]
    Archive,
    /// Written in a version of the format that is not known.
    #[error("its format is version {major}.{minor}, and 1.0, 2.0 and 3.0 can be read")]
    Version {
        /// The number before the dot.
        major: u8,
        /// The number behind it.
        minor: u8,
    },
    /// Bytes are missing at the end, or there are too many.
    #[error("its header and its elements need {needed} bytes, but it has {found}; copy it again")]
    Length {
        /// Bytes of both.
        needed: u64,
        /// Bytes that are there.
        found: u64,
    },
    /// The header is none of Python's dictionaries, or goes beyond this format.
    #[error("byte {at} of its header: expected {expected}")]
    Header {
        /// Where, from the beginning of the header.
        at: usize,
        /// The syntax that should be there.
        expected: &'static str,
    },
    /// The header lacks a field, has it twice, or has one that doesn't exist.
    #[error("its header should have one `descr`, one `fortran_order`, one `shape`, and nothing else")]
    Fields,
    /// Elements that a tensor can't have.
    #[error("its elements are {}, and only numbers and bools can be read", descr.escape_debug())]
    ElementType {
        /// The header's description of them; no more than 16 characters of it.
        descr: String,
    },
    /// There can be no tensor of this shape.
    #[error("{reason}")]
    Shape {
        /// The reason.
        reason: String,
    },
    /// A number is none of the tensor's element type.
    #[error("it has {value} at element {at}, which {target} can't hold{}", hint(*target))]
    NotHeld {
        /// The first such element in the file's order, as a place in row-major order.
        at: usize,
        /// Its value.
        value: String,
        /// The tensor's element type.
        target: DType,
    },
}

/// The type that may hold the number.
fn hint(target: DType) -> &'static str {
    if target == DType::F32 { "; `f64` holds more, and a tensor of it can be `cast`" } else { "" }
}

backrule_tensor::readable! {
    enum Problem {
        NotNpy,
        Archive,
        Version { major, minor },
        Length { needed, found },
        Header { at, expected },
        Fields,
        ElementType { descr },
        Shape { reason },
        NotHeld { at, value, target },
    }
}
