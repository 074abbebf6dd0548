//! Launch files: what they may name, and what counts as the expected result.

use perilune_ptx_vm::{Launch, Machine, Module, Options, Tolerance};
use std::fs;
use std::path::Path;

/// A launch in a folder, with a buffer of eight bytes.
fn launch(folder: &Path, init: &str, expect: &str) -> Launch {
    let path = folder.join("launch.ron");
    let text = format!(
        r#"Launch(entry: "k", grid: (1, 1, 1), block: (1, 1, 1),
            params: [Buffer(name: "x", bytes: 8, init: {init})], expect: [{expect}])"#
    );
    fs::write(&path, text).expect("written");
    Launch::read(&path).expect("a launch")
}

#[test]
fn infinity_is_expected_where_it_is_and_nowhere_else() {
    let all = [Tolerance::Abs(1.0), Tolerance::Rel(0.5), Tolerance::AbsRel(1.0, 0.5)];
    for tolerance in all {
        let (plus, minus) = (f64::INFINITY, f64::NEG_INFINITY);
        assert!(tolerance.accepts(plus, plus) && tolerance.accepts(minus, minus));
        for got in [0.0, 1e308, minus, f64::NAN] {
            assert!(!tolerance.accepts(got, plus), "{tolerance:?}: {got}");
        }
        assert!(!tolerance.accepts(plus, 1.0) && !tolerance.accepts(f64::NAN, 1.0));
        assert!(tolerance.accepts(1.25, 1.0) && tolerance.accepts(f64::NAN, f64::NAN));
    }
}

#[test]
fn a_kernel_that_is_only_declared_is_refused_where_it_is_declared() {
    let text = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry k(.param .u64 x);\n";
    let module = Module::parse(text).expect("a declaration is PTX");
    assert!(module.kernels().is_empty());
    let folder = tempfile::tempdir().expect("temp dir");
    let launch = launch(folder.path(), "Zeros", "");
    let Err(error) = Machine::run(&module, &launch, &Options::default()) else { panic!("it ran") };
    let said = error.to_string();
    assert!(error.code == "V0006" && said.contains("declared but has no body"), "{said}");
    assert!(said.contains("4:"), "{said}");
}

#[test]
fn an_expectation_of_nothing_or_of_half_an_element_is_refused() {
    let folder = tempfile::tempdir().expect("temp dir");
    let expect = r#"(buffer: "x", file: "want.bin", dtype: f32, tolerance: Exact)"#;
    let launch = launch(folder.path(), "Zeros", expect);
    for wrong in [&[][..], &[0; 3], &[0; 6]] {
        fs::write(folder.path().join("want.bin"), wrong).expect("written");
        let error = launch.compare(|_| Some(vec![0; 8])).expect_err("nothing to compare");
        assert_eq!(error.code, "V0006", "{error}");
    }
    fs::write(folder.path().join("want.bin"), [0; 4]).expect("written");
    assert_eq!(launch.compare(|_| Some(vec![0; 8])).expect("the beginning"), []);
}

#[cfg(unix)]
#[test]
fn a_link_that_leaves_the_folder_is_refused_and_one_that_stays_is_followed() {
    let folder = tempfile::tempdir().expect("temp dir");
    let (inside, outside) = (folder.path().join("launch"), folder.path().join("secret.bin"));
    fs::create_dir(&inside).expect("made");
    fs::write(&outside, [1; 8]).expect("written");
    fs::write(inside.join("own.bin"), [2; 8]).expect("written");
    std::os::unix::fs::symlink(&outside, inside.join("out.bin")).expect("linked");
    std::os::unix::fs::symlink("own.bin", inside.join("in.bin")).expect("linked");
    let launch = launch(&inside, "Zeros", "");
    let error = launch.file("out.bin", 8).expect_err("it leads out");
    assert_eq!(error.code, "V0006", "{error}");
    assert_eq!(launch.file("in.bin", 8).expect("it stays"), [2; 8]);
}

#[test]
fn a_kernel_tells_its_limit_of_registers() {
    let text = ".version 8.0\n.target sm_80\n.address_size 64\n.entry k() .maxnreg 40 { ret; }";
    assert_eq!(Module::parse(text).expect("PTX").kernels()[0].max_registers, Some(40));
}
