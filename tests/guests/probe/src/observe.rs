//! What could differ between two executions of one program.

use std::collections::HashMap;
use std::hint::black_box;

pub fn hash_order() -> Vec<u32> {
    let map: HashMap<u32, u32> = (0..20).map(|n| (n, n)).collect();
    map.into_keys().collect()
}

/// Not-a-numbers whose sign and payload the hardware chooses.
pub fn nan_bits() -> Vec<String> {
    let made = [
        black_box(0.0) / black_box(0.0),
        black_box(f64::INFINITY) - black_box(f64::INFINITY),
        black_box(-1.0f64).sqrt(),
        black_box(f64::NAN) * black_box(-1.0),
    ];
    made.iter().map(|nan| format!("{:x}", nan.to_bits())).collect()
}

/// One on the stack, one on the heap.
pub fn addresses() -> Vec<String> {
    let (local, boxed) = (black_box(0u8), Box::new(black_box(0u8)));
    vec![format!("{:p}", &local), format!("{:p}", &*boxed)]
}

pub fn all() -> String {
    format!(
        "{:?} {:?} {:?} {:x} {} {:?}",
        hash_order(),
        nan_bits(),
        addresses(),
        wfhost::random(),
        wfhost::now(),
        std::thread::current().id()
    )
}

/// Folds the entries of a hash map in its order.
pub fn hash_map(entries: u64) -> String {
    let mut map = HashMap::new();
    for n in 0..entries {
        map.insert(format!("key {}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15)), n);
    }
    let folded =
        map.into_iter().fold(0u64, |sum, (key, n)| sum.rotate_left(5) ^ n.wrapping_add(key.len() as u64));
    format!("{folded:016x}")
}

/// Computes with floats, some of which become infinite or no number.
pub fn floats(rounds: u64) -> String {
    let (mut x, mut y) = (black_box(1.5f64), black_box(-0.3f32));
    for n in 0..rounds {
        x = (x * 1.000_1 + n as f64).sin() / (x - 0.5);
        y = y.mul_add(3.7, x as f32).sqrt() - y;
        if n % 7 == 0 {
            x *= black_box(f64::NAN);
            x = if x.is_nan() { f64::from_bits(x.to_bits() >> 3) } else { x };
        }
    }
    format!("{:016x} {:08x}", x.to_bits(), y.to_bits())
}
