//! A saved state comes back bit for bit, and equal states are equal bytes.

use crate::common::{bits, epoch, network, optimizer, spoil};
use backrule_io::tensor::{Scalar, Tensor};
use backrule_io::{Checkpoint, Group, Run};

fn round_trip<T: Scalar>() {
    let (mut net, mut optim) = (network::<T>(), optimizer::<T>());
    let program = Some("digits 1.2".to_string());
    let run = Run { epoch: 3, step: u64::MAX, position: 77, seed: Some(42), program };
    let bytes = Checkpoint::of(&net).optimizer(&optim).run(&run).to_bytes().unwrap();
    let before = (bits(&net), bits(&optim), optim.steps);

    spoil(&mut net);
    spoil(&mut optim);
    optim.steps = 0;
    let checkpoint = Checkpoint::from_bytes(&bytes).unwrap();
    checkpoint.restore_with_optimizer(&mut net, &mut optim).unwrap();
    assert_eq!((bits(&net), bits(&optim), optim.steps), before);
    assert_eq!(*checkpoint.run(), run);
    assert_eq!(checkpoint.optimizer().unwrap().steps, 450);

    let infos: Vec<_> = checkpoint.tensors().collect();
    assert_eq!(infos.len(), 5);
    assert_eq!(infos[1].path, "temperature");
    assert_eq!((infos[1].group, infos[1].dtype), (Group::Network, T::DTYPE.into()));
    assert_eq!(infos[2].shape, [0, 3]);
    assert_eq!(infos[4].group, Group::Optimizer);
}

#[test]
fn every_bit_comes_back() {
    round_trip::<f32>();
    round_trip::<f64>();
}

#[test]
fn the_payload_of_a_nan_comes_back() {
    // A signalling one and one with the sign set: a detour through arithmetic would change them.
    let values = [0x7f80_0001_u32, 0xffc1_2345].map(f32::from_bits);
    let mut net = vec![("a", Tensor::from(values))];
    let bytes = Checkpoint::of(&net).to_bytes().unwrap();
    spoil(&mut net);
    let checkpoint = Checkpoint::from_bytes(&bytes).unwrap();
    checkpoint.restore(&mut net).unwrap();
    assert_eq!(bits(&net)[0].2, [1, 0, 0x80, 0x7f, 0x45, 0x23, 0xc1, 0xff]);
}

#[test]
fn large_tensors_cross_the_chunks() {
    // Not a multiple of the chunk, so the last piece is a short one.
    let tensor = Tensor::<f64>::from_fn([3, 8191], |at| (at[0] * 8191 + at[1]) as f64).unwrap();
    let mut net = vec![("a", tensor.clone())];
    let bytes = Checkpoint::of(&net).to_bytes().unwrap();
    spoil(&mut net);
    let checkpoint = Checkpoint::from_bytes(&bytes).unwrap();
    checkpoint.restore(&mut net).unwrap();
    assert_eq!(net[0].1, tensor);
}

#[test]
fn nothing_is_a_checkpoint_too() {
    let mut net: Vec<(&str, Tensor)> = Vec::new();
    let checkpoint = Checkpoint::from_bytes(&Checkpoint::of(&net).to_bytes().unwrap()).unwrap();
    checkpoint.restore(&mut net).unwrap();
    assert_eq!((checkpoint.run(), checkpoint.sections().count()), (&Run::default(), 0));
    assert!(checkpoint.optimizer().is_none());
}

#[test]
fn a_network_of_any_kind_can_be_saved() {
    // A tensor by itself, whose path is empty, and a network behind a pointer.
    let mut single = Tensor::from([1.0_f32]);
    let boxed: Box<dyn backrule_io::tensor::NamedTensors<f32>> = Box::new(single.clone());
    let bytes = Checkpoint::of(&*boxed).to_bytes().unwrap();
    single.fill(0.0);
    Checkpoint::from_bytes(&bytes).unwrap().restore(&mut single).unwrap();
    assert_eq!(single, Tensor::from([1.0]));
}

/// Two numbers that differ by CRC-32's polynomial have the same checksum.
#[test]
fn checkpoints_with_other_elements_differ_whatever_the_checksums() {
    let (a, polynomial) = (1.0_f64, 1 | 0xedb8_8320_u64 << 1);
    let b = f64::from_bits(a.to_bits() ^ polynomial);
    let [first, second] = [a, b].map(|x| Checkpoint::of(&vec![("x", Tensor::from([x]))]).to_bytes().unwrap());
    let differ = first.iter().zip(&second).filter(|(a, b)| a != b).count();
    assert!((1..=8).contains(&differ), "{differ} bytes: not the elements alone");
    let [first, second] = [first, second].map(|bytes| Checkpoint::from_bytes(&bytes).unwrap());
    assert!(first == first.clone() && first != second);
}

#[test]
fn equal_states_are_equal_bytes() {
    let save = || {
        let (net, optim) = (network::<f32>(), optimizer::<f32>());
        let run = Run { epoch: 1, seed: Some(2), ..Run::default() };
        let snapshot = Checkpoint::of(&net).optimizer(&optim).run(&run);
        let meta = std::collections::BTreeMap::from([("b", 1), ("a", 2)]);
        let meta: std::collections::BTreeMap<String, i32> =
            meta.into_iter().map(|(k, v)| (k.to_string(), v)).collect();
        snapshot.metadata(&meta).unwrap().to_bytes().unwrap()
    };
    assert_eq!(save(), save());
}

#[test]
fn checkpoints_are_equal_when_their_files_are() {
    let net = network::<f32>();
    let load = |bytes: Vec<u8>| Checkpoint::from_bytes(&bytes).unwrap();
    let save = |at| load(Checkpoint::of(&net).run(&epoch(at)).to_bytes().unwrap());
    assert!(save(1) == save(1));
    assert!(save(1) != save(2));
    let mut other = network::<f32>();
    other[1].1.fill(0.25);
    assert!(save(1) != load(Checkpoint::of(&other).run(&epoch(1)).to_bytes().unwrap()));
}

#[test]
fn saving_makes_no_second_copy_of_the_tensors() {
    let net = vec![("a", Tensor::<f32>::zeros([1 << 20]).unwrap())];
    let scratch = backrule_testkit::Scratch::new("no-copy");
    let path = scratch.0.join("model.brk");
    let saving = allocation_counter::measure(|| _ = Checkpoint::of(&net).save(&path).unwrap());
    assert!(saving.bytes_max < 1 << 18, "{} bytes", saving.bytes_max);
    // Loading holds them once.
    let loading = allocation_counter::measure(|| drop(Checkpoint::load(&path).unwrap()));
    assert!(loading.bytes_max < (4 << 20) + (1 << 19), "{} bytes", loading.bytes_max);
}
