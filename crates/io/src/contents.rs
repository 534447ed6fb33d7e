use std::fmt;
use std::io::BufReader;
use std::path::Path;

use backrule_tensor::Options;
use serde::de::DeserializeOwned;

use crate::header::Header;
use crate::reader::{self, Checksums};
use crate::{Checkpoint, LoadError, Section, SectionError, TensorInfo, file, section};

/// What is in a file, short of the elements: made by [`Checkpoint::inspect`].
///
/// As text it is a list of everything, for people: `cargo run --example inspect -- FILE` prints it.
#[derive(Clone)]
#[non_exhaustive]
pub struct Contents {
    /// The version of the format.
    pub version: u32,
    /// Bytes of the file.
    pub length: u64,
    /// As [`Checkpoint::epoch`].
    pub epoch: u64,
    /// As [`Checkpoint::step`].
    pub step: u64,
    /// As [`Checkpoint::position`].
    pub position: u64,
    /// As [`Checkpoint::seed`].
    pub seed: Option<u64>,
    /// As [`Checkpoint::program`].
    pub program: Option<String>,
    /// As [`Checkpoint::optimizer_steps`].
    pub optimizer_steps: Option<u64>,
    /// The optimiser's options; empty without an optimiser.
    pub options: Options,
    header: Header,
}

/// A tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredTensor {
    /// Whose it is, its path, element type and shape.
    pub info: TensorInfo,
    /// Bytes of its elements.
    pub bytes: usize,
    /// CRC-32 of these bytes.
    pub crc: u32,
}

impl Checkpoint {
    /// Reads and verifies a file without keeping its elements, and tells what is in it. No network is needed, and less
    /// than 1 MiB of memory besides the file's header.
    ///
    /// ```
    /// # use backrule_io::Checkpoint;
    /// # use backrule_io::tensor::Tensor;
    /// # let folder = std::env::temp_dir().join(format!("backrule-inspect-doc-{}", std::process::id()));
    /// # std::fs::create_dir_all(&folder)?;
    /// # let path = folder.join("model.brk");
    /// let net = vec![("fc.weight", Tensor::from([[1.0_f32, 2.0]])), ("fc.bias", Tensor::from([0.5]))];
    /// Checkpoint::of(&net).epoch(3).seed(42).metadata(&("first try".to_string(), f64::NAN))?.save(&path)?;
    /// assert_eq!(
    ///     Checkpoint::inspect(&path)?.to_string(),
    ///     r#"format 1, 196 bytes, intact
    /// epoch 3, step 0, position 0, seed 42
    /// metadata: ["first try", NaN]
    /// 2 tensors, 12 bytes
    ///   network `fc.weight` f32 [1, 2], 8 bytes, crc 2e3fa576
    ///   network `fc.bias` f32 [1], 4 bytes, crc 9722f221"#
    /// );
    /// # std::fs::remove_dir_all(&folder)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`load`](Self::load).
    pub fn inspect(path: impl AsRef<Path>) -> Result<Contents, LoadError> {
        let path = path.as_ref();
        file::open(path)
            .and_then(|(file, length)| {
                let mut input = BufReader::with_capacity(reader::BUFFER, file);
                let (header, ()) =
                    reader::read(&mut input, length, Checksums::Compare, |_| Ok(()), |(), _| {})?;
                Ok(Contents::new(header, length))
            })
            .map_err(|problem| LoadError { file: Some(path.to_path_buf()), problem })
    }
}

impl Contents {
    fn new(header: Header, length: u64) -> Self {
        let run = header.run.clone();
        let optimizer = run.optimizer;
        Self {
            version: crate::envelope::VERSION,
            length,
            epoch: run.epoch,
            step: run.step,
            position: run.position,
            seed: run.seed,
            program: run.program,
            optimizer_steps: optimizer.as_ref().map(|optimizer| optimizer.steps),
            options: optimizer.map_or(Options::new(), |optimizer| optimizer.options),
            header,
        }
    }

    /// All tensors, in the order of their elements in the file.
    pub fn tensors(&self) -> impl Iterator<Item = StoredTensor> {
        let stored = |entry: crate::header::Entry<'_>| StoredTensor {
            info: entry.info(),
            bytes: entry.size(),
            crc: entry.crc,
        };
        self.header.entries().map(stored)
    }

    /// The sections that there are.
    pub fn sections(&self) -> impl Iterator<Item = Section> {
        self.header.sections().map(|(section, _)| section)
    }

    /// As [`Checkpoint::section`].
    ///
    /// # Errors
    /// When it was not saved, or is not an `M`.
    pub fn section<M: DeserializeOwned>(&self, section: Section) -> Result<M, SectionError> {
        self.header.value(section)
    }
}

impl fmt::Display for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, length, epoch, step, position, .. } = self;
        write!(
            f,
            "format {version}, {length} bytes, intact\nepoch {epoch}, step {step}, position {position}"
        )?;
        if let Some(seed) = self.seed {
            write!(f, ", seed {seed}")?;
        }
        if let Some(program) = &self.program {
            write!(f, "\nprogram: {}", program.escape_debug())?;
        }
        for (section, content) in self.header.sections() {
            write!(f, "\n{section}: ")?;
            section::show(content, f)?;
        }
        if let Some(steps) = self.optimizer_steps {
            write!(f, "\noptimizer: {steps} steps")?;
            if !self.options.is_empty() {
                write!(f, ", {}", self.options)?;
            }
        }
        let tensors = || self.header.entries();
        let bytes = tensors().fold(0_usize, |sum, entry| sum.saturating_add(entry.size()));
        write!(f, "\n{} tensors, {bytes} bytes", tensors().count())?;
        for tensor in self.tensors() {
            write!(f, "\n  {tensor}")?;
        }
        Ok(())
    }
}

/// The same as its text: the elements were not kept.
impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for StoredTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { info, bytes, crc } = self;
        write!(f, "{info}, {bytes} bytes, crc {crc:08x}")
    }
}
