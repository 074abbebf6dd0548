//! Inputs for the fuzzer: committed kernels and launches, changed in ways their languages suggest.
//!
//! # Invariants
//! - An input depends on the committed files and its seed, and on nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::target::SEPARATOR;

/// Folders of the corpus.
const FOLDERS: [&str; 3] = ["planted", "malformed", "foreign"];
/// Longer kernels are left out: most of their text is alike.
const MAX_SEED_BYTES: usize = 20_000;
/// Numbers at which something may end.
const NUMBERS: [&str; 16] = [
    "0",
    "1",
    "-1",
    "2",
    "3",
    "31",
    "32",
    "33",
    "255",
    "1024",
    "65536",
    "2147483647",
    "2147483648",
    "4294967295",
    "18446744073709551615",
    "-9223372036854775808",
];

const MARKS: [&str; 12] = ["[", "]", "{", "}", "(", ")", ",", ";", ":", "@", "!", "|"];

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % limit.max(1) as u64) as usize
    }

    fn one_in(&mut self, chances: usize) -> bool {
        self.below(chances) == 0
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        of.get(self.below(of.len()))
    }
}

/// What a word of a text is, as far as another may stand for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// `.u32`
    Modifier,
    /// `%r1`
    Register,
    /// `$L1`, `ld`, `x`
    Name,
    /// `0x10`
    Number,
    /// `[`
    Mark,
    Blank,
}

const VOCABULARY: [Class; 3] = [Class::Modifier, Class::Register, Class::Name];

fn class(first: char) -> Class {
    match first {
        '.' => Class::Modifier,
        '%' => Class::Register,
        '0'..='9' => Class::Number,
        'a'..='z' | 'A'..='Z' | '_' | '$' => Class::Name,
        c if c.is_whitespace() => Class::Blank,
        _ => Class::Mark,
    }
}

/// Cuts a text into words.
fn words(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let inner = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '$';
        let length = match class(first) {
            Class::Mark | Class::Blank => first.len_utf8(),
            _ => 1 + rest[1..].find(|c: char| !inner(c)).unwrap_or(rest.len() - 1),
        };
        let (word, after) = rest.split_at(length);
        found.push(word);
        rest = after;
    }
    found
}

fn class_of(word: &str) -> Class {
    word.chars().next().map_or(Class::Blank, class)
}

/// The family of a register: `%rd12` is one of `%rd`.
fn family(register: &str) -> &str {
    register.trim_end_matches(|c: char| c.is_ascii_digit())
}

/// An instruction of a line: its opcode with modifiers, and what its operands look like.
fn instruction(line: &str) -> Option<(&str, String)> {
    let (code, _) = line.split_once(';')?;
    let code = code.trim_start();
    let code = if code.starts_with('@') { code.split_once(' ')?.1.trim_start() } else { code };
    let (opcode, operands) = code.split_once([' ', '\t']).unwrap_or((code, ""));
    let is_opcode = opcode.starts_with(|c: char| c.is_ascii_lowercase()) && !opcode.contains(':');
    let shape = |word: &&str| match class_of(word) {
        Class::Register => family(word).to_owned(),
        Class::Name => "name".to_owned(),
        Class::Number => "0".to_owned(),
        Class::Modifier | Class::Mark => (*word).to_owned(),
        Class::Blank => String::new(),
    };
    is_opcode.then(|| (opcode, words(operands).iter().map(shape).collect()))
}

/// A committed kernel and its launch, without one empty.
struct Seed {
    name: String,
    ptx: String,
    launch: String,
}

/// The committed kernels, and the words that they are made of.
pub(crate) struct Corpus {
    seeds: Vec<Seed>,
    /// By [`VOCABULARY`].
    vocabulary: [Vec<String>; VOCABULARY.len()],
    /// Opcodes by what their operands look like.
    opcodes: BTreeMap<String, Vec<String>>,
}

impl Corpus {
    /// Reads the committed files.
    pub(crate) fn committed() -> Self {
        let mut seeds = Vec::new();
        for folder in FOLDERS {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder);
            let entries = fs::read_dir(folder).expect("the corpus's folder");
            let paths = entries.map(|entry| entry.expect("an entry").path());
            seeds.extend(
                paths.filter(|path| path.extension().is_some_and(|e| e == "ptx")).map(|p| seed(&p)),
            );
        }
        seeds.retain(|seed| seed.ptx.len() <= MAX_SEED_BYTES);
        seeds.sort_by(|a, b| a.name.cmp(&b.name));
        let texts = || seeds.iter().flat_map(|seed| words(&seed.ptx));
        let vocabulary = VOCABULARY.map(|class| {
            let of_class: BTreeSet<&str> = texts().filter(|word| class_of(word) == class).collect();
            of_class.into_iter().map(str::to_owned).collect()
        });
        let mut opcodes: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
        for (opcode, shape) in seeds.iter().flat_map(|s| s.ptx.lines()).filter_map(instruction) {
            opcodes.entry(shape).or_default().insert(opcode);
        }
        let listed = |set: BTreeSet<&str>| set.into_iter().map(str::to_owned).collect();
        let opcodes = opcodes.into_iter().map(|(shape, set)| (shape, listed(set))).collect();
        Self { seeds, vocabulary, opcodes }
    }

    /// Writes every seed as an input, for other fuzzers to begin with.
    pub(crate) fn write(&self, folder: &Path) -> std::io::Result<()> {
        let (launches, loads) = (folder.join("launch"), folder.join("load"));
        fs::create_dir_all(&launches)?;
        fs::create_dir_all(&loads)?;
        for seed in &self.seeds {
            fs::write(loads.join(&seed.name), &seed.ptx)?;
            fs::write(launches.join(&seed.name), joined(&seed.ptx, &seed.launch))?;
        }
        Ok(())
    }

    /// The input of a seed.
    pub(crate) fn input(&self, seed: u64) -> Vec<u8> {
        let mut random = Random(seed.wrapping_mul(0xd134_2543_de82_ef95));
        let chosen = &self.seeds[random.below(self.seeds.len())];
        let (mut ptx, mut launch) = (chosen.ptx.clone(), chosen.launch.clone());
        // Half of the inputs have one change, half of the others two, and so on.
        loop {
            if random.one_in(6) {
                launch = self.with_other_words(&launch, &mut random);
            } else {
                ptx = self.mutated(&ptx, &mut random);
            }
            if random.one_in(2) {
                break;
            }
        }
        let mut input = joined(&ptx, &launch);
        if random.one_in(16) {
            let at = random.below(input.len());
            input[at] ^= 1 << random.below(8);
        }
        input
    }

    fn mutated(&self, text: &str, random: &mut Random) -> String {
        match random.below(10) {
            0..=2 => self.with_other_opcode(text, random),
            3..=5 => with_other_register(text, random),
            6 | 7 => self.with_other_lines(text, random),
            _ => self.with_other_words(text, random),
        }
    }

    /// An instruction replaced by one that some kernel has with operands of the same look.
    fn with_other_opcode(&self, text: &str, random: &mut Random) -> String {
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        let found = |at: usize| instruction(lines[at]).map(|(opcode, shape)| (at, opcode, shape));
        let found: Vec<_> = (0..lines.len()).filter_map(found).collect();
        let Some((at, old, shape)) = random.pick(&found) else { return text.to_owned() };
        let known = self.opcodes.get(shape).map_or(&[][..], Vec::as_slice);
        let Some(new) = random.pick(known) else { return text.to_owned() };
        let line = lines[*at].replacen(old, new, 1);
        [&lines[..*at].concat(), &line, &lines[at + 1..].concat()].map(String::as_str).concat()
    }

    /// Lines dropped, doubled, exchanged, or taken over from another kernel.
    fn with_other_lines(&self, text: &str, random: &mut Random) -> String {
        let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
        if lines.is_empty() {
            return String::new();
        }
        let (a, b) = (random.below(lines.len()), random.below(lines.len()));
        match random.below(5) {
            0 => {
                lines.remove(a);
            }
            1 => lines.insert(b, lines[a]),
            2 => lines.swap(a, b),
            3 if random.one_in(4) => lines.truncate(a),
            _ => {
                let other = &self.seeds[random.below(self.seeds.len())].ptx;
                let others: Vec<&str> = other.split_inclusive('\n').collect();
                let from = random.below(others.len());
                let count = (1 + random.below(6)).min(others.len() - from);
                lines.splice(a..a, others[from..from + count].iter().copied());
            }
        }
        lines.concat()
    }

    /// One word dropped, doubled, exchanged with one of its line, or replaced.
    fn with_other_words(&self, text: &str, random: &mut Random) -> String {
        let mut words = words(text);
        let solid = |at: &usize| class_of(words[*at]) != Class::Blank;
        let places: Vec<usize> = (0..words.len()).filter(solid).collect();
        let (Some(a), near) = (random.pick(&places).copied(), random.below(12)) else {
            return text.to_owned();
        };
        let b = places.partition_point(|at| *at < a).saturating_sub(6) + near;
        let b = places.get(b).copied().unwrap_or(a);
        match random.below(8) {
            0 => {
                words.remove(a);
            }
            1 => words.insert(b, words[a]),
            2 => words.swap(a, b),
            3 => words[a] = words[b],
            _ => words[a] = self.replacement(words[a], random),
        }
        words.concat()
    }

    /// Another word of the class, or now and then of any.
    fn replacement<'a>(&'a self, word: &'a str, random: &mut Random) -> &'a str {
        let class = VOCABULARY.iter().position(|class| *class == class_of(word));
        let class = if random.one_in(12) { Some(random.below(VOCABULARY.len())) } else { class };
        match class {
            Some(class) => random.pick(&self.vocabulary[class]).map_or(word, String::as_str),
            None if class_of(word) == Class::Number => {
                random.pick(&NUMBERS).copied().unwrap_or(word)
            }
            None => random.pick(&MARKS).copied().unwrap_or(word),
        }
    }
}

/// A register replaced by one of its family that the text has.
fn with_other_register(text: &str, random: &mut Random) -> String {
    let mut words = words(text);
    let registers: Vec<usize> =
        (0..words.len()).filter(|at| class_of(words[*at]) == Class::Register).collect();
    let Some(at) = random.pick(&registers).copied() else { return text.to_owned() };
    let alike: Vec<usize> =
        registers.into_iter().filter(|of| family(words[*of]) == family(words[at])).collect();
    if let Some(from) = random.pick(&alike) {
        words[at] = words[*from];
    }
    words.concat()
}

fn joined(ptx: &str, launch: &str) -> Vec<u8> {
    [ptx.as_bytes(), &[SEPARATOR], launch.as_bytes()].concat()
}

fn seed(path: &Path) -> Seed {
    let read =
        |path: &Path| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let launch = format!("{}.launch.ron", name.trim_end_matches(".clean"));
    let launch = read(&path.with_file_name(launch)).unwrap_or_default();
    Seed { name, ptx: read(path).expect("a kernel"), launch: without_files(&launch) }
}

/// A launch whose buffers hold random bytes instead of files.
fn without_files(launch: &str) -> String {
    let mut parts = launch.split("File(\"");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push_str("Random(seed: 1, dtype: u8, low: 0, high: 255)");
        text.push_str(part.split_once("\")").map_or("", |(_, rest)| rest));
    }
    text
}
