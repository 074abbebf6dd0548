//! Damage, failed operations, and power loss at every operation.

use std::io::Write;
use std::sync::{Arc, Mutex};

use super::super::volume::Sink;
use super::*;

fn snapshot(step: u64) -> Snapshot {
    let value = step as f32;
    let tensors = |names: &[&str], len: u64| -> BTreeMap<String, HostTensor> {
        let values: Vec<f32> = (0..len).map(|i| value + i as f32).collect();
        let tensor = HostTensor::from_f32(&[len], &values).expect("fills");
        names.iter().map(|name| ((*name).to_owned(), tensor.clone())).collect()
    };
    let mut weights = tensors(&["model.embed", "model.head"], 9);
    weights.insert("steps".into(), HostTensor::scalar_i32(step as i32));
    Snapshot {
        step,
        plan: "a1b2".into(),
        data: DataCursor { source: "text".into(), seed: 7, step },
        weights,
        state: tensors(&["momentum"], 5),
    }
}

fn store(root: &Path) -> Store {
    Store::new(root, 2).expect("a store")
}

fn saved(root: &Path, steps: &[u64]) -> Store {
    let mut store = store(root);
    for step in steps {
        store.save(&snapshot(*step)).expect("saved");
    }
    store
}

fn newest(store: &Store) -> (u64, Vec<u64>) {
    let loaded = store.load_newest().expect("one is valid").expect("there is one");
    assert_eq!(loaded.snapshot, snapshot(loaded.snapshot.step));
    (loaded.snapshot.step, loaded.skipped.iter().map(|one| one.step).collect())
}

/// A small generator: the tests must not depend on anything but their text.
fn draw(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
    *seed >> 33
}

#[test]
fn what_is_saved_is_loaded_and_old_ones_go() {
    let folder = tempfile::tempdir().expect("temp dir");
    let root = folder.path().join("run/checkpoints");
    assert!(store(&root).load_newest().expect("no folder is no error").is_none());
    let mut store = saved(&root, &[1, 2]);
    let done = store.save(&snapshot(10)).expect("saved");
    assert_eq!(done, Saved { path: root.join("step-10"), removed: vec![1] });
    assert_eq!(store.steps().expect("listed"), [2, 10]);
    assert_eq!(newest(&store), (10, vec![]));
    assert_eq!(store.load(2).expect("valid"), snapshot(2));
    assert!(matches!(Store::new(&root, 1), Err(CheckpointError::Keep { keep: 1 })));
}

#[test]
fn the_same_snapshot_has_the_same_bytes() {
    let (one, two) =
        (tempfile::tempdir().expect("temp dir"), tempfile::tempdir().expect("temp dir"));
    saved(one.path(), &[3]);
    saved(two.path(), &[3]);
    for file in [WEIGHTS, STATE, MANIFEST] {
        let read = |root: &Path| fs::read(root.join("step-3").join(file)).expect("read");
        assert_eq!(read(one.path()), read(two.path()), "{file}");
    }
}

#[test]
fn saving_again_is_no_work_and_never_overwrites_another_run() {
    let folder = tempfile::tempdir().expect("temp dir");
    let mut store = saved(folder.path(), &[1, 2]);
    store.save(&snapshot(2)).expect("the same");
    let mut other = snapshot(2);
    other.data.seed = 8;
    let error = store.save(&other).expect_err("another run");
    assert!(matches!(error, CheckpointError::Occupied { .. }), "{error}");
    assert_eq!(newest(&store), (2, vec![]));
    fs::write(folder.path().join("step-2").join(STATE), b"rubbish").expect("damaged");
    store.save(&other).expect("a damaged one is replaced");
    assert_eq!(store.load(2).expect("valid"), other);
}

#[test]
fn a_checkpoint_of_another_form_is_not_replaced() {
    let folder = tempfile::tempdir().expect("temp dir");
    let mut store = saved(folder.path(), &[1, 2]);
    let path = folder.path().join("step-2").join(MANIFEST);
    let text = fs::read_to_string(&path).expect("read");
    let newer = text.replace("perilune-checkpoint/1", "perilune-checkpoint/2").replacen(
        "\"step\"",
        "\"epoch\": 1, \"step\"",
        1,
    );
    fs::write(&path, &newer).expect("written");
    let error = store.save(&snapshot(2)).expect_err("it may be valid");
    assert!(matches!(error, CheckpointError::Format { .. }), "{error}");
    assert_eq!(fs::read_to_string(&path).expect("still there"), newer);
}

#[test]
fn a_checkpoint_that_cannot_be_read_for_now_is_not_replaced() {
    for source in [ErrorKind::PermissionDenied, ErrorKind::OutOfMemory, ErrorKind::Other] {
        let path = PathBuf::from("weights.safetensors");
        let io = CheckpointError::Io { path: path.clone(), source: source.into() };
        assert!(!io.is_damage(), "{source}");
        let file = SafetensorsError::Io { path, source: source.into() };
        assert!(!CheckpointError::File(file).is_damage(), "{source}");
    }
    let folder = tempfile::tempdir().expect("temp dir");
    let mut store = saved(folder.path(), &[1, 2]);
    // A link to itself cannot be opened, as a file without permission cannot; the system says why.
    let path = folder.path().join("step-2").join(WEIGHTS);
    fs::rename(&path, path.with_extension("kept")).expect("renamed");
    std::os::unix::fs::symlink(&path, &path).expect("linked");
    let error = store.save(&snapshot(2)).expect_err("it may be valid");
    assert!(!error.is_damage(), "{error}");
    fs::remove_file(&path).expect("removed");
    fs::rename(path.with_extension("kept"), &path).expect("renamed");
    assert_eq!(newest(&store), (2, vec![]));
}

#[test]
fn a_damaged_checkpoint_stays_until_the_new_one_is_written() {
    let folder = tempfile::tempdir().expect("temp dir");
    saved(folder.path(), &[1, 2]);
    fs::write(folder.path().join("step-2").join(STATE), b"rubbish").expect("damaged");
    let operations = |fail_at| Arc::new(Journal { fail_at, ..Journal::default() });
    let journal = operations(Some(2));
    journaled(folder.path(), &journal).save(&snapshot(2)).expect_err("it fails early");
    let state = fs::read(folder.path().join("step-2").join(STATE)).expect("still there");
    assert_eq!(state, b"rubbish");
    journaled(folder.path(), &operations(None)).save(&snapshot(2)).expect("saved");
    assert_eq!(newest(&store(folder.path())), (2, vec![]));
    let left = fs::read_dir(folder.path()).expect("listed");
    assert_eq!(left.filter(|entry| entry.as_ref().is_ok_and(|e| e.path().is_dir())).count(), 2);
}

#[test]
fn a_snapshot_knows_its_plan() {
    assert!(snapshot(1).expect_plan("a1b2").is_ok());
    let error = snapshot(1).expect_plan("ffff").expect_err("another plan");
    assert_eq!(error.to_string(), "the checkpoint is of plan a1b2, not ffff");
}

#[test]
fn folders_that_are_not_ours_are_left_alone() {
    let folder = tempfile::tempdir().expect("temp dir");
    let mut store = saved(folder.path(), &[1]);
    for name in ["step-", "step-01", "step-x", "step-99999999999999999999", ".tmp-x", "notes"] {
        fs::create_dir(folder.path().join(name)).expect("made");
    }
    fs::create_dir(folder.path().join(".tmp-5")).expect("made");
    fs::write(folder.path().join("step-7"), b"a file").expect("written");
    assert_eq!(store.steps().expect("listed"), [1]);
    store.save(&snapshot(2)).expect("saved");
    assert!(!folder.path().join(".tmp-5").exists());
    assert!(folder.path().join(".tmp-x").exists());
    assert_eq!(newest(&store), (2, vec![]));
}

#[test]
fn two_processes_do_not_save_into_one_folder() {
    let folder = tempfile::tempdir().expect("temp dir");
    let mut first = saved(folder.path(), &[1]);
    let held = first.lock().expect("free");
    let error = store(folder.path()).save(&snapshot(2)).expect_err("held");
    assert!(matches!(error, CheckpointError::Busy { .. }), "{error}");
    drop(held);
    first.save(&snapshot(2)).expect("free again");
}

#[test]
fn retention_counts_only_valid_checkpoints() {
    let folder = tempfile::tempdir().expect("temp dir");
    saved(folder.path(), &[1, 2]);
    let weights = folder.path().join("step-2").join(WEIGHTS);
    let mut bytes = fs::read(&weights).expect("read");
    *bytes.last_mut().expect("not empty") ^= 1;
    fs::write(&weights, bytes).expect("damaged");
    // A new process, which has verified nothing yet.
    let mut store = store(folder.path());
    assert!(store.save(&snapshot(3)).expect("saved").removed.is_empty());
    assert_eq!(store.steps().expect("listed"), [1, 2, 3]);
    assert_eq!(store.save(&snapshot(4)).expect("saved").removed, [1, 2]);
}

/// Damages the newest checkpoint in one way and checks that it is seen.
fn damage_is_seen(root: &Path, what: &str, damage: impl FnOnce(&Path)) {
    let store = store(root);
    let newest_path = root.join("step-2");
    let files = [WEIGHTS, STATE, MANIFEST].map(|file| newest_path.join(file));
    let kept = files.each_ref().map(|file| fs::read(file).expect("read"));
    damage(&newest_path);
    assert!(store.load(2).is_err(), "not seen: {what}");
    assert_eq!(newest(&store), (1, vec![2]), "{what}");
    for (file, bytes) in files.iter().zip(kept) {
        fs::write(file, bytes).expect("repaired");
    }
    assert_eq!(newest(&store), (2, vec![]), "{what}");
}

#[test]
fn every_truncation_and_bit_flip_of_every_file_is_seen() {
    let folder = tempfile::tempdir().expect("temp dir");
    saved(folder.path(), &[1, 2]);
    let mut seed = 1;
    for file in [WEIGHTS, STATE, MANIFEST] {
        let bytes = fs::read(folder.path().join("step-2").join(file)).expect("read");
        for _ in 0..200 {
            let (at, bit) = (draw(&mut seed) as usize % bytes.len(), draw(&mut seed) % 8);
            let mut mutant = bytes.clone();
            mutant[at] ^= 1 << bit;
            damage_is_seen(folder.path(), &format!("{file}: bit {bit} of byte {at}"), |root| {
                fs::write(root.join(file), mutant).expect("damaged");
            });
        }
        for cut in (0..60).map(|i| i * bytes.len() / 60) {
            damage_is_seen(folder.path(), &format!("{file}: cut at {cut}"), |root| {
                fs::write(root.join(file), &bytes[..cut]).expect("damaged");
            });
        }
        for extra in [b"\0".as_slice(), b" ", b"\n", b"{}"] {
            damage_is_seen(folder.path(), &format!("{file}: {extra:?} after it"), |root| {
                fs::write(root.join(file), [&bytes, extra].concat()).expect("damaged");
            });
        }
        damage_is_seen(folder.path(), &format!("{file}: removed"), |root| {
            fs::remove_file(root.join(file)).expect("removed");
        });
    }
}

#[test]
fn files_of_other_checkpoints_are_seen() {
    let folder = tempfile::tempdir().expect("temp dir");
    saved(folder.path(), &[1, 2]);
    for file in [WEIGHTS, STATE, MANIFEST] {
        let other = folder.path().join("step-1").join(file);
        damage_is_seen(folder.path(), &format!("{file} of step 1"), |root| {
            fs::copy(other, root.join(file)).expect("copied");
        });
    }
    damage_is_seen(folder.path(), "weights and state swapped", |root| {
        let weights = fs::read(root.join(WEIGHTS)).expect("read");
        fs::copy(root.join(STATE), root.join(WEIGHTS)).expect("copied");
        fs::write(root.join(STATE), weights).expect("written");
    });
    damage_is_seen(folder.path(), "a header of the same meaning in other words", |root| {
        let (ours, other) = (br#""dtype":"F32","shape":[9]"#, br#""shape":[9],"dtype":"F32""#);
        let mut bytes = fs::read(root.join(WEIGHTS)).expect("read");
        let at = bytes.windows(ours.len()).position(|part| part == ours).expect("a header");
        bytes[at..at + ours.len()].copy_from_slice(other);
        fs::write(root.join(WEIGHTS), bytes).expect("written");
    });
    damage_is_seen(folder.path(), "a manifest with a hash of its own", |root| {
        let text = fs::read(root.join(MANIFEST)).expect("read");
        let mut manifest = Manifest::parse(&text).expect("valid");
        manifest.step = 3;
        fs::write(root.join(MANIFEST), manifest.to_json().expect("json")).expect("written");
    });
    damage_is_seen(folder.path(), "a manifest of another form", |root| {
        let text = fs::read(root.join(MANIFEST)).expect("read");
        let mut manifest = Manifest::parse(&text).expect("valid");
        manifest.format = "perilune-checkpoint/2".into();
        fs::write(root.join(MANIFEST), manifest.to_json().expect("json")).expect("written");
    });
}

#[test]
fn the_damaged_file_and_tensor_are_named() {
    let folder = tempfile::tempdir().expect("temp dir");
    let store = saved(folder.path(), &[1]);
    let path = folder.path().join("step-1").join(WEIGHTS);
    let mut bytes = fs::read(&path).expect("read");
    *bytes.last_mut().expect("not empty") ^= 0x40;
    fs::write(&path, bytes).expect("damaged");
    let message = store.load_newest().expect_err("none is valid").to_string();
    assert!(message.contains("step 1"), "{message}");
    assert!(message.contains("weights.safetensors"), "{message}");
    assert!(message.contains("tensor `steps` does not match its hash"), "{message}");
}

/// One operation on the file system, as it was asked for.
#[derive(Clone, Debug)]
enum Operation {
    CreateFolder(PathBuf),
    Create(PathBuf),
    Append(PathBuf, Vec<u8>),
    Sync(PathBuf),
    Rename(PathBuf, PathBuf),
    SyncFolder(PathBuf),
    Remove(PathBuf),
}

/// Does operations on the disk, writes them down, and fails from one of them on.
#[derive(Default)]
struct Journal {
    operations: Mutex<Vec<Operation>>,
    fail_at: Option<usize>,
}

impl Journal {
    /// Writes an operation down; the one that is to fail, and that one only, fails undone.
    fn enter(&self, operation: Operation) -> io::Result<()> {
        let mut operations = self.operations.lock().expect("no panic while held");
        operations.push(operation);
        match self.fail_at {
            Some(at) if at + 1 == operations.len() => Err(io::Error::other("planned failure")),
            _ => Ok(()),
        }
    }

    fn len(&self) -> usize {
        self.operations.lock().expect("no panic while held").len()
    }
}

struct JournalSink {
    journal: Arc<Journal>,
    path: PathBuf,
    sink: Box<dyn Sink>,
}

impl Write for JournalSink {
    /// Writes in small pieces, so that there are many operations to fail.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = &bytes[..bytes.len().min(256)];
        self.journal.enter(Operation::Append(self.path.clone(), piece.to_vec()))?;
        self.sink.write_all(piece)?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

impl Sink for JournalSink {
    fn sync(&mut self) -> io::Result<()> {
        self.journal.enter(Operation::Sync(self.path.clone()))
    }
}

impl Volume for Arc<Journal> {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        self.enter(Operation::CreateFolder(path.into()))?;
        Disk.create_folder(path)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn Sink>> {
        self.enter(Operation::Create(path.into()))?;
        let (journal, path) = (Arc::clone(self), path.to_path_buf());
        let sink = Disk.create(&path)?;
        Ok(Box::new(JournalSink { journal, path, sink }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.enter(Operation::Rename(from.into(), to.into()))?;
        Disk.rename(from, to)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.enter(Operation::SyncFolder(path.into()))
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.enter(Operation::Remove(path.into()))?;
        Disk.remove_file(path)
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        self.enter(Operation::Remove(path.into()))?;
        Disk.remove_folder(path)
    }
}

fn journaled(root: &Path, journal: &Arc<Journal>) -> Store {
    Store { volume: Box::new(Arc::clone(journal)), ..store(root) }
}

#[test]
fn any_failed_operation_leaves_the_previous_checkpoints() {
    let mut failures = 0;
    for fail_at in 0.. {
        let folder = tempfile::tempdir().expect("temp dir");
        saved(folder.path(), &[1, 2]);
        let journal = Arc::new(Journal { fail_at: Some(fail_at), ..Journal::default() });
        let outcome = journaled(folder.path(), &journal).save(&snapshot(3));
        if journal.len() <= fail_at {
            outcome.expect("nothing failed");
            break;
        }
        failures += 1;
        let error = outcome.expect_err("an operation failed");
        assert!(matches!(error, CheckpointError::Io { .. }), "{error}");
        let store = store(folder.path());
        let (step, skipped) = newest(&store);
        assert!(skipped.is_empty() && (step == 2 || step == 3), "operation {fail_at}: {step}");
        assert_eq!(store.load(2).expect("valid"), snapshot(2), "operation {fail_at}");
        saved(folder.path(), &[3, 4]);
        assert_eq!(newest(&store), (4, vec![]), "operation {fail_at}");
        assert!(store.names().expect("listed").iter().all(|name| name.starts_with(STEP)));
    }
    assert!(failures > 20, "only {failures} operations");
}

/// A file or folder, as it is and as it would be after a power loss.
#[derive(Clone)]
enum Node {
    File { now: Vec<u8>, durable: Vec<u8> },
    Folder { now: BTreeMap<String, usize>, durable: BTreeMap<String, usize> },
}

/// A file system that remembers what is durable. Node 0 is the root.
struct Model {
    root: PathBuf,
    nodes: Vec<Node>,
}

/// What a power loss does to one node that is not synced.
#[derive(Clone, Copy, Debug)]
enum Loss {
    /// All reached the disk.
    Nothing,
    /// Nothing did since the last sync.
    Everything,
    /// The length did, half of the bytes did not.
    Half,
}

impl Model {
    fn new(root: &Path) -> Self {
        let empty = Node::Folder { now: BTreeMap::new(), durable: BTreeMap::new() };
        Model { root: root.to_path_buf(), nodes: vec![empty] }
    }

    fn find(&self, path: &Path) -> usize {
        let inside = path.strip_prefix(&self.root).expect("in the root");
        inside.iter().fold(0, |node, part| match &self.nodes[node] {
            Node::Folder { now, .. } => now[part.to_str().expect("a name")],
            Node::File { .. } => panic!("`{}` goes through a file", path.display()),
        })
    }

    /// The entries of the folder that a path is in, and its name there.
    fn entries(&mut self, path: &Path) -> (&mut BTreeMap<String, usize>, String) {
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
        let parent = self.find(path.parent().expect("a parent"));
        match &mut self.nodes[parent] {
            Node::Folder { now, .. } => (now, name),
            Node::File { .. } => panic!("`{}` is in a file", path.display()),
        }
    }

    fn add(&mut self, path: &Path, node: Node) {
        let id = self.nodes.len();
        self.nodes.push(node);
        let (entries, name) = self.entries(path);
        assert!(entries.insert(name, id).is_none(), "`{}` exists", path.display());
    }

    fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::CreateFolder(path) => {
                let empty = Node::Folder { now: BTreeMap::new(), durable: BTreeMap::new() };
                self.add(path, empty);
            }
            Operation::Create(path) => {
                self.add(path, Node::File { now: Vec::new(), durable: Vec::new() });
            }
            Operation::Append(path, bytes) => {
                let node = self.find(path);
                if let Node::File { now, .. } = &mut self.nodes[node] {
                    now.extend(bytes);
                }
            }
            Operation::Sync(path) | Operation::SyncFolder(path) => {
                let node = self.find(path);
                match &mut self.nodes[node] {
                    Node::File { now, durable } => durable.clone_from(now),
                    Node::Folder { now, durable } => durable.clone_from(now),
                }
            }
            Operation::Rename(from, to) => {
                let (entries, name) = self.entries(from);
                let node = entries.remove(&name).expect("it exists");
                let (entries, name) = self.entries(to);
                entries.insert(name, node);
            }
            Operation::Remove(path) => {
                let (entries, name) = self.entries(path);
                entries.remove(&name).expect("it exists");
            }
        }
    }

    /// Writes to the disk what is left of a node after a power loss.
    fn write_out(&self, node: usize, path: &Path, loss: &mut dyn FnMut() -> Loss) {
        match &self.nodes[node] {
            Node::File { now, durable } => {
                let bytes = match loss() {
                    Loss::Nothing => now.clone(),
                    Loss::Everything => durable.clone(),
                    Loss::Half if now == durable => now.clone(),
                    Loss::Half => {
                        let kept = durable.len() + (now.len() - durable.len()) / 2;
                        let mut bytes = now[..kept].to_vec();
                        bytes.resize(now.len(), 0);
                        bytes
                    }
                };
                fs::write(path, bytes).expect("written");
            }
            Node::Folder { now, durable } => {
                let entries = if matches!(loss(), Loss::Everything) { durable } else { now };
                fs::create_dir_all(path).expect("made");
                for (name, child) in entries {
                    self.write_out(*child, &path.join(name), loss);
                }
            }
        }
    }
}

/// What the journal of three saves says of each of its prefixes.
struct Recorded {
    root: PathBuf,
    operations: Vec<Operation>,
    /// Operations done when each save had returned.
    ends: Vec<usize>,
}

fn record_saves(root: &Path) -> Recorded {
    let journal = Arc::new(Journal::default());
    let mut store = journaled(root, &journal);
    let ends = (1..=4).map(|step| {
        store.save(&snapshot(step)).expect("saved");
        journal.len()
    });
    let ends = ends.collect();
    let operations = journal.operations.lock().expect("no panic while held").clone();
    Recorded { root: root.to_path_buf(), operations, ends }
}

#[test]
fn a_power_loss_at_any_operation_loses_no_committed_checkpoint() {
    let folder = tempfile::tempdir().expect("temp dir");
    let recorded = record_saves(folder.path());
    let (mut states, mut seed) = (0, 3);
    let mut model = Model::new(&recorded.root);
    for (done, operation) in recorded.operations.iter().enumerate() {
        model.apply(operation);
        let committed = recorded.ends.iter().filter(|end| **end <= done + 1).count() as u64;
        for pattern in 0..8 {
            let mut loss = || match pattern {
                0 => Loss::Nothing,
                1 => Loss::Everything,
                2 => Loss::Half,
                _ => [Loss::Nothing, Loss::Everything, Loss::Half][draw(&mut seed) as usize % 3],
            };
            let after = tempfile::tempdir().expect("temp dir");
            model.write_out(0, after.path(), &mut loss);
            states += 1;
            let store = store(after.path());
            let Some(loaded) = store.load_newest().expect("none of them is damaged") else {
                assert_eq!(committed, 0, "all lost after {operation:?}");
                continue;
            };
            let step = loaded.snapshot.step;
            assert!(loaded.skipped.is_empty(), "{:?} after {operation:?}", loaded.skipped);
            assert_eq!(loaded.snapshot, snapshot(step));
            assert!((committed..=committed + 1).contains(&step), "{step} after {operation:?}");
        }
    }
    assert!(states > 400, "only {states} states");
}

#[test]
fn the_power_loss_model_sees_a_missing_sync() {
    let folder = tempfile::tempdir().expect("temp dir");
    let recorded = record_saves(folder.path());
    let lost = |left_out: fn(&Operation) -> bool| {
        let mut model = Model::new(&recorded.root);
        let kept = recorded.operations[..recorded.ends[0]].iter().filter(|one| !left_out(one));
        kept.for_each(|operation| model.apply(operation));
        let after = tempfile::tempdir().expect("temp dir");
        model.write_out(0, after.path(), &mut || Loss::Everything);
        !matches!(store(after.path()).load_newest(), Ok(Some(_)))
    };
    assert!(!lost(|_| false));
    assert!(lost(|operation| matches!(operation, Operation::Sync(_))));
    assert!(lost(|operation| matches!(operation, Operation::SyncFolder(_))));
}
