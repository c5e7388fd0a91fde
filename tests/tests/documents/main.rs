//! What the documents say can be typed, and is true.

mod console;
mod reference;
mod snapshots;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use wfhost_tests::Place;

/// The root of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// All documents of a directory and those below it.
fn markdown(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(markdown(&path)),
            false if path.extension().is_some_and(|extension| extension == "md") => found.push(path),
            false => {}
        }
    }
    found.sort();
    found
}

/// The anchors of a document's headings, as mdbook and the sites of repositories make them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut fenced = false;
    let mut found = BTreeSet::new();
    for line in text.lines() {
        fenced ^= line.starts_with("```");
        if let Some(title) =
            line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#') && !fenced)
        {
            let kept = title.to_lowercase();
            let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            found.insert(kept.map(|c| if c == ' ' { '-' } else { c }).collect());
        }
    }
    found
}

/// The command lines that a document shows: code that begins with `wfhost`.
fn commands(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        fenced ^= line.trim_start().starts_with("```");
        let is_code = fenced || line.starts_with("    ");
        let line = line.trim();
        let line = line.strip_prefix("$ ").unwrap_or(line);
        if is_code && line.starts_with("wfhost ") {
            // What stands behind several spaces says what it is for.
            found.push(line.split("   ").next().unwrap_or(line).to_owned());
        }
        if !fenced {
            let spans = line.split('`').skip(1).step_by(2);
            found.extend(spans.filter(|span| span.starts_with("wfhost ")).map(str::to_owned));
        }
    }
    found
}

/// Each verb and each long option of a command that a document shows is there.
#[test]
fn each_command_in_the_documents_has_verbs_and_options_that_exist() {
    let place = Place::new();
    let root = root();
    let mut files = vec![root.join("README.md"), root.join("SECURITY.md"), root.join("examples/README.md")];
    files.extend(markdown(&root.join("docs")));
    // There `wfhost random 1` is what a digest is made of.
    files.retain(|path| !path.ends_with("journal-format.md"));
    let mut helps: BTreeMap<String, String> = BTreeMap::new();
    let mut help = |verbs: &str| {
        let known = helps.entry(verbs.to_owned());
        known
            .or_insert_with(|| {
                let ran = place.run(verbs.split(' ').filter(|verb| !verb.is_empty()).chain(["--help"]));
                if ran.code() == Some(0) { ran.stdout() } else { String::new() }
            })
            .clone()
    };
    let mut wrong = Vec::new();
    let mut count = 0;
    for file in files {
        let name = file.strip_prefix(&root).unwrap_or(Path::new("?")).display().to_string();
        // A line of a Cargo.toml or an import may begin with the name, too.
        let is_command = |line: &String| !line.starts_with("wfhost =") && !line.starts_with("wfhost \"");
        for command in commands(&std::fs::read_to_string(&file).unwrap()).into_iter().filter(is_command) {
            count += 1;
            let mut verbs = String::new();
            for word in command.split_whitespace().skip(1) {
                let is_verb =
                    word.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !word.starts_with('-');
                let deeper = if verbs.is_empty() { word.to_owned() } else { format!("{verbs} {word}") };
                if !is_verb || help(&deeper).is_empty() {
                    break;
                }
                verbs = deeper;
            }
            let takes = help(&verbs);
            if verbs.is_empty() && !command.starts_with("wfhost VERB") && !command.starts_with("wfhost -") {
                wrong.push(format!("{name}: `{command}`: no such verb"));
            }
            let options = command.split_whitespace().filter(|word| word.starts_with("--"));
            for option in options.map(|option| option.split(['=', ')', ',']).next().unwrap_or(option)) {
                if option.len() > 2 && !takes.contains(option) {
                    wrong.push(format!("{name}: `{command}`: no {option}"));
                }
            }
        }
    }
    assert!(count > 100, "{count} commands were found");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Links between the documents lead somewhere, also those to a heading.
#[test]
fn each_link_between_the_documents_leads_to_a_file_and_a_heading() {
    let root = root();
    let more = ["README.md", "ARCHITECTURE.md", "SECURITY.md", "examples/README.md"];
    let mut files: Vec<_> = more.iter().map(|name| root.join(name)).collect();
    files.extend(markdown(&root.join("docs")));
    let mut dead = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") || link.contains(' ') || link.is_empty() {
                continue;
            }
            let (path, anchor) =
                link.split_once('#').map_or((link, None), |(path, anchor)| (path, Some(anchor)));
            let target = match path {
                "" => file.clone(),
                path => file.parent().unwrap().join(path),
            };
            let has_anchor = |anchor: &str| {
                let is_document = target.extension().is_some_and(|extension| extension == "md");
                !is_document
                    || anchors(&std::fs::read_to_string(&target).unwrap_or_default()).contains(anchor)
            };
            if !target.exists() || !anchor.is_none_or(has_anchor) {
                dead.push(format!("{}: {link}", file.display()));
            }
        }
    }
    assert!(dead.is_empty(), "{}", dead.join("\n"));
}

/// The book has each page once, and no other.
#[test]
fn each_document_is_a_page_of_the_book() {
    let docs = root().join("docs");
    let summary = std::fs::read_to_string(docs.join("SUMMARY.md")).unwrap();
    let mut pages: Vec<_> = summary
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
        .filter(|page| !page.is_empty())
        .map(|page| docs.join(page))
        .collect();
    pages.sort();
    let mut documents = markdown(&docs);
    // What is handed to others as it is.
    documents.retain(|path| !path.ends_with("SUMMARY.md") && !path.ends_with("mcp/SKILL.md"));
    assert_eq!(pages, documents);
}

/// `mdbook` makes a book of them in which links between pages are those of the book.
#[test]
fn the_book_can_be_built() {
    let place = Place::in_file();
    let book = place.path("book");
    let mut mdbook = Command::new("mdbook");
    let built = mdbook.arg("build").arg(root().join("docs")).arg("--dest-dir").arg(&book).output();
    // tests/setup installs it where that is possible.
    let Ok(built) = built else {
        eprintln!("left out, as mdbook is not installed");
        return;
    };
    let said = String::from_utf8_lossy(&built.stderr).into_owned();
    assert!(built.status.success(), "{said}");
    assert!(!said.contains("ERROR") && !said.contains("WARN"), "{said}");
    let page = std::fs::read_to_string(book.join("introduction.html")).unwrap();
    assert!(page.contains("href=\"tutorial.html\"") && page.contains("picture.svg"), "{page}");
    assert!(book.join("picture.svg").is_file() && book.join("first/python.html").is_file());
    let page = std::fs::read_to_string(book.join("languages.html")).unwrap();
    assert!(page.contains("https://github.com/wfhost/wfhost/blob/main/wit/workflow.wit"), "{page}");
}
