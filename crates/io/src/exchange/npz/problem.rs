use crate::quoted::Quoted;

/// A fault of a file of several arrays.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// It is no zip archive, or a damaged one.
    #[error("its list of arrays can't be read: {}", Quoted(reason))]
    Archive {
        /// The message of the reader of archives.
        reason: String,
    },
    /// A name is not UTF-8.
    #[error("the name of its entry {at} is not UTF-8")]
    Name {
        /// Which entry, from 0.
        at: usize,
    },
    /// Two arrays have the same name.
    #[error("`{}` is there twice", name.escape_debug())]
    Duplicate {
        /// The name.
        name: String,
    },
    /// There is no such array.
    #[error("it has no `{}`: see `Npz::names` for what there is", name.escape_debug())]
    Missing {
        /// The name asked for.
        name: String,
    },
    /// The array is encrypted, or compressed in a way that NumPy doesn't use.
    #[error("it is encrypted, or compressed by a method other than `deflate`")]
    Method,
    /// The archive claims more bytes than so many compressed ones can become.
    #[error("{compressed} compressed bytes can't become the {claimed} that its list claims")]
    Size {
        /// Bytes in the archive.
        compressed: u64,
        /// Bytes of the array with its header.
        claimed: u64,
    },
    /// The bytes are not those that were written.
    #[error("it is damaged: {}", Quoted(reason))]
    Damaged {
        /// The message of the reader of archives.
        reason: String,
    },
}

backrule_tensor::readable! {
    enum Problem {
        Archive { reason },
        Name { at },
        Duplicate { name },
        Missing { name },
        Method,
        Size { compressed, claimed },
        Damaged { reason },
    }
}
