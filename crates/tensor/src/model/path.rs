use std::fmt;

/// The place of a tensor in a network, such as `encoder.fc1.weight`: a borrowed chain of names, so
/// walking over a network allocates nothing.
///
/// ```
/// use backrule_tensor::Path;
///
/// let fc1 = Path::ROOT.join("encoder");
/// let weight = fc1.join("weight");
/// assert_eq!(weight.to_string(), "encoder.weight");
/// assert!(weight == "encoder.weight");
/// ```
#[derive(Clone, Copy)]
pub struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    name: &'a str,
}

impl<'a> Path<'a> {
    /// The outermost place, without a name.
    pub const ROOT: Path<'static> = Path { parent: None, name: "" };

    /// Bytes that a path has at most, where networks are built, read and saved. Without a limit, a list of
    /// the tensors of a network is as long as their number times the depth of the network times the length of
    /// a name.
    pub const MAX: usize = 512;

    /// The place called `name` within this one.
    pub fn join<'b>(&'b self, name: &'b str) -> Path<'b>
    where
        'a: 'b,
    {
        Path { parent: Some(self), name }
    }

    /// The bytes of its text.
    ///
    /// ```
    /// use backrule_tensor::Path;
    ///
    /// let encoder = Path::ROOT.join("encoder");
    /// assert_eq!(encoder.join("").join("weight").bytes(), "encoder.weight".len());
    /// ```
    pub fn bytes(&self) -> usize {
        let before = self.parent.map_or(0, Path::bytes);
        before + usize::from(before > 0 && !self.name.is_empty()) + self.name.len()
    }

    /// Whether this is `text`, without building a string.
    fn is(&self, text: &str) -> bool {
        match (without_suffix(text, self.name), self.parent) {
            (None, _) => false,
            (Some(rest), None) => rest.is_empty(),
            (Some(rest), Some(parent)) if self.name.is_empty() => parent.is(rest),
            (Some(rest), Some(parent)) => match rest.strip_suffix('.') {
                Some(rest) => !rest.is_empty() && parent.is(rest),
                None => rest.is_empty() && parent.is(""),
            },
        }
    }
}

/// As `str::strip_suffix`, for names: an optimizer's step compares each one, and a call to `memcmp` takes
/// longer than the comparison of a few bytes.
fn without_suffix<'t>(text: &'t str, name: &str) -> Option<&'t str> {
    let rest = text.len().checked_sub(name.len())?;
    let same = text.bytes().rev().zip(name.bytes().rev()).all(|(a, b)| a == b);
    if same { text.get(..rest) } else { None }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
            if !self.name.is_empty() && !parent.is("") {
                f.write_str(".")?;
            }
        }
        f.write_str(self.name)
    }
}

impl fmt::Debug for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_string(), f)
    }
}

impl PartialEq<str> for Path<'_> {
    fn eq(&self, text: &str) -> bool {
        self.is(text)
    }
}

impl PartialEq<&str> for Path<'_> {
    fn eq(&self, text: &&str) -> bool {
        self.is(text)
    }
}

impl PartialEq<String> for Path<'_> {
    fn eq(&self, text: &String) -> bool {
        self.is(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_its_text_and_nothing_else() {
        let root = Path::ROOT;
        let encoder = root.join("encoder");
        let unnamed = encoder.join("");
        let weight = unnamed.join("fc1.weight");
        assert_eq!(weight.to_string(), "encoder.fc1.weight");
        assert!(weight == "encoder.fc1.weight");
        for other in ["fc1.weight", "encoder.weight", "xencoder.fc1.weight", "", ".encoder"] {
            assert!(weight != other, "{other}");
        }
        assert!(root == "" && encoder == "encoder" && unnamed == "encoder");
        assert!(encoder != ".encoder" && encoder != "");
        assert_eq!(root.join("").join("a").to_string(), "a");
        assert!(root.join("").join("a") == "a");
    }
}
