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
