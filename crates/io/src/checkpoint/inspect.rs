//! A checkpoint as text.

use std::fmt;

use crate::checkpoint::{Checkpoint, Source};
use crate::format::envelope::VERSION;
use crate::format::section;
use crate::run::Run;

/// Everything but the elements, for people: see [`Checkpoint::open`].
impl fmt::Display for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.source {
            Source::Checkpoint { length } => write!(f, "format {VERSION}, {length} bytes, intact")?,
            #[cfg(feature = "safetensors")]
            Source::Safetensors { length } => write!(f, "safetensors, {length} bytes, without checksums")?,
        }
        let Run { epoch, step, position, seed, program } = self.run();
        write!(f, "\nepoch {epoch}, step {step}, position {position}")?;
        if let Some(seed) = seed {
            write!(f, ", seed {seed}")?;
        }
        if let Some(program) = program {
            write!(f, "\nprogram: {}", program.escape_debug())?;
        }
        for (section, content) in self.header.sections() {
            write!(f, "\n{section}: ")?;
            section::show(content, f)?;
        }
        if let Some(optimizer) = self.optimizer() {
            write!(f, "\noptimizer: {} steps", optimizer.steps)?;
            if !optimizer.options.is_empty() {
                write!(f, ", {}", optimizer.options)?;
            }
        }
        let stored = || self.stored();
        let bytes = stored().fold(0_usize, |sum, tensor| sum.saturating_add(tensor.size));
        write!(f, "\n{} tensors, {bytes} bytes", stored().count())?;
        for tensor in stored() {
            write!(f, "\n  {}, {} bytes, crc {:08x}", tensor.info(), tensor.size, tensor.crc)?;
        }
        Ok(())
    }
}
