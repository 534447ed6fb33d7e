//! Options in the header: their number, then for each one its name and its value. A value is its kind and
//! itself; a list is the number of its values and these.

use std::io::Write;

use backrule_tensor::{OptionValue, Options, memory};

use crate::format::codec::{get, put};
use crate::format::limits::{
    self, LimitError, MAX_OPTION_NAME, MAX_OPTION_NESTING, MAX_OPTION_VALUES, MAX_OPTION_WORD, MAX_OPTIONS,
};
use crate::format::problem::{LoadProblem, Malformed};

const NUMBER: u8 = 1;
const WHOLE: u8 = 2;
const FLAG: u8 = 3;
const WORD: u8 = 4;
const LIST: u8 = 5;

/// Appends options. That no name stands twice is the caller's to check.
pub(crate) fn encode(out: &mut impl Write, options: &Options) -> Result<(), LimitError> {
    let mut values = Values::default();
    limits::check("options", options.iter().len(), MAX_OPTIONS)?;
    put(out, options.iter().len() as u32)?;
    for (name, value) in options.iter() {
        limits::check("bytes of an option's name", name.len(), MAX_OPTION_NAME)?;
        put(out, name)?;
        encode_value(out, value, 0, &mut values)?;
    }
    Ok(())
}

fn encode_value(
    out: &mut impl Write,
    value: &OptionValue,
    depth: usize,
    values: &mut Values,
) -> Result<(), LimitError> {
    match value {
        OptionValue::Number(value) => put(out, (NUMBER, *value)),
        OptionValue::Whole(value) => put(out, (WHOLE, *value)),
        OptionValue::Flag(value) => put(out, (FLAG, *value)),
        OptionValue::Word(word) => {
            limits::check("bytes of an option's word", word.len(), MAX_OPTION_WORD)?;
            put(out, (WORD, word.as_str()))
        }
        OptionValue::List(list) => {
            let depth = values.list(depth, list.len())?;
            put(out, (LIST, list.len() as u32))?;
            list.iter().try_for_each(|value| encode_value(out, value, depth, values))
        }
        // A kind that a later version of backrule-tensor has.
        _ => Err(LimitError::new("options of a kind that this version can't write", 1, 0)),
    }
}

/// Splits options off the input.
pub(crate) fn decode(input: &mut &[u8]) -> Result<Options, LoadProblem> {
    let mut options = Options::new();
    let mut values = Values::default();
    let count: u32 = get(input, "the number of options")?;
    limits::check("options", usize::try_from(count).unwrap_or(usize::MAX), MAX_OPTIONS)?;
    for _ in 0..count {
        let name: &str = get(input, "an option's name")?;
        limits::check("bytes of an option's name", name.len(), MAX_OPTION_NAME)?;
        if options.iter().any(|(other, _)| other == name) {
            return Err(Malformed::DuplicateOption { name: name.to_string() }.into());
        }
        let value = decode_value(input, name, 0, &mut values)?;
        options = options.with(name, value);
    }
    Ok(options)
}

fn decode_value(
    input: &mut &[u8],
    name: &str,
    depth: usize,
    values: &mut Values,
) -> Result<OptionValue, LoadProblem> {
    Ok(match get(input, "an option's kind")? {
        NUMBER => OptionValue::Number(get(input, "an option")?),
        WHOLE => OptionValue::Whole(get(input, "an option")?),
        FLAG => OptionValue::Flag(get(input, "an option")?),
        WORD => {
            let word: &str = get(input, "an option")?;
            limits::check("bytes of an option's word", word.len(), MAX_OPTION_WORD)?;
            OptionValue::Word(word.to_string())
        }
        LIST => {
            let count: u32 = get(input, "the number of an option's values")?;
            let count = usize::try_from(count).unwrap_or(usize::MAX);
            let depth = values.list(depth, count)?;
            let mut list = memory::room("load", count)?;
            for _ in 0..count {
                list.push(decode_value(input, name, depth, values)?);
            }
            OptionValue::List(list)
        }
        code => return Err(Malformed::OptionKind { name: name.to_string(), code }.into()),
    })
}

/// Counts the values of all lists, so a file's claim stays small beside its length.
#[derive(Default)]
struct Values(usize);

impl Values {
    /// A list of so many values within `depth` others; gives the depth of its values.
    fn list(&mut self, depth: usize, count: usize) -> Result<usize, LimitError> {
        let depth = depth.saturating_add(1);
        limits::check("lists within each other in an option", depth, MAX_OPTION_NESTING)?;
        self.0 = self.0.saturating_add(count);
        limits::check("values in the lists of all options", self.0, MAX_OPTION_VALUES)?;
        Ok(depth)
    }
}
