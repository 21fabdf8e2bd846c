//! `docs/OPERATIONS.md` says what `towpath_loop::OPERATIONS` says.

use towpath_loop::OPERATIONS;
use towpath_loop::operation::{Description, Direction, Elsewhere};

const PAGE: &str = include_str!("../../../docs/OPERATIONS.md");

/// The columns of the table that are checked, as the page has to have them.
fn cells(row: &Description) -> [String; 5] {
    let code = |text: &str| format!("`{text}`");
    let elsewhere = match row.elsewhere {
        Elsewhere::Loop => "the loop",
        Elsewhere::Direct => "at once",
        Elsewhere::Ready(Direction::Read) => "when readable",
        Elsewhere::Ready(Direction::Write) => "when writable",
        Elsewhere::Ends => "when both ends are",
        Elsewhere::Wait => "waits",
        Elsewhere::Pool => "in the pool",
    };
    // "the loop's own queue" and the like are no system calls.
    let call = if row.call.contains(' ') { row.call.to_owned() } else { code(row.call) };
    let (opcode, since) =
        row.uring.map_or(("-".into(), "-".into()), |opcode| (code(opcode.name), opcode.since.into()));
    [code(row.name), opcode, since, elsewhere.into(), call]
}

#[test]
fn the_table_agrees_row_by_row() {
    let section =
        PAGE.split("\n## ").find(|section| section.starts_with("The table\n")).expect("its section");
    let mut lines = section.lines().filter(|line| line.starts_with('|'));
    let width = lines.next().expect("a header").matches('|').count();
    assert!(lines.next().is_some_and(|line| line.starts_with("|---")), "a rule below the header");
    let rows: Vec<&str> = lines.collect();
    for (row, description) in rows.iter().zip(OPERATIONS) {
        assert_eq!(row.matches('|').count(), width, "{row}");
        let found: Vec<&str> = row.split('|').skip(1).take(5).map(str::trim).collect();
        assert_eq!(found, cells(description), "{row}");
    }
    assert_eq!(rows.len(), OPERATIONS.len(), "rows of the page, and of OPERATIONS");
}

#[test]
fn every_operation_has_its_notes() {
    let notes: Vec<&str> = PAGE.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let expected: Vec<String> =
        OPERATIONS.iter().map(|row| format!("`{}`", row.name.replace(", ", "`, `"))).collect();
    assert_eq!(notes, expected);
}
