//! A small parser for the command line.

use std::{
    error,
    ffi::OsString,
    fmt::{self, Display},
    io::{self, Write},
    mem,
    path::PathBuf,
    process,
    str::FromStr,
};

/// What is expected of a value, and whether it holds.
///
/// The text completes the message "expected …, got …", for a value that does not parse as well.
/// Mind that `NaN` and `inf` parse as floating-point numbers.
pub type Check<T> = (&'static str, fn(&T) -> bool);

/// The command line, taken apart option by option.
///
/// Each call declares an option as `--help` shows it and returns its value at once, so that the two
/// cannot drift apart. A mistake does not interrupt: a default stands in until
/// [`finish`](Self::finish) tells it, so do nothing with the values before.
///
/// A value is written `--name VALUE` or `--name=VALUE`; it may begin with two dashes in the latter.
///
/// ```
/// use backrule_examples::args::{Args, Check};
///
/// const COUNT: Check<usize> = ("a whole number above 0", |n| *n > 0);
///
/// let words = ["--epochs", "20", "--hidden=64,32"]; // Args::from_env takes the program's own
/// let mut args = Args::new("digits", "Learns to read digits.", words);
/// let epochs = args.option("--epochs N", "passes over the data", 50, COUNT);
/// let hidden = args.list("--hidden LIST", "units, layer by layer", &[32], COUNT);
/// let resume = args.path("--resume FILE", "checkpoint to start from");
/// args.finish().unwrap_or_else(|stop| stop.exit());
///
/// assert_eq!((epochs, hidden, resume), (20, vec![64, 32], None));
/// ```
#[derive(Debug)]
pub struct Args {
    program: &'static str,
    about: &'static str,
    words: Vec<String>,
    /// How each option is written, and what it is for.
    declared: Vec<(&'static str, String)>,
    mistake: Option<String>,
}

const HELP: &str = "--help, -h";

impl Args {
    /// The command line of this program.
    #[must_use]
    pub fn from_env(program: &'static str, about: &'static str) -> Self {
        Self::new(program, about, std::env::args_os().skip(1))
    }

    /// A command line, without the program's name as its first word.
    #[must_use]
    pub fn new<W: Into<OsString>>(
        program: &'static str,
        about: &'static str,
        words: impl IntoIterator<Item = W>,
    ) -> Self {
        let mut args = Self { program, about, words: Vec::new(), declared: Vec::new(), mistake: None };
        for word in words {
            match word.into().into_string() {
                Ok(word) => args.words.push(word),
                Err(word) => args.mistake(format!("{word:?} is not valid Unicode")),
            }
        }
        args
    }

    /// An option with a default, declared as in `--epochs N`.
    pub fn option<T: FromStr + Display>(
        &mut self,
        usage: &'static str,
        help: &str,
        default: T,
        (expected, holds): Check<T>,
    ) -> T {
        let parse = |text: &str| text.parse().ok().filter(holds);
        let help = format!("{help} [default: {default}]");
        self.value(usage, help, expected, parse).unwrap_or(default)
    }

    /// An option with a list of values, separated by commas; the check is for each of them.
    pub fn list<T: FromStr + Display + Clone>(
        &mut self,
        usage: &'static str,
        help: &str,
        default: &[T],
        (expected, holds): Check<T>,
    ) -> Vec<T> {
        let item = |text: &str| text.parse().ok().filter(holds);
        let parse = |text: &str| text.split(',').map(item).collect();
        let shown: Vec<_> = default.iter().map(T::to_string).collect();
        let help = format!("{help} [default: {}]", shown.join(","));
        let expected = format!("{expected}, or several separated by commas");
        let values = self.value(usage, help, &expected, parse);
        values.unwrap_or_else(|| default.to_vec())
    }

    /// An optional path.
    pub fn path(&mut self, usage: &'static str, help: &str) -> Option<PathBuf> {
        let parse = |text: &str| (!text.is_empty()).then(|| text.into());
        self.value(usage, help.to_owned(), "a path", parse)
    }

    /// An option without a value: whether it is there.
    pub fn flag(&mut self, usage: &'static str, help: &str) -> bool {
        self.declared.push((usage, help.to_owned()));
        let before = self.words.len();
        self.words.retain(|word| word != usage);
        self.words.len() < before
    }

    /// Ends the declarations.
    ///
    /// # Errors
    /// The help if it was asked for, or else the first mistake; [`Stop::exit`] serves for both.
    pub fn finish(mut self) -> Result<(), Stop> {
        self.declared.push((HELP, "print this help".to_owned()));
        if self.words.iter().any(|word| HELP.split(", ").any(|help| word == help)) {
            return Err(Stop::Help(self.help()));
        }
        if let Some(word) = self.words.first() {
            self.mistake(self.unknown(word));
        }
        let stop = |mistake| Err(Stop::mistake(self.program, mistake));
        self.mistake.map_or(Ok(()), stop)
    }

    /// Keeps the first mistake only: the others often follow from it.
    fn mistake(&mut self, mistake: String) {
        self.mistake.get_or_insert(mistake);
    }

    fn value<T>(
        &mut self,
        usage: &'static str,
        help: String,
        expected: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        self.declared.push((usage, help));
        let name = name(usage);
        let mut given = self.take(name);
        let text = given.pop()?;
        if !given.is_empty() {
            self.mistake(format!("{name}: given more than once"));
        }
        let value = text.as_deref().and_then(parse);
        if value.is_none() {
            let got = text.map_or("nothing".to_owned(), |text| format!("{text:?}"));
            self.mistake(format!("{name}: expected {expected}, got {got}"));
        }
        value
    }

    /// Takes an option out of the words as often as it is there; `None` is a missing value.
    fn take(&mut self, name: &str) -> Vec<Option<String>> {
        let mut values = Vec::new();
        let mut words = mem::take(&mut self.words).into_iter().peekable();
        while let Some(word) = words.next() {
            if word == name {
                values.push(words.next_if(|next| next != "-h" && !next.starts_with("--")));
            } else if let Some((before, value)) = word.split_once('=')
                && before == name
            {
                values.push(Some(value.to_owned()));
            } else {
                self.words.push(word);
            }
        }
        values
    }

    /// What is wrong with a word that no option has taken.
    fn unknown(&self, word: &str) -> String {
        if !word.starts_with('-') {
            return format!("unexpected argument {word:?}");
        }
        let word = word.split('=').next().unwrap_or(word);
        // A beginning, as in `--batch` for `--batch-size`, or one or two wrong letters.
        let wrong = |name: &&str| match name.strip_prefix(word) {
            Some(_) => 0,
            None => distance(name, word),
        };
        let letters = word.trim_start_matches('-').chars().count();
        let names = self.declared.iter().map(|(usage, _)| name(usage));
        let hint = match names.min_by_key(wrong) {
            Some(name) if name == word => return format!("{name}: takes no value"),
            Some(name) if wrong(&name) < letters.min(3) => format!(", did you mean {name}?"),
            _ => String::new(),
        };
        format!("unknown option {}{hint}", word.escape_debug())
    }

    fn help(&self) -> String {
        let widths = self.declared.iter().map(|(usage, _)| usage.len());
        let width = widths.max().unwrap_or(0);
        let mut text = format!("{}\n\nUsage: {} [OPTION]...\n", self.about, self.program);
        for (usage, help) in &self.declared {
            text += &format!("\n  {usage:width$}  {help}");
        }
        text
    }
}

/// Why a program should go no further than its command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// The help was asked for.
    Help(String),
    /// The command line is wrong; this is what to say.
    Mistake(String),
}

impl Stop {
    /// A mistake that only the program can see, such as options that do not go together.
    #[must_use]
    pub fn mistake(program: &str, mistake: impl Display) -> Self {
        Self::Mistake(format!("{program}: {mistake} (try --help)"))
    }

    /// Exits with the help on the standard output and code 0, or with the mistake on the standard
    /// error stream and code 2.
    pub fn exit(&self) -> ! {
        // A reader who has gone away, as in `--help | head -1`, is no reason to panic.
        let (_, code) = match self {
            Self::Help(_) => (writeln!(io::stdout(), "{self}"), 0),
            Self::Mistake(_) => (writeln!(io::stderr(), "{self}"), 2),
        };
        process::exit(code)
    }
}

impl Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Help(text) | Self::Mistake(text)) = self;
        f.write_str(text)
    }
}

impl error::Error for Stop {}

/// The name in a declaration: `--epochs` of `--epochs N`.
fn name(usage: &str) -> &str {
    usage.split([' ', ',']).next().unwrap_or(usage)
}

/// How many letters must be added, removed or replaced to get from one word to the other.
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.chars().count()).collect();
    for (i, a) in (1..).zip(from.chars()) {
        let mut diagonal = mem::replace(&mut row[0], i);
        for (j, b) in (1..).zip(to.chars()) {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j];
            row[j] = replaced.min(row[j - 1] + 1).min(row[j] + 1);
        }
    }
    row[row.len() - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNT: Check<usize> = ("a whole number above 0", |n| *n > 0);
    type Options = (usize, f64, u64, Vec<usize>, Option<PathBuf>, bool);

    fn parse(words: &[&str]) -> Result<Options, Stop> {
        let mut args = Args::new("digits", "Reads digits.", words);
        let options = (
            args.option("--epochs N", "passes", 50, COUNT),
            args.option("--lr X", "rate", 0.1, ("a positive number", |x| *x > 0.0)),
            args.option("--seed N", "seed", 1, ("a whole number", |_| true)),
            args.list("--hidden LIST", "units", &[64, 32], COUNT),
            args.path("--resume FILE", "checkpoint"),
            args.flag("--quiet", "no bar"),
        );
        args.finish().map(|()| options)
    }

    #[test]
    fn defaults_and_both_ways_to_write_a_value() {
        assert_eq!(parse(&[]), Ok((50, 0.1, 1, vec![64, 32], None, false)));
        let words = "--quiet --lr=1e-3 --epochs 3 --seed 9 --hidden 8 --resume=--odd=name";
        let words: Vec<_> = words.split(' ').collect();
        let given = (3, 1e-3, 9, vec![8], Some("--odd=name".into()), true);
        assert_eq!(parse(&words), Ok(given));
    }

    #[test]
    fn a_mistake_is_one_clear_line() {
        let lines = r#"
--lr abc          | --lr: expected a positive number, got "abc"
--lr -1           | --lr: expected a positive number, got "-1"
--epochs 0        | --epochs: expected a whole number above 0, got "0"
--epochs          | --epochs: expected a whole number above 0, got nothing
--hidden 64,,8    | --hidden: expected a whole number above 0, or several separated by commas, got "64,,8"
--resume=         | --resume: expected a path, got ""
--resume --quiet  | --resume: expected a path, got nothing
--lr 1 --lr 2     | --lr: given more than once
--epochs 0 --lr a | --epochs: expected a whole number above 0, got "0"
--epcohs 5        | unknown option --epcohs, did you mean --epochs?
--hid=5           | unknown option --hid, did you mean --hidden?
--rume=5          | unknown option --rume, did you mean --resume?
--frob            | unknown option --frob
-x                | unknown option -x
--                | unknown option --
--quiet=yes       | --quiet: takes no value
train             | unexpected argument "train"
"#;
        for line in lines.trim().lines() {
            let (words, expected) = line.split_once('|').unwrap();
            let words: Vec<_> = words.split_whitespace().collect();
            let expected = format!("digits:{expected} (try --help)");
            assert_eq!(parse(&words), Err(Stop::Mistake(expected)));
        }
        for word in ["--lr=a\nb", "--a\nb", "a\nb"] {
            let line = parse(&[word]).unwrap_err().to_string();
            assert!(line.contains(r"a\nb"), "the line is broken: {line}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn bytes_that_are_no_text_are_a_mistake_and_no_panic() {
        use std::os::unix::ffi::OsStringExt;
        let args = Args::new("digits", "", [OsString::from_vec(vec![b'a', 0xff])]);
        let expected = r#"digits: "a\xFF" is not valid Unicode (try --help)"#;
        assert_eq!(args.finish().unwrap_err().to_string(), expected);
    }

    #[test]
    fn help_comes_before_mistakes_and_shows_defaults() {
        let expected = "Reads digits.

Usage: digits [OPTION]...

  --epochs N     passes [default: 50]
  --lr X         rate [default: 0.1]
  --seed N       seed [default: 1]
  --hidden LIST  units [default: 64,32]
  --resume FILE  checkpoint
  --quiet        no bar
  --help, -h     print this help";
        for words in [&["--help"][..], &["--lr", "abc", "-h"], &["--epochs", "-h"]] {
            assert_eq!(parse(words), Err(Stop::Help(expected.to_owned())));
        }
    }
}
