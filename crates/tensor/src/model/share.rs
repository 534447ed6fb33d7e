use std::ops::Range;

/// The samples of part `index` where a batch of `samples` is cut into `count` parts: contiguous, and where it doesn't come out
/// even, the first parts have one more.
///
/// ```
/// use backrule_tensor::share;
///
/// let parts = [0, 1, 2].map(|index| share(8, index, 3));
/// assert_eq!(parts, [0..3, 3..6, 6..8]);
/// assert_eq!(share(2, 2, 3), 2..2); // nothing is left for the third part
/// ```
///
/// A part that doesn't exist has no samples.
pub fn share(samples: usize, index: usize, count: usize) -> Range<usize> {
    if index >= count {
        return samples..samples;
    }
    let (each, more) = (samples / count, samples % count);
    let start = index * each + index.min(more);
    start..start + each + usize::from(index < more)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_are_the_batch() {
        for samples in 0..20 {
            for count in 1..9 {
                let mut end = 0;
                for index in 0..count {
                    let part = share(samples, index, count);
                    assert_eq!(part.start, end);
                    assert!(part.len() == samples.div_ceil(count) || part.len() == samples / count);
                    end = part.end;
                }
                assert_eq!(end, samples);
            }
        }
    }

    #[test]
    fn numbers_that_make_no_sense_are_no_panic() {
        assert_eq!(share(5, 0, 0), 5..5);
        assert_eq!(share(5, 3, 3), 5..5);
        assert_eq!(share(usize::MAX, usize::MAX - 1, usize::MAX), usize::MAX - 1..usize::MAX);
        assert!(share(usize::MAX, usize::MAX, usize::MAX).is_empty());
    }
}
