//! The header: a dictionary in Python's notation, in the forms that NumPy writes.

use std::fmt::Write as _;

use backrule_tensor::{MAX_RANK, Scalar, Shape, Tensor};

use crate::element::ElementType;
use crate::exchange::npy::problem::Problem;

/// Bytes before the header of version 1: `\x93NUMPY`, the version, and the header's length in two bytes.
const PREFIX: usize = 10;

/// The contents of a header.
#[derive(Debug, PartialEq)]
pub(super) struct Header {
    pub(super) dtype: ElementType,
    pub(super) big_endian: bool,
    /// Whether the first axis changes fastest.
    pub(super) fortran: bool,
    pub(super) shape: Shape,
}

/// All before the elements, which begin at a multiple of 64 bytes. With six axes it is 192 bytes at most, so
/// its length fits two bytes.
pub(super) fn encode<T: Scalar>(tensor: &Tensor<T>) -> Vec<u8> {
    let bytes = T::DTYPE.size();
    let mut header = format!("{{'descr': '<f{bytes}', 'fortran_order': False, 'shape': (");
    // As Python writes tuples: one element has a comma.
    let shape = tensor.shape();
    let sizes: Vec<_> = shape.iter().map(usize::to_string).collect();
    // Writing to a text can't fail.
    let _ = write!(header, "{}{}), }}", sizes.join(", "), if sizes.len() == 1 { "," } else { "" });
    let length =
        header.len().saturating_add(PREFIX).saturating_add(1).next_multiple_of(64).saturating_sub(PREFIX);
    let width = length.saturating_sub(1);
    let header = format!("{header:<width$}\n");
    [b"\x93NUMPY\x01\x00", &(length as u16).to_le_bytes()[..], header.as_bytes()].concat()
}

pub(super) fn decode(text: &[u8]) -> Result<Header, Problem> {
    let mut input = Input { text, at: 0 };
    let (mut descr, mut fortran, mut shape) = (None, None, None);
    input.symbol(b'{', "`{`")?;
    while !input.next_is(b'}') {
        let new = match input.string("the name of a field, or `}`")? {
            b"descr" => descr.replace(input.descr()?).is_none(),
            b"fortran_order" => fortran.replace(input.truth()?).is_none(),
            b"shape" => shape.replace(input.sizes()?).is_none(),
            _ => false,
        };
        if !new {
            return Err(Problem::Fields);
        }
        if !input.next_is(b',') {
            input.symbol(b'}', "`,` or `}`")?;
            break;
        }
    }
    input.blanks();
    if input.at < text.len() {
        return Err(input.wrong("nothing else"));
    }
    let (Some((dtype, big_endian)), Some(fortran), Some(shape)) = (descr, fortran, shape) else {
        return Err(Problem::Fields);
    };
    Ok(Header { dtype, big_endian, fortran, shape })
}

/// The rest of the text begins at `at`.
struct Input<'t> {
    text: &'t [u8],
    at: usize,
}

impl<'t> Input<'t> {
    fn wrong(&self, expected: &'static str) -> Problem {
        Problem::Header { at: self.at, expected }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn skip(&mut self, count: usize) {
        self.at = self.at.saturating_add(count);
    }

    /// The bytes up to the first that isn't wanted.
    fn run(&mut self, wanted: impl Fn(u8) -> bool) -> &'t [u8] {
        let rest = self.text.get(self.at..).unwrap_or_default();
        let length = rest.iter().position(|byte| !wanted(*byte)).unwrap_or(rest.len());
        self.skip(length);
        rest.get(..length).unwrap_or_default()
    }

    fn blanks(&mut self) {
        self.run(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n'));
    }

    /// Passes over a symbol, if it comes next.
    fn next_is(&mut self, symbol: u8) -> bool {
        self.blanks();
        let there = self.peek() == Some(symbol);
        self.skip(usize::from(there));
        there
    }

    fn symbol(&mut self, symbol: u8, expected: &'static str) -> Result<(), Problem> {
        if self.next_is(symbol) { Ok(()) } else { Err(self.wrong(expected)) }
    }

    /// The name of a field with the colon behind it.
    fn string(&mut self, expected: &'static str) -> Result<&'t [u8], Problem> {
        let name = self.quoted(expected)?;
        self.symbol(b':', "`:`")?;
        Ok(name)
    }

    /// A text in quotes, without escapes: NumPy writes none where this reads on.
    fn quoted(&mut self, expected: &'static str) -> Result<&'t [u8], Problem> {
        self.blanks();
        let quote = self.peek().filter(|byte| matches!(byte, b'\'' | b'"')).ok_or(self.wrong(expected))?;
        self.skip(1);
        let text = self.run(|byte| byte != quote && byte != b'\\');
        self.symbol(quote, "the end of a text")?;
        Ok(text)
    }

    /// The element type, and whether its bytes stand from the highest to the lowest.
    fn descr(&mut self) -> Result<(ElementType, bool), Problem> {
        if self.next_is(b'[') {
            return Err(Problem::ElementType { descr: "records of several fields".to_string() });
        }
        let text = self.quoted("an element type")?;
        let (order, kind) = text.split_first().unwrap_or((&0, &[]));
        let dtype = match kind {
            b"f2" => ElementType::F16,
            b"f4" => ElementType::F32,
            b"f8" => ElementType::F64,
            b"i1" => ElementType::I8,
            b"i2" => ElementType::I16,
            b"i4" => ElementType::I32,
            b"i8" => ElementType::I64,
            b"u1" => ElementType::U8,
            b"u2" => ElementType::U16,
            b"u4" => ElementType::U32,
            b"u8" => ElementType::U64,
            b"b1" => ElementType::Bool,
            _ => return Err(other(text)),
        };
        match order {
            b'<' => Ok((dtype, false)),
            b'>' => Ok((dtype, true)),
            // Only one byte has no order.
            b'|' if dtype.size() == Some(1) => Ok((dtype, false)),
            _ => Err(other(text)),
        }
    }

    fn truth(&mut self) -> Result<bool, Problem> {
        self.blanks();
        match self.run(|byte| byte.is_ascii_alphanumeric()) {
            b"True" => Ok(true),
            b"False" => Ok(false),
            word => {
                let at = self.at.saturating_sub(word.len());
                Err(Problem::Header { at, expected: "`True` or `False`" })
            }
        }
    }

    /// A tuple of whole numbers.
    fn sizes(&mut self) -> Result<Shape, Problem> {
        self.symbol(b'(', "`(`")?;
        let (mut sizes, mut rank) = ([0; MAX_RANK], 0_usize);
        while !self.next_is(b')') {
            let digits = self.run(|byte| byte.is_ascii_digit());
            let number = std::str::from_utf8(digits).unwrap_or_default().parse::<usize>();
            let Some(size) = sizes.get_mut(rank) else {
                return Err(Problem::Shape { reason: format!("it has more than {MAX_RANK} axes") });
            };
            *size = number.map_err(|_| self.wrong("the size of an axis, or `)`"))?;
            rank = rank.saturating_add(1);
            // As Python 2 wrote long numbers.
            self.next_is(b'L');
            let comma = self.next_is(b',');
            if !comma {
                self.symbol(b')', "`,` or `)`")?;
                // `(3)` is a number.
                if rank == 1 {
                    return Err(self.wrong("a tuple"));
                }
                break;
            }
        }
        let sizes = sizes.get(..rank).unwrap_or_default();
        Shape::new(sizes).map_err(|error| Problem::Shape { reason: error.to_string() })
    }
}

fn other(descr: &[u8]) -> Problem {
    let text = String::from_utf8_lossy(descr.get(..16).unwrap_or(descr));
    Problem::ElementType { descr: format!("of type `{text}`") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(sizes: &[usize]) -> Shape {
        Shape::new(sizes).unwrap()
    }

    #[test]
    fn other_spellings_are_read() {
        let small =
            Header { dtype: ElementType::F32, big_endian: false, fortran: false, shape: shape(&[2, 3]) };
        for text in [
            "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }      \n",
            "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}",
            "{\"shape\":(2,3,),\"fortran_order\":False,\"descr\":\"<f4\"}",
            " { 'shape' : ( 2L , 3L ) , 'descr' : '<f4' , 'fortran_order' : False , } \r\n",
        ] {
            assert_eq!(decode(text.as_bytes()).as_ref(), Ok(&small), "{text}");
        }
        let of = |sizes: &str| {
            decode(format!("{{'descr':'|b1','fortran_order':True,'shape':{sizes}}}").as_bytes())
        };
        for (sizes, expected) in
            [("()", &[][..]), ("(7,)", &[7]), ("(0, 3)", &[0, 3]), ("(1,1,1,1,1,1)", &[1; 6])]
        {
            let header = of(sizes).unwrap();
            assert_eq!(
                (header.dtype, header.fortran, header.shape),
                (ElementType::Bool, true, shape(expected))
            );
        }
    }

    #[test]
    fn what_is_wrong_is_told() {
        let fields = "its header should have one `descr`, one `fortran_order`, one `shape`, and nothing else";
        let of = |descr: &str, order: &str, sizes: &str| {
            format!("{{'descr': {descr}, 'fortran_order': {order}, 'shape': {sizes}, }}\n")
        };
        let fine = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,)";
        for (text, expected) in [
            (String::new(), "byte 0 of its header: expected `{`"),
            ("{".to_string(), "byte 1 of its header: expected the name of a field, or `}`"),
            ("{}".to_string(), fields),
            ("{'a': 1}".to_string(), fields),
            (format!("{fine}, 'shape': (2,)}}"), fields),
            (format!("{fine}, 'x': 1}}"), fields),
            (fine.to_string(), "byte 54 of its header: expected `,` or `}`"),
            (format!("{fine}}}x"), "byte 55 of its header: expected nothing else"),
            (format!("{fine}}}\0"), "byte 55 of its header: expected nothing else"),
            (
                of("'<f4", "False", "()"),
                "its elements are of type `<f4, `, and only numbers and bools can be read",
            ),
            (of("'<f4\\'", "False", "()"), "byte 14 of its header: expected the end of a text"),
            (of("<f4", "False", "()"), "byte 10 of its header: expected an element type"),
            (of("'<f4'", "false", "()"), "byte 34 of its header: expected `True` or `False`"),
            (of("'<f4'", "0", "()"), "byte 34 of its header: expected `True` or `False`"),
            (of("'<f4'", "False", "2"), "byte 50 of its header: expected `(`"),
            (of("'<f4'", "False", "(2)"), "byte 53 of its header: expected a tuple"),
            (of("'<f4'", "False", "(-2,)"), "byte 51 of its header: expected the size of an axis, or `)`"),
            (of("'<f4'", "False", "(,)"), "byte 51 of its header: expected the size of an axis, or `)`"),
            (of("'<f4'", "False", "(1.5,)"), "byte 52 of its header: expected `,` or `)`"),
            (
                of("'<f4'", "False", "(18446744073709551616,)"),
                "byte 71 of its header: expected the size of an axis, or `)`",
            ),
            (of("'<f4'", "False", "(1,1,1,1,1,1,1)"), "it has more than 6 axes"),
            (
                of("'<c8'", "False", "()"),
                "its elements are of type `<c8`, and only numbers and bools can be read",
            ),
            (
                of("'|O'", "False", "()"),
                "its elements are of type `|O`, and only numbers and bools can be read",
            ),
            (
                of("'|f4'", "False", "()"),
                "its elements are of type `|f4`, and only numbers and bools can be read",
            ),
            (
                of("'\u{1b}[2J'", "False", "()"),
                "its elements are of type `\\u{1b}[2J`, and only numbers and bools can be read",
            ),
            (
                of("[('a', '<f4')]", "False", "()"),
                "its elements are records of several fields, and only numbers and bools can be read",
            ),
        ] {
            let found = decode(text.as_bytes()).unwrap_err().to_string();
            assert_eq!(found, expected, "{text}");
        }
        let huge = decode(of("'<f4'", "False", "(4294967296, 4294967296)").as_bytes());
        assert!(matches!(huge, Err(Problem::Shape { .. })), "{huge:?}");
    }
}
