//! A plugin over a directory: lists, reads and searches what the host shows it, and nothing else.
//!
//! ```toml
//! [providers.notes]
//! kind = "plugin"
//! plugin = "files.wasm"
//! directories = { "/" = { path = "notes" } }
//! ```
//!
//! The input says what to do: `{"list": "."}`, `{"read": "todo.md"}`, `{"search": "milk"}`. Without one, the prompt
//! is searched for.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use wfhost::plugin::{Call, Failure, Result, line};
use wfhost::{Value, json};

/// Bytes of a file that are read.
const BYTES: u64 = 1 << 20;
/// Places that a search gives.
const PLACES: usize = 100;

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Wish {
    List(PathBuf),
    Read(PathBuf),
    Search(String),
}

#[wfhost::agent]
fn files(call: Call) -> Result<Value> {
    let wish = match call.input {
        Some(_) => call.input_as()?,
        None => Wish::Search(call.prompt),
    };
    match wish {
        Wish::List(path) => {
            let mut names = Vec::new();
            for entry in read_dir(&Path::new("/").join(path))? {
                let (path, is_dir) = entry?;
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                names.push(if is_dir { format!("{name}/") } else { name });
            }
            names.sort();
            Ok(json!(names))
        }
        Wish::Read(path) => Ok(json!(read(&Path::new("/").join(path))?)),
        Wish::Search(words) => {
            let mut found = Vec::new();
            search(Path::new("/"), &words.to_lowercase(), &mut found)?;
            line(format!("{} places", found.len()));
            Ok(json!(found))
        }
    }
}

type Entry = Result<(PathBuf, bool)>;

fn read_dir(path: &Path) -> Result<impl Iterator<Item = Entry>> {
    let shown = path.display().to_string();
    let entries = std::fs::read_dir(path).map_err(|error| Failure::rejected(format!("{shown}: {error}")))?;
    Ok(entries.map(|entry| {
        let entry = entry?;
        Ok((entry.path(), entry.file_type()?.is_dir()))
    }))
}

fn read(path: &Path) -> Result<String> {
    let refused = |error: std::io::Error| Failure::rejected(format!("{}: {error}", path.display()));
    if std::fs::metadata(path).map_err(refused)?.len() > BYTES {
        return Err(Failure::rejected(format!("{} has more than {BYTES} bytes", path.display())));
    }
    std::fs::read_to_string(path).map_err(refused)
}

fn search(dir: &Path, words: &str, found: &mut Vec<Value>) -> Result<()> {
    let mut entries = read_dir(dir)?.collect::<Result<Vec<_>>>()?;
    entries.sort();
    for (path, is_dir) in entries {
        if is_dir {
            search(&path, words, found)?;
            continue;
        }
        // What is no text has no words.
        let Ok(text) = read(&path) else { continue };
        for (number, line) in text.lines().enumerate() {
            if found.len() == PLACES {
                return Ok(());
            }
            if line.to_lowercase().contains(words) {
                let file = path.strip_prefix("/").unwrap_or(&path).to_string_lossy();
                found.push(json!({ "file": file, "line": number + 1, "text": line.trim() }));
            }
        }
    }
    Ok(())
}
