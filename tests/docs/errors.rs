//! The reference of error codes, from the table that `perilune explain` reads.

use std::fmt::Write;

use perilune_compiler::codes;

use crate::committed::heading;

/// What each hundred of codes is about.
const SECTIONS: [(u16, &str); 6] = [
    (1, "Files and syntax"),
    (2, "Names and forms"),
    (3, "Ops"),
    (4, "Constants and shapes between blocks"),
    (5, "Training"),
    (6, "Jobs of many ranks"),
];

/// The page.
pub(crate) fn page() -> String {
    let mut out = heading("Error codes", "compiler/src/codes.rs");
    out.push_str(
        "Every mistake that can be made in a spec or in starting a job has a code.\n\
         `perilune explain E0203` prints the same text, by number or by name.\n\
         All mistakes of a spec are reported in one run, each with its place and a way out; a spec \
         with errors ends with exit code 1, warnings alone do not.\n",
    );
    let all = codes::all();
    for (hundred, title) in SECTIONS {
        let _ = writeln!(out, "\n## {title} (E0{hundred}xx)");
        for code in all.iter().filter(|e| e.code.0 / 100 == hundred) {
            let text =
                code.text.replace("\n\nWrong:", "\n\n* Wrong:").replace("\nRight:", "\n* Right:");
            let _ = writeln!(out, "\n### {} {}\n\n{}", code.code, code.name, text);
        }
    }
    let shown = all.iter().filter(|e| SECTIONS.iter().any(|(h, _)| e.code.0 / 100 == *h)).count();
    assert_eq!(shown, all.len(), "a code without a section");
    out
}
