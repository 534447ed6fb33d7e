use crate::quoted::Quoted;

/// A fault of a safetensors file.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
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
    /// The header is not UTF-8.
    #[error("byte {at} of its header is not UTF-8")]
    Utf8 {
        /// Where, in bytes from the beginning of the header.
        at: usize,
    },
    /// The header is not an object in JSON as this format demands it.
    #[error("line {line}, column {column} of its header: {}", Quoted(reason))]
    Json {
        /// The line, from 1.
        line: usize,
        /// The column in bytes, from 1; 0 before the first one.
        column: usize,
        /// The fault there. It may quote the file, but no more than 80 characters.
        reason: String,
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
    /// There can be no tensor of this shape.
    #[error("`{}`: {reason}", name.escape_debug())]
    Shape {
        /// The tensor's name.
        name: String,
        /// The reason.
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

impl Problem {
    pub(crate) fn json(error: &serde_json::Error) -> Self {
        let (line, column) = (error.line(), error.column());
        let place = format!(" at line {line} column {column}");
        let text = error.to_string();
        let reason = text.strip_suffix(&place).unwrap_or(&text).chars().take(80).collect();
        Self::Json { line, column, reason }
    }
}

backrule_tensor::readable! {
    enum Problem {
        Short { found },
        HeaderLength { claimed, there },
        Utf8 { at },
        Json { line, column, reason },
        Duplicate { name },
        Fields { name },
        Shape { name, reason },
        Size { name, begin, end, needed },
        Order { name, begin, expected },
        Length { needed, found },
    }
}
