//! The counting allocator, installed in a whole program: this one.
//!
//! ```text
//! cargo test -p lamplight-models --features count-allocations --test counting
//! ```

use lamplight_models::kernel::counting::Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Larger than whatever the test harness does beside it.
const BLOCK: usize = 64 << 20;

#[test]
fn a_vector_is_seen_while_it_lives_and_in_the_peak_afterwards() {
    let (before, allocations) = (Counting::live(), Counting::allocations());
    let block = std::hint::black_box(vec![1_u8; BLOCK]);
    assert!(Counting::live() >= BLOCK);
    assert!(Counting::allocations() > allocations);
    drop(block);
    assert!(Counting::live() < before + BLOCK);
    assert!(Counting::peak() >= BLOCK);
    Counting::reset_peak();
    assert!(Counting::peak() < before + BLOCK);
}
