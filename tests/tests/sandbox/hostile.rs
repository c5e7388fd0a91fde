//! Whatever is handed in, the host answers with a result or an error and lives
//! on. Each kind of input has a corpus of cases that are known to be nasty
//! (`tests/corpus`) and cases that are made from sound ones by a generator,
//! which makes the same ones each time.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Value, json};
use wfhost::archive;
use wfhost::engine::{Denied, Engine, inspect};
use wfhost::store::{MemStore, Store};
use wfhost_build::componentize;
use wfhost_config::{Config, Places};
use wfhost_core::{Digest, Json, Machine, RunConfig, Started, Timestamp};
use wfhost_tests::{Place, module};

fn corpus(kind: &str) -> Vec<(PathBuf, Vec<u8>)> {
    files_of(&Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(kind))
}

fn files_of(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// splitmix64, https://prng.di.unimi.it/splitmix64.c
struct Generator(u64);

impl Generator {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    /// Damages bytes in one of the ways that files and attackers do.
    fn damage(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len());
        match self.below(7) {
            0 => bytes.truncate(at),
            1 => bytes[at] ^= 1 << self.below(8),
            2 => bytes[at] = self.next() as u8,
            // Numbers that are as great as can be.
            3 => {
                let end = bytes.len().min(at + 1 + self.below(8));
                bytes[at..end].fill(0xff);
            }
            4 => {
                let length = self.below(40).min(bytes.len() - at);
                bytes.drain(at..at + length);
            }
            5 => {
                let from = self.below(bytes.len());
                let length = self.below(200).min(bytes.len() - from);
                let piece = bytes[from..from + length].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => bytes.insert(at, self.next() as u8),
        }
    }
}

#[test]
fn modules_of_the_corpus_are_refused_with_a_code() {
    let engine = Engine::new(None).unwrap();
    for (path, bytes) in corpus("modules") {
        let error = engine.module("m", Digest::of(&bytes), &bytes, Denied::Trap).unwrap_err();
        assert!(error.code().starts_with("WF01"), "{}: {error}", path.display());
        // Whether it can be wrapped does not matter; that it is tried must not.
        let _ = componentize(&bytes);
    }
}

#[test]
fn damaged_modules_are_read_or_refused() {
    let sound: Vec<_> =
        ["hello", "research-c", "probe"].iter().map(|name| std::fs::read(module(name)).unwrap()).collect();
    let mut generator = Generator(1);
    let mut refused = 0;
    for round in 0..3_000 {
        let whole = &sound[round % sound.len()];
        // Most of a file is code and debug information: keep to its ends, where it is described.
        let mut bytes = match round % 2 {
            0 => whole[..whole.len().min(20_000)].to_vec(),
            _ => whole.clone(),
        };
        for _ in 0..1 + generator.below(4) {
            if !bytes.is_empty() {
                generator.damage(&mut bytes);
            }
        }
        refused += u32::from(inspect(&bytes, Denied::Refuse).is_err());
    }
    assert!(refused > 1_000, "{refused}");
}

#[test]
fn damaged_modules_are_compiled_or_refused() {
    let engine = Engine::new(None).unwrap();
    let whole = std::fs::read(module("research-c")).unwrap();
    let mut generator = Generator(2);
    let mut refused = 0;
    for _ in 0..25 {
        let mut bytes = whole.clone();
        generator.damage(&mut bytes);
        if bytes.is_empty() {
            continue;
        }
        if let Err(error) = engine.module("m", Digest::of(&bytes), &bytes, Denied::Trap) {
            assert!(error.code().starts_with("WF01"), "{error}");
            refused += 1;
        }
        let _ = componentize(&bytes);
    }
    assert!(refused > 0);
}

/// Modules that `tests/fuzz` made, and more of them from the directory that the variable names.
fn generated() -> Vec<(PathBuf, Vec<u8>)> {
    let mut files = corpus("smith");
    if let Some(dir) = std::env::var_os("WFHOST_FUZZ_MODULES") {
        files.extend(files_of(Path::new(&dir)));
    }
    files
}

#[test]
fn generated_modules_run_or_are_refused_and_a_replay_ends_as_they_did() {
    let place = Place::new();
    let (mut refused, mut executed, mut steps) = (0, 0, 0);
    for (path, bytes) in generated() {
        let name = path.display().to_string();
        // Whatever it is, it is told what it is.
        let _ = inspect(&bytes, Denied::Trap);
        let (file, id) = match componentize(&bytes) {
            Ok(component) => (place.file("component.wasm", component), format!("r{executed}")),
            Err(_) => (name.clone(), "refused".to_owned()),
        };
        let limits = ["--fuel", "3000000", "--total-fuel", "10000000", "--memory", "16"];
        let args = ["run", &file, "--agent", "echo", "--id", &id, "--no-wait", "--evict", "always"];
        let ran = place.run(args.iter().chain(&limits));
        match ran.code() {
            Some(0 | 1 | 3) => executed += 1,
            Some(2) => {
                assert!(ran.stderr().starts_with("error[WF01"), "{name}: {}", ran.stderr());
                refused += 1;
                continue;
            }
            other => panic!("{name} ended the host with {other:?}: {}", ran.stderr()),
        }
        let replayed = place.run(["replay", &id]);
        assert_eq!(replayed.code(), Some(0), "{name}: {}", replayed.stderr());
        steps += place.show(&id)["steps"].as_array().map_or(0, Vec::len);
    }
    // They are no empty words: some of each kind are there, and some do what workflows do.
    assert!(refused >= 20 && executed >= 80 && steps >= 5, "{refused}, {executed}, {steps}");
}

/// An exported run, one JSON document a line.
fn exported() -> String {
    let place = Place::new();
    let input = serde_json::json!({ "do": [
        { "log": "x" }, { "agent": "one" }, { "publish": { "key": "k", "value": 1 } }, { "sleep": 1 },
        { "post": { "name": "n", "payload": [1] } }, { "wait": { "name": "go" } },
    ] });
    let ran = place.run([
        "run",
        &module("probe"),
        "-i",
        &input.to_string(),
        "--agent",
        "echo",
        "--id",
        "r",
        "--no-wait",
    ]);
    assert_eq!(ran.code(), Some(3), "{}", ran.stderr());
    place.run(["signal", "r", "later"]);
    let file = place.path("run.jsonl").display().to_string();
    assert_eq!(place.run(["db", "export", "r", &file]).code(), Some(0));
    std::fs::read_to_string(file).unwrap()
}

/// The last line as it would have to be, so that what is damaged gets past it.
fn sealed(lines: &[String]) -> String {
    let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let digest = Digest::of(body.as_bytes());
    format!("{body}{{\"end\":{{\"lines\":{},\"digest\":\"{digest}\"}}}}\n", lines.len())
}

#[tokio::test]
async fn damaged_exports_are_refused_as_a_whole() {
    let text = exported();
    let whole: Vec<String> = text.lines().map(str::to_owned).collect();
    let lines = &whole[..whole.len() - 1];
    let sound = MemStore::default();
    assert!(archive::import(&sound, &sealed(lines)).await.is_ok(), "what is sealed here is accepted");
    let mut generator = Generator(3);
    let (mut accepted, mut rounds) = (0, 0);
    for round in 0..600 {
        let store: Arc<dyn Store> = Arc::new(MemStore::default());
        let mut damaged = lines.to_vec();
        match round % 4 {
            // A line is lost, comes twice, or in another place.
            0 => drop(damaged.remove(generator.below(damaged.len()))),
            1 => {
                let from = generator.below(damaged.len());
                let line = damaged[from].clone();
                damaged.insert(generator.below(lines.len()), line);
            }
            2 => {
                let (one, other) = (generator.below(damaged.len()), generator.below(damaged.len()));
                damaged.swap(one, other);
            }
            // A line is damaged; not the module's, whose digest tells.
            _ => {
                let index = [0, 2 + generator.below(damaged.len() - 2)][generator.below(2)];
                let mut bytes = damaged[index].clone().into_bytes();
                generator.damage(&mut bytes);
                let Ok(line) = String::from_utf8(bytes) else { continue };
                damaged[index] = line;
            }
        }
        rounds += 1;
        match archive::import(store.as_ref(), &sealed(&damaged)).await {
            Ok(run) => {
                // Only what makes no difference to the run, or cannot be told: it can be read again.
                accepted += 1;
                let info = store.run(&run).await.unwrap().unwrap();
                archive::export(store.as_ref(), &info).await.unwrap();
            }
            Err(_) => assert_eq!(store.run(&"r".parse().unwrap()).await.unwrap(), None, "round {round}"),
        }
    }
    assert!(accepted < rounds / 2, "{accepted} of {rounds} were accepted");
}

#[test]
fn a_recorded_stack_that_no_program_can_have_is_refused_and_the_run_stays() {
    let text = exported();
    for stack_bytes in [0, 12_345, 3 << 20, u64::MAX] {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.retain(|line| ["{\"run\"", "{\"module\""].iter().any(|kind| line.starts_with(kind)));
        let module: Value = serde_json::from_str(&lines[1]).unwrap();
        let started = Started {
            run: "r".parse().unwrap(),
            workflow: "probe".to_owned(),
            module: Digest::parse(module["module"]["digest"].as_str().unwrap()).unwrap(),
            input: Json::null(),
            seed: [0; 32],
            config: RunConfig { stack_bytes, ..RunConfig::default() },
            labels: Vec::new(),
            parent: None,
            child: None,
            origin: None,
        };
        let mut machine = Machine::start(started, Timestamp(1));
        let row = machine.take_unsaved().unwrap();
        let bytes = BASE64_STANDARD.encode(&row.bytes);
        lines.push(json!({ "row": { "first": 0, "count": row.count, "head": row.head.to_string(), "bytes": bytes } }).to_string());

        let place = Place::new();
        let file = place.file("run.jsonl", sealed(&lines));
        let imported = place.run(["db", "import", &file]);
        assert_eq!(imported.code(), Some(0), "{}", imported.stderr());
        let error = place.run(["resume", "r"]).error(4, &place);
        assert!(error.contains("error[WF0407]") && error.contains(&stack_bytes.to_string()), "{error}");
        assert_eq!(place.journal("r").len(), 1);
    }
}

/// The pieces of configuration in the documentation.
fn configurations() -> Vec<String> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let pages = ["agents.md", "providers.md"].map(|page| std::fs::read_to_string(docs.join(page)).unwrap());
    let blocks = pages.iter().flat_map(|page| page.split("```toml\n").skip(1));
    blocks.map(|block| block.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn damaged_configuration_is_used_or_refused_with_a_code_and_a_hint() {
    let values = [
        "-1",
        "0",
        "1e400",
        "nan",
        "9223372036854775807",
        "99999999999999999999",
        "true",
        "\"\"",
        "\"\\u0000\"",
        "\"9999999999999h\"",
        "\"-5s\"",
        "\"../../..\"",
        "\"${HOME}\"",
        "[]",
        "[[]]",
        "{}",
        "{ a = { b = 1 } }",
        "1979-05-27",
    ];
    let sound = configurations();
    assert!(sound.len() > 3, "{}", sound.len());
    let place = Place::new();
    let load = |text: &[u8]| {
        let file = PathBuf::from(place.file("wfhost.toml", text));
        let config = Config::load(&Places { file: Some(file), ..Places::default() })?;
        let _ = (config.store(), config.default_agent(), config.budget(), config.settings());
        config.providers()
    };
    for text in &sound {
        if let Err(error) = load(text.as_bytes()) {
            // What it names is not there; it is well-formed.
            assert_ne!(error.code(), "WF0701", "{error}\n{text}");
        }
    }
    let mut generator = Generator(5);
    let (mut refused, rounds) = (0, 1_500);
    for round in 0..rounds {
        let text = &sound[generator.below(sound.len())];
        let mut bytes = match round % 3 {
            // Another value for a key, or a key twice, or a section within another.
            0 | 1 => {
                let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
                for _ in 0..1 + generator.below(2) {
                    let at = generator.below(lines.len());
                    match lines[at].split_once('=') {
                        Some((key, _)) => {
                            lines[at] = format!("{key}= {}", values[generator.below(values.len())])
                        }
                        None => lines.insert(at, lines[generator.below(lines.len())].clone()),
                    }
                }
                lines.join("\n").into_bytes()
            }
            _ => text.clone().into_bytes(),
        };
        if round % 3 == 2 {
            generator.damage(&mut bytes);
        }
        if let Err(error) = load(&bytes) {
            assert!(error.code().starts_with("WF"), "{error}");
            assert!(!error.hint().is_empty(), "{error}");
            refused += 1;
        }
    }
    assert!(refused > rounds / 4 && refused < rounds, "{refused} of {rounds} were refused");
}

#[test]
fn json_of_the_corpus_is_taken_as_it_is_or_refused() {
    let place = Place::new();
    for (path, bytes) in corpus("json") {
        let file = format!("@{}", path.display());
        let ran = place.run(["run", &module("probe"), "-i", &file]);
        // 1: the program does not want it. 2: it is no JSON, or not of this size.
        let name = path.display();
        assert!(matches!(ran.code(), Some(0..=2)), "{name}: {:?} {}", ran.code(), ran.stderr());
        let text = String::from_utf8(bytes);
        let valid = text.is_ok_and(|text| Json::parse(text).is_ok());
        assert_eq!(ran.code() == Some(2), !valid, "{name}: {}", ran.stderr());
    }
}

#[test]
fn random_texts_are_json_or_not_and_what_is_taken_can_be_read_again() {
    let pieces = [
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"",
        "\\",
        "\\u12",
        "\\ud83d",
        "null",
        "true",
        "-",
        "1",
        "0",
        ".5",
        "e9",
        "e-400",
        "\"a\":",
        " ",
        "\n",
        "\u{0}",
        "\u{1F408}",
    ];
    let mut generator = Generator(4);
    let mut valid = 0;
    for _ in 0..20_000 {
        let text: String =
            (0..1 + generator.below(8)).map(|_| pieces[generator.below(pieces.len())]).collect();
        if let Ok(json) = Json::parse(text.clone()) {
            valid += 1;
            assert!(json.means(&json));
            assert!(text.trim() == "null" || json.value() != serde_json::Value::Null, "{text}");
        }
    }
    assert!(valid > 100, "{valid}");
}
