//! What must not compile, does not: lending a buffer for longer than a call, and taking what is one thread's to another.
//! (That `Loop` is neither `Send` nor `Sync` is a test of the conformance suite: `i00_auto_traits`.)

#[test]
fn soundness_is_in_the_types() {
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/ui/*.rs");
}
