//! The header: an object in JSON that has only texts, whole numbers, and a fixed depth. So no general parser is needed,
//! and none that recurses.

use std::borrow::Cow;
use std::fmt::Write;

use backrule_tensor::{DType, MAX_RANK, Shape};

use super::Problem;
use crate::header::Entry;
use crate::limits::{self, MAX_HEADER, MAX_PATH, MAX_TENSORS};
use crate::{LoadProblem, SaveError};

const METADATA: &str = "__metadata__";

/// A tensor as the header describes it; its place is counted from the header's end.
pub(super) struct Stored<'j> {
    pub(super) name: Cow<'j, str>,
    pub(super) dtype: DType,
    pub(super) shape: Shape,
    begin: u64,
    end: u64,
}

/// The file up to its elements. Readers map files into memory, so that these begin at a multiple of eight.
pub(super) fn encode(entries: &[Entry<'_>]) -> Result<Vec<u8>, SaveError> {
    let mut json = String::from(r#"{"__metadata__":{"format":"pt"}"#);
    let mut begin = 0_usize;
    for entry in entries {
        if entry.path == METADATA {
            return Err(SaveError::Reserved { path: entry.path.to_string() });
        }
        json.push_str(",\"");
        for char in entry.path.chars() {
            match char {
                '"' | '\\' => json.extend(['\\', char]),
                // Writing to a text can't fail.
                '\0'..' ' => drop(write!(json, "\\u{:04x}", u32::from(char))),
                _ => json.push(char),
            }
        }
        let dtype = match entry.dtype {
            DType::F32 => "F32",
            DType::F64 => "F64",
        };
        let sizes: Vec<_> = entry.shape.iter().map(usize::to_string).collect();
        let end = begin.saturating_add(entry.size());
        let _ = write!(
            json,
            r#"":{{"dtype":"{dtype}","shape":[{}],"data_offsets":[{begin},{end}]}}"#,
            sizes.join(",")
        );
        begin = end;
    }
    json.push('}');
    while !json.len().is_multiple_of(8) {
        json.push(' ');
    }
    limits::check("bytes of the header", json.len(), MAX_HEADER)?;
    Ok([&(json.len() as u64).to_le_bytes(), json.as_bytes()].concat())
}

/// All tensors in the order of their elements, which fill `size` bytes without gap or overlap.
pub(super) fn decode(json: &str, size: u64) -> Result<Vec<Stored<'_>>, LoadProblem> {
    let mut input = Json { text: json, at: 0 };
    let mut tensors = Vec::new();
    let mut metadata = false;
    // The format has it that the first byte tells what it is.
    if !json.starts_with('{') {
        return Err(input.expected("`{`").into());
    }
    input.list('{', '}', |input| {
        let name = input.key()?;
        if name == METADATA {
            if std::mem::replace(&mut metadata, true) {
                return Err(Problem::Duplicate { name: name.into_owned() }.into());
            }
            return input.list('{', '}', |input| {
                input.key()?;
                Ok(input.string().map(drop)?)
            });
        }
        limits::check("bytes of a tensor's name", name.len(), MAX_PATH)?;
        limits::check("tensors", tensors.len().saturating_add(1), MAX_TENSORS)?;
        tensors.push(tensor(input, name)?);
        Ok(())
    })?;
    input.end()?;

    tensors.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    for (a, b) in tensors.iter().zip(tensors.iter().skip(1)) {
        if a.name == b.name {
            return Err(Problem::Duplicate { name: a.name.to_string() }.into());
        }
    }
    tensors.sort_unstable_by(|a, b| (a.begin, a.end, &a.name).cmp(&(b.begin, b.end, &b.name)));
    let mut expected = 0;
    for Stored { name, begin, end, .. } in &tensors {
        if *begin != expected {
            return Err(Problem::Order { name: name.to_string(), begin: *begin, expected }.into());
        }
        expected = *end;
    }
    if expected == size { Ok(tensors) } else { Err(Problem::Length { needed: expected, found: size }.into()) }
}

fn tensor<'j>(input: &mut Json<'j>, name: Cow<'j, str>) -> Result<Stored<'j>, LoadProblem> {
    let (mut dtype, mut shape, mut place) = (None, None, None);
    input.list('{', '}', |input| {
        let field = input.key()?;
        let known = match &*field {
            "dtype" => dtype.replace(element_type(input, &name)?).is_none(),
            "shape" => shape.replace(sizes(input, &name)?).is_none(),
            "data_offsets" => place.replace(offsets(input)?).is_none(),
            _ => false,
        };
        if known { Ok(()) } else { Err(Problem::Fields { name: name.to_string() }.into()) }
    })?;
    let (Some(dtype), Some(shape), Some((begin, end))) = (dtype, shape, place) else {
        return Err(Problem::Fields { name: name.into_owned() }.into());
    };
    // A shape is proof that eight bytes per element fit the address space.
    let needed = shape.elements().saturating_mul(dtype.size()) as u64;
    if end.checked_sub(begin) != Some(needed) {
        return Err(Problem::Size { name: name.into_owned(), begin, end, needed }.into());
    }
    Ok(Stored { name, dtype, shape, begin, end })
}

fn element_type(input: &mut Json<'_>, name: &str) -> Result<DType, LoadProblem> {
    match &*input.string()? {
        "F32" => Ok(DType::F32),
        "F64" => Ok(DType::F64),
        other => {
            let dtype = other.chars().take(16).collect();
            Err(Problem::ElementType { name: name.to_string(), dtype }.into())
        }
    }
}

fn sizes(input: &mut Json<'_>, name: &str) -> Result<Shape, LoadProblem> {
    let wrong = |reason| Problem::Shape { name: name.to_string(), reason };
    let mut sizes = Vec::new();
    input.list('[', ']', |input| {
        let size = input.number()?;
        if sizes.len() == MAX_RANK {
            return Err(wrong(format!("more than {MAX_RANK} axes")).into());
        }
        sizes.push(usize::try_from(size).map_err(|error| wrong(format!("an axis of {size}: {error}")))?);
        Ok(())
    })?;
    Ok(Shape::new(&sizes).map_err(|error| wrong(error.to_string()))?)
}

fn offsets(input: &mut Json<'_>) -> Result<(u64, u64), LoadProblem> {
    input.expect('[', "`[`")?;
    let begin = input.number()?;
    input.expect(',', "`,`")?;
    let end = input.number()?;
    input.expect(']', "`]`")?;
    Ok((begin, end))
}

/// A text that is read from the beginning to the end.
struct Json<'j> {
    text: &'j str,
    at: usize,
}

impl<'j> Json<'j> {
    fn rest(&self) -> &'j str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn skip(&mut self, bytes: usize) {
        self.at = self.at.saturating_add(bytes);
    }

    fn expected(&self, expected: &'static str) -> Problem {
        Problem::Json { at: self.at, expected }
    }

    fn space(&mut self) {
        let rest = self.rest();
        let spaces = rest.bytes().take_while(|byte| b" \t\n\r".contains(byte)).count();
        self.skip(spaces);
    }

    /// Passes over white space, and then over an ASCII `char` if it is there.
    fn has(&mut self, char: char) -> bool {
        self.space();
        let has = self.rest().starts_with(char);
        self.skip(usize::from(has));
        has
    }

    fn expect(&mut self, char: char, name: &'static str) -> Result<(), Problem> {
        if self.has(char) { Ok(()) } else { Err(self.expected(name)) }
    }

    fn end(&mut self) -> Result<(), Problem> {
        self.space();
        if self.rest().is_empty() { Ok(()) } else { Err(self.expected("its end")) }
    }

    /// An object or an array: `item` is called where one begins.
    fn list(
        &mut self,
        open: char,
        close: char,
        mut item: impl FnMut(&mut Self) -> Result<(), LoadProblem>,
    ) -> Result<(), LoadProblem> {
        self.expect(open, if open == '{' { "`{`" } else { "`[`" })?;
        if self.has(close) {
            return Ok(());
        }
        loop {
            item(self)?;
            if self.has(close) {
                return Ok(());
            }
            self.expect(',', if close == '}' { "`,` or `}`" } else { "`,` or `]`" })?;
        }
    }

    /// A name and the colon behind it.
    fn key(&mut self) -> Result<Cow<'j, str>, Problem> {
        let key = self.string()?;
        self.expect(':', "`:`")?;
        Ok(key)
    }

    /// Borrowed if nothing in it is escaped.
    fn string(&mut self) -> Result<Cow<'j, str>, Problem> {
        self.expect('"', "a text")?;
        let mut unescaped: Option<String> = None;
        loop {
            let rest = self.rest();
            let plain = rest.find(|char| matches!(char, '"' | '\\' | '\0'..' ')).unwrap_or(rest.len());
            let part = rest.get(..plain).unwrap_or_default();
            self.skip(plain);
            match (self.rest().bytes().next(), &mut unescaped) {
                (Some(b'"'), None) => {
                    self.skip(1);
                    return Ok(Cow::Borrowed(part));
                }
                (Some(b'"'), Some(text)) => {
                    self.skip(1);
                    text.push_str(part);
                    return Ok(Cow::Owned(std::mem::take(text)));
                }
                (Some(b'\\'), text) => {
                    self.skip(1);
                    let text = text.get_or_insert_default();
                    text.push_str(part);
                    text.push(self.escaped()?);
                }
                _ => return Err(self.expected("the end of a text")),
            }
        }
    }

    /// What stands behind a backslash.
    fn escaped(&mut self) -> Result<char, Problem> {
        let wrong = self.expected("an escaped character");
        let char = match self.rest().bytes().next() {
            Some(byte @ (b'"' | b'\\' | b'/')) => char::from(byte),
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.skip(1);
                let first = self.hex().ok_or_else(|| wrong.clone())?;
                let mut units = vec![first];
                // Half a character of UTF-16: the other half follows.
                if matches!(first, 0xD800..0xDC00) {
                    if !self.rest().starts_with("\\u") {
                        return Err(wrong);
                    }
                    self.skip(2);
                    units.push(self.hex().ok_or_else(|| wrong.clone())?);
                }
                return match char::decode_utf16(units).next() {
                    Some(Ok(char)) => Ok(char),
                    _ => Err(wrong),
                };
            }
            _ => return Err(wrong),
        };
        self.skip(1);
        Ok(char)
    }

    fn hex(&mut self) -> Option<u16> {
        let digits = self.rest().get(..4).filter(|it| it.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
        self.skip(4);
        u16::from_str_radix(digits, 16).ok()
    }

    /// A whole number. A sign, a fraction or an exponent is refused, by whoever expects what comes next.
    fn number(&mut self) -> Result<u64, Problem> {
        self.space();
        let rest = self.rest();
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number = rest.get(..digits).unwrap_or_default();
        let canonical = number == "0" || !number.starts_with('0');
        match number.parse() {
            Ok(value) if canonical => {
                self.skip(digits);
                Ok(value)
            }
            _ => Err(self.expected("a whole number of 64 bits")),
        }
    }
}
