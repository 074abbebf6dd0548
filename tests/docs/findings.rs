//! The reference of the PTX VM's codes, from the table that `perilune explain` reads.

use std::fmt::Write;

use perilune_ptx_vm::CODES;

use crate::committed::heading;

/// What each hundred of codes is about.
const SECTIONS: [(&str, &str); 6] = [
    ("V00", "Refusals before anything runs"),
    ("V10", "Memory and registers"),
    ("V11", "Races and asynchronous units"),
    ("V12", "Barriers"),
    ("V13", "Runs that do not end well"),
    ("V14", "Warps and descriptors"),
];

/// The page.
pub(crate) fn page() -> String {
    let mut out = heading("Findings of the PTX VM", "runtime/ptx-vm/src/codes.rs");
    out.push_str(
        "What `perilune vm` and `--device ptx-vm` refuse or find has a code, a line and a message with the \
         numbers of the first time.\n\
         `perilune explain V1101` prints the text below, by number or by name.\n",
    );
    for (section, title) in SECTIONS {
        let _ = writeln!(out, "\n## {title} ({section}xx)\n");
        for row in CODES.iter().filter(|row| row.code.starts_with(section)) {
            let _ = writeln!(out, "* **{} {}**: {}", row.code, row.name, row.text);
        }
    }
    let shown = |code: &str| SECTIONS.iter().any(|(section, _)| code.starts_with(section));
    assert!(CODES.iter().all(|row| shown(row.code)), "a code without a section");
    out
}
