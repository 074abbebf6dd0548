//! How a job starts, and how it is refused when it cannot come together.

use perilune_runtime::comm::Site;
use perilune_runtime::comm::bootstrap::{RENDEZVOUS, TOKEN};
use perilune_runtime::comm::flight::Flight;
use perilune_runtime::comm::rendezvous::Server;
use serde_json::Value;

use super::launched::{Job, has_mpi, perilune, text};

/// Runs `comm-check` with variables set; gives exit code and stderr.
fn check(variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().expect("temp dir");
    let flight = folder.path().join("flight");
    let mut command = perilune(&["comm-check", "--rounds", "2", "--elems", "8"]);
    command.args(["--comm-timeout", "0.4", "--flight"]).arg(flight);
    let output = command.envs(variables.iter().copied()).output().expect("the program starts");
    (output.status.code(), text(&output.stderr))
}

#[test]
fn a_process_that_nothing_launched_is_a_job_of_one_rank() {
    let (code, stderr) = check(&[]);
    assert_eq!(code, Some(0), "{stderr}");
}

#[test]
fn a_job_that_cannot_come_together_is_refused_before_anything_runs() {
    let torchrun = [("RANK", "0"), ("WORLD_SIZE", "2")];
    let half = [("WORLD_SIZE", "2")];
    let two = [("RANK", "1"), ("WORLD_SIZE", "2"), ("OMPI_COMM_WORLD_RANK", "0")];
    let two: Vec<_> = two.into_iter().chain([("OMPI_COMM_WORLD_SIZE", "2")]).collect();
    let open = [(RENDEZVOUS, "127.0.0.1:1")];
    let second = [("RANK", "1"), ("WORLD_SIZE", "2")];
    let unreachable = [(RENDEZVOUS, "127.0.0.1:1"), (TOKEN, "t")];
    let unreachable: Vec<_> = second.into_iter().chain(unreachable).collect();
    for (variables, said) in [
        (&torchrun[..], "[E0601]: nothing connects the 2 processes that torchrun started"),
        (&half, "[E0601]: `WORLD_SIZE` is set, but `RANK` is not"),
        (&two, "[E0601]: `OMPI_COMM_WORLD_RANK` and `OMPI_COMM_WORLD_SIZE` say rank 0 of 2"),
        (&open, "[E0601]: `PERILUNE_RENDEZVOUS` is set, but `PERILUNE_TOKEN` is not"),
        (&unreachable, "[E0602]: the rendezvous at 127.0.0.1:1 is not reached in 0.4 s"),
    ] {
        let (code, stderr) = check(variables);
        assert_eq!(code, Some(3), "{variables:?}: {stderr}");
        assert!(stderr.contains(said) && stderr.contains("help: "), "{variables:?}: {stderr}");
    }
}

#[test]
fn a_rank_with_the_wrong_token_or_of_another_job_is_kept_out() {
    let server = Server::start("127.0.0.1:0", "right", (None, 2)).expect("a free port");
    let address = server.address().to_string();
    let ranks = |rank: &'static str, size: &'static str, token: &'static str| {
        let place = [("RANK", rank), ("WORLD_SIZE", size)];
        let meeting = [(RENDEZVOUS, address.as_str()), (TOKEN, token)];
        check(&[place, meeting].concat())
    };
    for ((rank, size, token), number, said) in [
        (("0", "2", "wrong"), "[E0603]", "the token is not that of this job"),
        (("0", "3", "right"), "[E0603]", "rank 0 of 3 does not fit a job of 2 ranks"),
        (("0", "2", "right"), "[E0602]", "has not seen rank 1 in 0.4 s"),
    ] {
        let (code, stderr) = ranks(rank, size, token);
        assert_eq!(code, Some(3), "{stderr}");
        assert!(stderr.contains(said) && stderr.contains(number), "{stderr}");
    }
}

#[test]
fn launch_needs_mpi_and_says_so() {
    if cfg!(feature = "mpi") {
        let mut launch = perilune(&["launch", "--ranks", "2", "--", "comm-check"]);
        let output = launch.env("PATH", "/nowhere").output().expect("the program starts");
        assert_eq!(output.status.code(), Some(3));
        assert!(text(&output.stderr).contains("cannot start mpirun"));
    } else {
        let output = Job::launch(2, "5", &["comm-check"]).output();
        assert_eq!(output.status.code(), Some(3));
        assert!(text(&output.stderr).contains("--features mpi"));
    }
}

#[test]
fn ranks_that_are_processes_check_their_collectives() {
    if !has_mpi() {
        return;
    }
    let folder = tempfile::tempdir().expect("temp dir");
    let flight = folder.path().display().to_string();
    // Enough for messages of several parts.
    let check = ["comm-check", "--rounds", "2", "--elems", "20001", "--flight", &flight];
    for ranks in [1, 3, 4] {
        let output = Job::launch(ranks, "30", &check).output();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(0), "{out}{err}");
        let said = format!("0| {ranks} ranks, 2 rounds, every result right");
        assert!(out.starts_with(&said), "{out}{err}");
    }
}

#[test]
fn launch_says_as_json_how_every_rank_ended() {
    if !has_mpi() {
        return;
    }
    let folder = tempfile::tempdir().expect("temp dir");
    let flight = folder.path().display().to_string();
    let command = ["launch", "--json", "--ranks", "2", "--", "comm-check", "--elems"];
    let mut launch = perilune(&command);
    launch.args(["9", "--fault", "leave:1:3", "--flight", &flight]);
    let output = launch.output().expect("the program starts");
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    let document: Value = serde_json::from_str(&out).expect("one document");
    assert_eq!((output.status.code(), &document["exit"]), (Some(12), &Value::from(12)), "{err}");
    assert_eq!(document["ended"][0]["rank"], 1, "the one that left is the first");
    assert_eq!(document["ended"][1]["exit"], 11, "the other one has lost it");
    assert!(err.contains("0| error: rank 1 on `"), "{err}");
    assert!(err.contains("has ended with exit code 12"), "{err}");
}

#[test]
fn a_report_on_a_folder_of_recorders_is_text_or_json() {
    let folder = tempfile::tempdir().expect("temp dir");
    let flight = folder.path().display().to_string();
    let empty = perilune(&["hang-report", &flight]).output().expect("the program starts");
    assert_eq!(empty.status.code(), Some(1));
    assert!(text(&empty.stderr).contains("holds no flight recorders"));
    let site = |step| Site { entry: "train_step", step, name: "all_reduce", node: "head" };
    let start = |rank| Flight::start(folder.path(), "job", (rank, 2)).expect("a ring");
    let (mut first, mut second) = (start(0), start(1));
    for flight in [&mut first, &mut second] {
        flight.begin(&site(4), &[0, 1], 12);
        flight.end();
    }
    first.begin(&site(5), &[0, 1], 12);
    let report = perilune(&["hang-report", &flight]).output().expect("the program starts");
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let shown = text(&report.stdout).replace(host.trim(), "HOST");
    let lines: Vec<&str> = shown.lines().collect();
    let expected = [
        "rank 0    running    HOST, 2 collectives, inside `all_reduce` of `train_step`, step 5 (`head`)",
        "rank 1    running    HOST, 1 collectives, after `all_reduce` of `train_step`, step 4 (`head`)",
        "first divergence: collective 1 of the ranks 0, 1",
        "  0 entered `all_reduce` of `train_step`, step 5 (`head`)",
        "  1 entered none",
        "suspect: rank 1 has not entered the collective",
    ];
    assert_eq!(lines, expected);
    let report = perilune(&["hang-report", &flight, "--json"]).output().expect("it starts");
    let report: Value = serde_json::from_slice(&report.stdout).expect("one document");
    assert_eq!(
        (&report["suspect"]["rank"], &report["version"]),
        (&Value::from(1), &Value::from(1))
    );
    assert_eq!(report["divergence"]["absent"], serde_json::json!([1]));
    assert_eq!(report["ranks"][0]["last"]["missing"], serde_json::json!([1]));
}
