//! What must not compile.

/// Each file of `tests/ui` is one program that safe code must not be able to write.
pub fn does_not_compile() {
    if std::env::var_os("CARGO_MANIFEST_DIR").is_none() {
        towpath_harness::skip("needs cargo");
    }
    let cases = trybuild::TestCases::new();
    cases.compile_fail("tests/ui/*.rs");
}
