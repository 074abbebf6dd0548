//! The reference of the command line, from clap's own help and the exit codes' documentation.

use std::fmt::Write;

use crate::committed::heading;
use crate::source::Source;

/// The page.
pub(crate) fn page() -> String {
    let mut out = heading("Commands", "src/commands and src/exit.rs");
    out.push_str(
        "stdout is data, stderr is messages.\n\
         With `--json` stdout holds exactly one JSON document, also when a command fails; only a \
         wrong command line is always told on stderr.\n\
         Colours and moving lines appear on a terminal only, and not where `NO_COLOR` is set; \
         `--color` decides otherwise.\n\
         Files are written whole or not at all.\n",
    );
    let mut root = perilune::commands::command().term_width(90);
    root.build();
    let _ = writeln!(out, "\n## perilune\n\n```text\n{}\n```", help(&mut root));
    let shown = root.get_subcommands().filter(|command| !command.is_hide_set());
    let names: Vec<String> = shown.map(|command| command.get_name().to_owned()).collect();
    for name in names.iter().filter(|name| *name != "help") {
        let command = root.find_subcommand_mut(name).expect("a subcommand");
        let _ = writeln!(out, "\n## perilune {name}\n\n```text\n{}\n```", help(command));
    }
    out.push_str("\n## Exit codes\n\n| code | meaning |\n|---|---|\n");
    for case in Source::read("src/exit.rs").members("Exit") {
        let number = case.number.expect("exit codes are numbered");
        let _ = writeln!(out, "| {number} | {} |", case.doc);
    }
    out
}

fn help(command: &mut clap::Command) -> String {
    let text = command.render_long_help().to_string();
    let lines: Vec<&str> = text.trim_end().lines().map(str::trim_end).collect();
    lines.join("\n")
}
