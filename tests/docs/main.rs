//! The book: generated pages are current, every command shown works, every spec shown compiles.
//!
//! `./x docs` (this test with `PERILUNE_UPDATE_DOCS=1`) writes the generated pages and the outputs
//! shown under commands; without the variable anything stale is a failure.

mod committed;
mod console;
mod markdown;
mod session;
mod source;

mod cli;
mod errors;
mod forms;
mod findings;
mod fusion;
mod meshes;
mod ops;
mod plan;
mod stages;

#[path = "../workbench/mesh_table.rs"]
mod mesh_table;

use session::run_pages;

#[test]
fn generated_pages_are_current() {
    let pages = [
        ("docs/reference/ops.md", ops::page()),
        ("docs/reference/errors.md", errors::page()),
        ("docs/reference/findings.md", findings::page()),
        ("docs/reference/fusion.md", fusion::page()),
        ("docs/reference/cli.md", cli::page()),
        ("docs/reference/forms.md", forms::page()),
        ("docs/reference/plan.md", plan::page()),
        ("docs/reference/meshes.md", meshes::page()),
        ("docs/stages.md", stages::page()),
    ];
    let stale: Vec<String> =
        pages.iter().filter_map(|(path, text)| committed::keep(path, text).err()).collect();
    assert!(stale.is_empty(), "{}", stale.join("\n"));
}

#[test]
fn every_page_is_in_the_table_of_contents() {
    let summary = markdown::read("docs/SUMMARY.md");
    let missing: Vec<String> = markdown::pages("docs")
        .into_iter()
        .map(|page| page.trim_start_matches("docs/").to_owned())
        .filter(|page| page != "SUMMARY.md" && !summary.contains(&format!("({page})")))
        .collect();
    assert!(missing.is_empty(), "not in docs/SUMMARY.md: {missing:?}");
}

#[test]
fn links_lead_to_headings_that_exist() {
    let problems: Vec<String> =
        markdown::all_pages().iter().flat_map(|page| markdown::broken_anchors(page)).collect();
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn commands_of_the_front_pages_work() {
    run_pages(&markdown::front_pages());
}

#[test]
fn commands_and_specs_of_the_book_work() {
    run_pages(&markdown::pages("docs"));
}

#[test]
fn examples_do_what_their_pages_say() {
    let pages = markdown::pages("examples");
    let numbered = pages.iter().filter(|page| page.starts_with("examples/0")).count();
    assert!(numbered >= 6, "only {numbered} examples");
    run_pages(&pages);
}
