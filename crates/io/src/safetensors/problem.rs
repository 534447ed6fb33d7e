/// What is wrong with a safetensors file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// It is shorter than the length of a header.
    #[error("its {found} bytes are too few: is it a safetensors file?")]
    Short {
        /// How long it is.
        found: u64,
    },
    /// The header ends behind the file's end.
    #[error(
        "its first 8 bytes announce a header of {claimed} bytes, but {there} follow: is it a safetensors file, and whole?"
    )]
    HeaderLength {
        /// Bytes of the header.
        claimed: u64,
        /// Bytes that are there.
        there: u64,
    },
    /// The header is not an object in JSON as this format wants it.
    #[error("byte {at} of its header: {expected} expected")]
    Json {
        /// Where, in bytes from the header's beginning.
        at: usize,
        /// What should be there.
        expected: &'static str,
    },
    /// Something has the same name twice.
    #[error("`{}` is there twice", name.escape_debug())]
    Duplicate {
        /// The tensor's name, or `__metadata__`.
        name: String,
    },
    /// A tensor's description lacks a field, has it twice, or has one that doesn't exist.
    #[error("`{}` should have one `dtype`, one `shape`, one `data_offsets`, and nothing else", name.escape_debug())]
    Fields {
        /// The tensor's name.
        name: String,
    },
    /// Elements of a type that this crate doesn't have.
    #[error(
        "`{}` has elements of type `{}`, and only F32 and F64 can be read: convert it, or leave it out",
        name.escape_debug(), dtype.escape_debug()
    )]
    ElementType {
        /// The tensor's name.
        name: String,
        /// The type; no more than 16 characters of it.
        dtype: String,
    },
    /// There can be no tensor of this shape.
    #[error("`{}`: {reason}", name.escape_debug())]
    Shape {
        /// The tensor's name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor's place has another size than its elements.
    #[error("`{}` stands from byte {begin} to {end}, but its elements need {needed}", name.escape_debug())]
    Size {
        /// The tensor's name.
        name: String,
        /// Where it begins, from the end of the header.
        begin: u64,
        /// Where it ends.
        end: u64,
        /// Bytes of its elements.
        needed: u64,
    },
    /// Tensors overlap, or there is a gap between them.
    #[error("`{}` begins at byte {begin}, but what stands before it ends at {expected}", name.escape_debug())]
    Order {
        /// The tensor's name.
        name: String,
        /// Where it begins, from the end of the header.
        begin: u64,
        /// Where it should begin.
        expected: u64,
    },
    /// Bytes are missing at the end, or there are too many.
    #[error("its tensors need {needed} bytes, but {found} follow its header; copy it again")]
    Length {
        /// Bytes of all elements.
        needed: u64,
        /// Bytes behind the header.
        found: u64,
    },
}
