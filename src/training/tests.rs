//! Tests of the loop on plans without steps: every fetch is a feed handed back.

use super::*;
use perilune_plan::{Buffer, FORMAT_VERSION, FetchDecl, Mesh, Place, Plan};
use perilune_runtime::Options;

/// An entry whose fetches are its feeds, under other names.
fn echo(name: &str, feeds: &[(&str, DType, &[u64], &str)]) -> Entry {
    let elems = |shape: &[u64]| shape.iter().product();
    Entry {
        name: name.into(),
        feeds: feeds
            .iter()
            .map(|&(name, dtype, shape, _)| FeedDecl {
                name: name.into(),
                dtype,
                shape: shape.into(),
                shard: None,
            })
            .collect(),
        fetches: feeds
            .iter()
            .enumerate()
            .map(|(i, &(_, _, shape, fetch))| FetchDecl {
                name: fetch.into(),
                shape: shape.into(),
                buffer: i as u32,
                shard: None,
            })
            .collect(),
        arena_bytes: 0,
        buffers: feeds
            .iter()
            .enumerate()
            .map(|(i, &(_, dtype, shape, _))| Buffer {
                dtype,
                elems: elems(shape),
                place: Place::Feed(i as u32),
            })
            .collect(),
        steps: Vec::new(),
    }
}

fn session(loss_from: &str) -> Session {
    let tokens = ("tokens", DType::i32, &[2, 8][..], "seen");
    let targets = ("targets", DType::i32, &[2, 8][..], "wanted");
    let step = ("step", DType::f32, &[][..], "lr");
    let mut feeds = vec![tokens, targets, step];
    match loss_from {
        "step" => feeds[2].3 = "loss",
        other => feeds.push((other, DType::f32, &[], "loss")),
    }
    let plan = Plan {
        format: FORMAT_VERSION,
        name: "echo".into(),
        target: "cpu".into(),
        mesh: Mesh::default(),
        machine: None,
        tensors: Vec::new(),
        kernels: Vec::new(),
        entries: vec![echo(TRAIN_STEP, &feeds), echo(EVAL, &feeds)],
        nodes: Vec::new(),
    };
    Session::new(plan, Options::default()).expect("a plan without steps")
}

fn corpus() -> Corpus {
    Corpus::new((0..4000u32).map(|i| (i % 100) as u8).collect()).expect("long enough")
}

fn settings(steps: u64) -> Settings {
    Settings {
        done: 0,
        steps,
        checkpoint_every: 3,
        skips: true,
        eval_every: 2,
        eval_batches: 3,
        final_eval: true,
        seed: 1,
        profile_steps: 1,
        inputs: BTreeMap::new(),
    }
}

#[derive(Default)]
struct Kept {
    records: Vec<Record>,
    /// Steps saved after.
    saved: Vec<u64>,
    /// Leave once there are so many records.
    leave_after: Option<usize>,
}

impl Observer for Kept {
    fn record(&mut self, record: Record) -> Result<(), Failure> {
        self.records.push(record);
        Ok(())
    }

    fn save(&mut self, _: &Session, step: u64) -> Result<(), Failure> {
        self.saved.push(step);
        Ok(())
    }

    fn leave(&self) -> Option<Exit> {
        let enough = self.leave_after.is_some_and(|n| self.records.len() >= n);
        enough.then_some(Exit::Interrupted)
    }
}

#[test]
fn targets_are_the_tokens_after_and_every_event_is_recorded_in_order() {
    let mut kept = Kept::default();
    let end = train(&mut session("step"), &corpus(), &settings(5), &mut kept).expect("trains");
    assert_eq!((end.steps, end.validation_loss), (5, 5.0));
    let kinds: Vec<String> = kept
        .records
        .iter()
        .map(|record| match record {
            Record::Step(s) => format!("step {}", s.step),
            Record::Eval(e) => format!("eval {} of {}", e.step, e.tokens),
            Record::Profile(_) => "profile".into(),
            Record::End(_) => "end".into(),
            Record::Ranks(_) => "ranks".into(),
            Record::Run(_) => "run".into(),
        })
        .collect();
    let want = [
        "step 1",
        "step 2",
        "eval 2 of 48",
        "step 3",
        "step 4",
        "eval 4 of 48",
        "step 5",
        // The whole validation split: 399 predicted bytes, in windows of 8: 49 of them.
        "eval 5 of 392",
        "profile",
        "end",
    ];
    assert_eq!(kinds, want);
    for record in &kept.records {
        let Record::Step(step) = record else { continue };
        assert_eq!(step.loss, step.step as f64);
        let (seen, wanted) = (&step.vectors["seen"], &step.vectors["wanted"]);
        for row in 0..2 {
            let at = row * 8;
            assert_eq!(seen[at + 1..at + 8], wanted[at..at + 7], "step {}", step.step);
        }
    }
}

#[test]
fn a_loss_that_stays_non_finite_ends_the_run_with_its_own_code() {
    for (skips, steps) in [(true, MAX_SKIPPED as usize), (false, 1)] {
        let mut settings = settings(100);
        settings.inputs.insert("bad".into(), f64::NAN);
        (settings.eval_every, settings.checkpoint_every, settings.skips) = (0, 5, skips);
        let mut kept = Kept::default();
        let failure = train(&mut session("bad"), &corpus(), &settings, &mut kept);
        assert_eq!(failure.expect_err("must fail").exit(), Exit::NonFinite);
        let marked = |r: &Record| matches!(r, Record::Step(s) if s.skipped == skips);
        assert_eq!(kept.records.iter().filter(|r| marked(r)).count(), steps);
        assert_eq!((kept.records.len(), kept.saved.len()), (steps, 0));
    }
}

fn steps_of(kept: &Kept) -> Vec<u64> {
    let step = |r: &Record| if let Record::Step(s) = r { Some(s.step) } else { None };
    kept.records.iter().filter_map(step).collect()
}

#[test]
fn checkpoints_come_every_so_often_and_at_the_end() {
    let mut kept = Kept::default();
    train(&mut session("step"), &corpus(), &settings(7), &mut kept).expect("trains");
    assert_eq!(kept.saved, [3, 6, 7]);
    let none = Settings { checkpoint_every: 0, ..settings(7) };
    let mut kept = Kept::default();
    train(&mut session("step"), &corpus(), &none, &mut kept).expect("trains");
    assert!(kept.saved.is_empty());
}

#[test]
fn a_run_goes_on_after_its_checkpoint_with_the_records_of_an_uninterrupted_one() {
    let mut whole = Kept::default();
    train(&mut session("step"), &corpus(), &settings(6), &mut whole).expect("trains");
    let mut rest = Kept::default();
    let settings = Settings { done: 4, ..settings(6) };
    let end = train(&mut session("step"), &corpus(), &settings, &mut rest).expect("trains");
    assert_eq!((steps_of(&rest), end.steps), (vec![5, 6], 6));
    let losses = |kept: &Kept| -> Vec<(u64, f64)> {
        let loss = |r: &Record| match r {
            Record::Step(s) => Some((s.step, s.loss)),
            Record::Eval(e) => Some((e.step, e.loss)),
            _ => None,
        };
        kept.records.iter().filter_map(loss).collect()
    };
    // The look at the validation split after step 4 is taken again.
    let all = losses(&whole);
    assert_eq!(losses(&rest), all[all.len() - losses(&rest).len()..]);
    let back = Settings { done: 7, ..settings };
    let failure = train(&mut session("step"), &corpus(), &back, &mut Kept::default());
    assert_eq!(failure.expect_err("cannot go back").exit(), Exit::Spec);
}

#[test]
fn leaving_finishes_the_step_and_saves_it_once() {
    // Records: step 1, step 2, eval, step 3, which is saved in any case.
    for (records, saved, left_after) in [(0, vec![], 0), (2, vec![2], 2), (4, vec![3], 3)] {
        let mut kept = Kept { leave_after: Some(records), ..Kept::default() };
        let failure = train(&mut session("step"), &corpus(), &settings(9), &mut kept);
        let Err(Failure::Plain(problem)) = failure else { panic!("must leave") };
        assert_eq!(problem.exit, Exit::Interrupted);
        assert_eq!((&kept.saved, steps_of(&kept).len()), (&saved, left_after), "{records}");
        assert_eq!(problem.help.is_some(), left_after > 0, "{}", problem.headline);
    }
}

#[test]
fn an_input_that_nothing_provides_is_named() {
    let failure = train(&mut session("tau"), &corpus(), &settings(1), &mut Kept::default());
    let Err(Failure::Plain(problem)) = failure else { panic!("must fail") };
    assert!(problem.headline.contains("`tau`"), "{}", problem.headline);
    assert_eq!(problem.exit, Exit::Spec);
}

#[test]
fn a_text_shorter_than_a_batch_is_refused() {
    let short = Corpus::new(vec![b'x'; 1024]).expect("just long enough to split");
    let mut tall = session("step").plan().clone();
    for entry in &mut tall.entries {
        for (feed, fetch) in entry.feeds.iter_mut().zip(&mut entry.fetches) {
            if feed.dtype == DType::i32 {
                feed.shape = vec![1, 2000];
                fetch.shape = vec![1, 2000];
            }
        }
        for buffer in &mut entry.buffers {
            buffer.elems = if buffer.dtype == DType::i32 { 2000 } else { 1 };
        }
    }
    let mut session = Session::new(tall, Options::default()).expect("binds");
    let failure = train(&mut session, &short, &settings(1), &mut Kept::default());
    assert_eq!(failure.expect_err("must fail").exit(), Exit::Spec);
}

#[test]
fn layers_are_added_up_under_one_name() {
    assert_eq!(pattern("model.layers.12.attn.q/grad"), "model.layers.*.attn.q/grad");
    assert_eq!(pattern("head"), "head");
}

#[test]
fn this_process_has_memory() {
    assert!(peak_rss_bytes() > 1 << 20);
}
