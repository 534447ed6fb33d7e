use crate::format::problem::{LoadProblem, Part};

/// Whether checksums are compared. A forger computes matching ones, so all other checks hold without them; a
/// fuzzer leaves the comparison out and reaches those checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Checksums {
    Compare,
    #[cfg(feature = "fuzzing")]
    Ignore,
}

impl Checksums {
    pub(crate) fn check(
        self,
        computed: u32,
        stored: u32,
        part: impl FnOnce() -> Part,
    ) -> Result<(), LoadProblem> {
        let same = match self {
            Self::Compare => computed == stored,
            #[cfg(feature = "fuzzing")]
            Self::Ignore => true,
        };
        if same { Ok(()) } else { Err(LoadProblem::Checksum(part())) }
    }
}
