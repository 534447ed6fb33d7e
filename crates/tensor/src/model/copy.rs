//! Memory for the copy of one network's values into another.

use std::cell::Cell;
use std::fmt::{self, Write};

use crate::error::{MemoryError, TensorError};
use crate::model::path::Path;
use crate::model::role::Role;
use crate::scalar::Scalar;
use crate::tensor::Tensor;

/// Names the operation in errors.
pub(crate) const OPERATION: &str = "copy of tensors";

/// Tensors whose places fit the stack.
const FEW: usize = 64;

/// A tensor to be copied, with a number for its path and role. A path lives as long as its visit, so two
/// networks' paths never meet; their numbers do.
pub(crate) type Source<'a, T> = Option<(u128, &'a Tensor<T>)>;

/// Calls `f` with places for `count` tensors: on the stack if they are few, and else in memory of the
/// thread's own, which is there from the second call on, but for destructors of thread-locals.
pub(crate) fn with_places<'a, T: Scalar>(
    count: usize,
    f: impl FnOnce(&mut [Source<'a, T>]) -> Result<(), TensorError>,
) -> Result<(), TensorError> {
    if count <= FEW {
        let mut places = [None; FEW];
        return f(places.get_mut(..count).unwrap_or_default());
    }
    let mut places: Vec<Source<'_, T>> = recycled(MEMORY.try_with(Cell::take).unwrap_or_default());
    let bytes = count.saturating_mul(size_of::<Source<'_, T>>());
    let reserved = places.try_reserve(count).map_err(|_| MemoryError::new(OPERATION, bytes).into());
    let result = reserved.and_then(|()| {
        places.resize(count, None);
        f(&mut places)
    });
    let _ = MEMORY.try_with(|kept| kept.set(recycled(places)));
    result
}

/// FNV-1a in 128 bits of the path's text and, behind a byte that no text has, the role: before the text it
/// could cancel against the first letter.
pub(crate) fn number(path: Path<'_>, role: Role) -> u128 {
    struct Fnv(u128);
    impl Fnv {
        fn add(&mut self, bytes: &[u8]) {
            for &byte in bytes {
                self.0 = (self.0 ^ u128::from(byte)).wrapping_mul((1 << 88) + 0x13b);
            }
        }
    }
    impl Write for Fnv {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.add(text.as_bytes());
            Ok(())
        }
    }
    let mut hash = Fnv(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d);
    // It can't fail.
    let _ = write!(hash, "{path}");
    hash.add(&[0xff, role as u8]);
    hash.0
}

thread_local! {
    /// The memory for the places of many tensors: empty between two calls, so it borrows nothing.
    static MEMORY: Cell<Vec<Source<'static, f32>>> = const { Cell::new(Vec::new()) };
}

/// The same memory for references of another lifetime and type: std collects a mapped vector in its place.
fn recycled<'a, 'b, T: Scalar, U: Scalar>(mut sources: Vec<Source<'a, T>>) -> Vec<Source<'b, U>> {
    sources.clear();
    sources.into_iter().map(|_| None).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::visit::NamedTensors;

    type Net = Vec<(String, Tensor<f64>)>;

    fn net(tensors: usize, value: f64) -> Net {
        (0..tensors).map(|i| (format!("layer{i}.weight"), Tensor::full([2, 3], value).unwrap())).collect()
    }

    #[test]
    fn all_values_are_copied_without_an_allocation() {
        for tensors in [0, 1, FEW, FEW + 1, 1000] {
            let (mut target, source) = (net(tensors, 0.0), net(tensors, 2.0));
            for _ in 0..2 {
                let allocations =
                    allocation_counter::measure(|| target.copy_tensors_from(&source).unwrap()).count_total;
                // The memory for more than a few is the thread's, and there from the second call on.
                assert!(allocations == 0 || tensors > FEW && allocations == 1, "{tensors}: {allocations}");
                assert_eq!(target, source);
            }
            let again = allocation_counter::measure(|| target.copy_tensors_from(&source).unwrap());
            assert_eq!(again.count_total, 0, "{tensors}");
        }
        // In the other type, too.
        let [mut target, source] = [0.0, 1.0].map(|value| {
            let tensor = |i: usize| (i.to_string(), Tensor::<f32>::full([1], value).unwrap());
            (0..1000).map(tensor).collect::<Vec<_>>()
        });
        let allocations = allocation_counter::measure(|| target.copy_tensors_from(&source).unwrap());
        assert_eq!((allocations.count_total, target), (0, source));
    }

    /// Counts how often its tensors are visited.
    struct Counted<'a>(&'a Cell<usize>, Net);

    impl NamedTensors<f64> for Counted<'_> {
        fn visit<'s>(&'s self, path: Path<'_>, visitor: &mut dyn FnMut(Path<'_>, Role, &'s Tensor<f64>)) {
            self.0.update(|count| count + self.1.len());
            self.1.visit(path, visitor);
        }

        fn visit_mut<'s>(
            &'s mut self,
            path: Path<'_>,
            visitor: &mut dyn FnMut(Path<'_>, Role, &'s mut Tensor<f64>),
        ) {
            self.0.update(|count| count + self.1.len());
            self.1.visit_mut(path, visitor);
        }
    }

    #[test]
    fn every_tensor_is_visited_a_few_times_however_many_there_are() {
        for tensors in [10, 10_000] {
            let count = Cell::new(0);
            let [mut target, source] = [0.0, 1.0].map(|value| Counted(&count, net(tensors, value)));
            target.copy_tensors_from(&source).unwrap();
            assert_eq!(count.get(), 4 * tensors);
        }
    }

    #[test]
    fn another_structure_is_refused_whole() {
        for tensors in [3, FEW + 3] {
            let source = net(tensors, 1.0);
            let last = tensors - 1;
            let check = |expected: &str, change: &dyn Fn(&mut Net)| {
                let mut target = net(tensors, 0.0);
                change(&mut target);
                let before = target.clone();
                let error = target.copy_tensors_from(&source).unwrap_err();
                assert_eq!(error.to_string(), format!("{expected}"));
                assert_eq!(target, before);
            };
            let name = format!("layer{last}.weight");
            check(&format!("{name}: copy of tensors: expected [3, 2], got [2, 3]"), &|net| {
                net[last].1 = Tensor::zeros([3, 2]).unwrap();
            });
            check(&format!("copy of tensors: expected the tensor `x`, got the tensor `{name}`"), &|net| {
                net[last].0 = "x".to_string();
            });
            check(&format!("copy of tensors: expected no more tensors, got the tensor `{name}`"), &|net| {
                net.pop();
            });
            check("copy of tensors: expected the tensor `x`, got no more tensors", &|net| {
                net.push(("x".to_string(), Tensor::from([1.0])));
            });
            check(
                "copy of tensors: expected the tensor `layer1.weight`, got the tensor `layer0.weight`",
                &|net| {
                    net.swap(0, 1);
                },
            );
        }
    }

    #[test]
    fn roles_count() {
        struct As(Role, Tensor<f64>);
        impl NamedTensors<f64> for As {
            fn visit<'s>(&'s self, path: Path<'_>, visitor: &mut dyn FnMut(Path<'_>, Role, &'s Tensor<f64>)) {
                visitor(path.join("x"), self.0, &self.1);
            }
            fn visit_mut<'s>(
                &'s mut self,
                path: Path<'_>,
                visitor: &mut dyn FnMut(Path<'_>, Role, &'s mut Tensor<f64>),
            ) {
                visitor(path.join("x"), self.0, &mut self.1);
            }
        }
        let mut target = As(Role::Buffer, Tensor::from([0.0]));
        let error = target.copy_tensors_from(&As(Role::Constant, Tensor::from([1.0]))).unwrap_err();
        assert_eq!(error.to_string(), "x: copy of tensors: expected a buffer, got a constant");
        target.copy_tensors_from(&As(Role::Buffer, Tensor::from([1.0]))).unwrap();
        assert_eq!(target.1, Tensor::from([1.0]));
    }

    #[test]
    fn a_path_is_one_however_it_is_made() {
        let joined = number(Path::ROOT.join("a").join("").join("b"), Role::Parameter);
        assert_eq!(joined, number(Path::ROOT.join("a.b"), Role::Parameter));
        assert_ne!(joined, number(Path::ROOT.join("a.b"), Role::Buffer));
        assert_ne!(joined, number(Path::ROOT.join("ab"), Role::Parameter));
        // All paths of up to three of some letters, in all roles.
        let letters = ["", "a", "b", "c", "d", "e", "f", "0", "1", "2", "3"];
        let mut all = Vec::new();
        for (a, b, c) in letters.iter().flat_map(|a| letters.map(|b| letters.map(|c| (*a, b, c)))).flatten() {
            for role in [Role::Parameter, Role::Buffer, Role::Constant] {
                let text = format!("{a}{b}{c}");
                all.push((number(Path::ROOT.join(&text), role), text, role));
            }
        }
        all.sort_by_key(|(number, ..)| *number);
        for pair in all.windows(2) {
            assert_eq!(pair[0].0 == pair[1].0, pair[0].1 == pair[1].1 && pair[0].2 == pair[1].2, "{pair:?}");
        }
    }
}
