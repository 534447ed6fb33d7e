//! Handwritten digits, 8×8 pixels each, embedded in the program.
//!
//! They come from the UCI data set "Optical Recognition of Handwritten Digits" (E. Alpaydin,
//! C. Kaynak, 1998; CC BY 4.0); `examples/data/README.md` has the details.

use std::{error, fmt};

/// Pixels of one image.
pub const PIXELS: usize = SIDE * SIDE;
/// Classes: the digits 0 to 9.
pub const CLASSES: usize = 10;

/// Pixels of a side of an image.
pub const SIDE: usize = 8;
const INK: u8 = 16;
const TRAIN: usize = 1437;
const CSV: &str = include_str!("../data/digits.csv");

/// Images and their labels, in the same order.
#[derive(Debug, Clone, PartialEq)]
pub struct Digits {
    /// [`PIXELS`] a row, each from 0 (paper) to 1 (ink).
    pub pixels: Vec<f32>,
    /// One of 0 to 9 a row.
    pub labels: Vec<usize>,
}

impl Digits {
    /// The customary split: 1,437 rows to train on, and 360 to test with.
    ///
    /// # Errors
    /// If the data file the program was built with is damaged.
    pub fn load() -> Result<(Self, Self), DigitsError> {
        Self::parse(CSV)?.split(TRAIN)
    }

    /// How many images there are.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.labels.len()
    }

    /// The pixels of one image, if there is such a row.
    #[must_use]
    pub fn image(&self, row: usize) -> Option<&[f32]> {
        self.pixels.chunks_exact(PIXELS).nth(row)
    }

    fn parse(csv: &str) -> Result<Self, DigitsError> {
        let (mut pixels, mut labels) = (Vec::new(), Vec::new());
        for (line, text) in (1..).zip(csv.lines()) {
            let row: Result<Vec<u8>, _> = text.split(',').map(str::parse).collect();
            match row.as_deref() {
                Ok([image @ .., label])
                    if image.len() == PIXELS
                        && image.iter().all(|&pixel| pixel <= INK)
                        && usize::from(*label) < CLASSES =>
                {
                    pixels.extend(image.iter().map(|&pixel| f32::from(pixel) / f32::from(INK)));
                    labels.push(usize::from(*label));
                }
                _ => return Err(DigitsError { line }),
            }
        }
        Ok(Self { pixels, labels })
    }

    fn split(mut self, row: usize) -> Result<(Self, Self), DigitsError> {
        if self.rows() <= row {
            let line = self.rows() + 1;
            return Err(DigitsError { line });
        }
        let pixels = self.pixels.split_off(row * PIXELS);
        let labels = self.labels.split_off(row);
        Ok((self, Self { pixels, labels }))
    }
}

/// Draws one image with eight lines of text. A pixel is two characters wide, which makes it about
/// square.
#[must_use]
pub fn show(pixels: &[f32]) -> String {
    const INKS: [&str; 5] = ["  ", "░░", "▒▒", "▓▓", "██"];
    let ink = |&pixel: &f32| INKS[(pixel.clamp(0.0, 1.0) * 4.0).round() as usize];
    let line = |row: &[f32]| row.iter().map(ink).collect::<String>();
    pixels.chunks(SIDE).map(line).collect::<Vec<_>>().join("\n")
}

/// The data file is damaged: a line is wrong, or missing at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DigitsError {
    /// The line, counted from 1.
    pub line: usize,
}

impl fmt::Display for DigitsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line } = self;
        write!(f, "digits.csv, line {line}: expected {PIXELS} pixels (0–{INK}) and a digit")
    }
}

impl error::Error for DigitsError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_set_is_there() {
        let (train, test) = Digits::load().unwrap();
        assert_eq!((train.rows(), train.pixels.len()), (1437, 1437 * 64));
        assert_eq!((test.rows(), test.pixels.len()), (360, 360 * 64));
        let ink = [5.0, 13.0, 9.0, 1.0].map(|count| count / 16.0);
        assert_eq!(train.image(0).unwrap()[2..6], ink);
        assert_eq!(test.image(360), None);

        let mut counts = [0; CLASSES];
        let labels = train.labels.iter().chain(&test.labels);
        labels.for_each(|&label| counts[label] += 1);
        let authors_count = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180];
        assert_eq!(counts, authors_count);
    }

    #[test]
    fn a_damaged_file_is_an_error_that_names_the_line() {
        let good = format!("{}9\n", "16,".repeat(64));
        let digits = Digits::parse(&good).unwrap();
        assert_eq!((digits.labels[0], digits.pixels[0]), (9, 1.0));
        let (label, pixel) = (good.replace('9', "10"), good.replacen("16", "17", 1));
        let second = Err(DigitsError { line: 2 });
        for bad in ["1,2", "\n", &label, &pixel] {
            assert_eq!(Digits::parse(&format!("{good}{bad}")), second);
        }
        assert!(digits.split(1).is_err(), "none are left to test with");
    }

    #[test]
    fn a_picture_has_eight_lines_and_takes_any_number() {
        let mut pixels = [0.0; PIXELS];
        (pixels[0], pixels[1], pixels[2], pixels[63]) = (1.0, f32::NAN, 7.0, 0.5);
        let picture = show(&pixels);
        assert_eq!(picture.lines().count(), 8);
        assert!(picture.starts_with("██  ██  "), "{picture}");
        assert!(picture.ends_with("  ▒▒"), "{picture}");
        assert_eq!(show(&[]), "");
    }
}
