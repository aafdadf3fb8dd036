//! What the documents say of the program and of each other is true.

#![expect(clippy::unwrap_used, reason = "a test is meant to panic where its ground is not as it must be")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand as MissingPart;

/// The folder of the whole repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every document: its path from the root, and its text.
pub(crate) fn documents() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for folder in ["", "docs"] {
        for entry in fs::read_dir(root().join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                let name = path.file_name().unwrap().to_str().unwrap();
                let name = if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
                found.push((name, fs::read_to_string(path).unwrap()));
            }
        }
    }
    found.sort();
    assert!(found.len() > 4, "the documents are not where they were: {found:?}");
    found
}

/// The anchors of a document's headings, as GitHub makes them; of the same heading twice only the first.
pub(crate) fn anchors(text: &str) -> BTreeSet<String> {
    let mut code = false;
    let mut anchors = BTreeSet::new();
    for line in text.lines() {
        code ^= line.trim_start().starts_with("```");
        if let (false, Some(heading)) = (code, line.strip_prefix('#')) {
            let heading = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
            anchors.insert(kept.map(|c| if c == ' ' { '-' } else { c }).collect());
        }
    }
    anchors
}

/// What of a document is for a shell: the lines of its code blocks, to be typed, and its spans of code, which may name a command only.
fn code(text: &str) -> Vec<(bool, String)> {
    let (mut found, mut prose, mut fenced) = (Vec::new(), String::new(), false);
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if fenced || line.starts_with("    ") {
            found.push((true, line.trim().to_owned()));
        } else {
            prose.push_str(line);
            prose.push('\n');
        }
    }
    found.extend(prose.split('`').skip(1).step_by(2).map(|span| (false, span.replace('\n', " "))));
    found
}

/// The command lines of `trueup` in a line for a shell, each without the program's name.
fn command_lines(line: &str) -> Vec<Vec<String>> {
    // What follows a pipe, a redirection or the next command is not ours; a shell's comment begins behind white space.
    let line = line.split(" # ").next().unwrap_or_default();
    let words = shlex::split(line).unwrap_or_else(|| line.split_whitespace().map(str::to_owned).collect());
    let mut found: Vec<Vec<String>> = Vec::new();
    let mut inside = false;
    for word in words {
        let ends = word.ends_with(';');
        let word = word.trim_end_matches(';').to_owned();
        if matches!(word.as_str(), "|" | "||" | "&&" | "&" | ">" | ">>" | "2>" | "<" | "") {
            inside = false;
        } else if inside {
            if let Some(last) = found.last_mut() {
                last.push(word);
            }
        } else if word == "trueup" || word.ends_with("/trueup") {
            found.push(Vec::new());
            inside = true;
        }
        inside &= !ends;
    }
    found
}

/// True for the name of a command and nothing more; `verify|indexes` names two.
fn names_a_command(mut command: &clap::Command, words: &[String]) -> bool {
    for word in words {
        let named: Option<Vec<_>> = word.split('|').map(|name| command.find_subcommand(name)).collect();
        match named.as_deref() {
            Some([first, ..]) => command = first,
            _ => return false,
        }
    }
    true
}

#[test]
fn every_command_line_in_the_documents_is_one_that_trueup_takes() {
    let command = api::cli::command();
    let subcommands: BTreeSet<&str> = command.get_subcommands().map(clap::Command::get_name).collect();
    let (mut taken, mut wrong) = (BTreeSet::new(), Vec::new());
    for (document, text) in documents() {
        for (typed_in, line) in code(&text) {
            for arguments in command_lines(&line) {
                // Names like `deploy/trueup` and sentences about the program are no command lines; a mistyped subcommand is one.
                let said = arguments.first().is_some_and(|first| subcommands.contains(first.as_str()));
                let typed = line.starts_with("trueup ") || line.contains("/trueup ");
                let elided = arguments.iter().any(|argument| argument == "…");
                if arguments.is_empty()
                    || elided
                    || !(said || typed)
                    || (!typed_in && names_a_command(&command, &arguments))
                {
                    continue;
                }
                let whole = ["trueup".to_owned()].into_iter().chain(arguments.clone());
                match command.clone().try_get_matches_from(whole) {
                    Ok(_) => _ = taken.insert(arguments[0].clone()),
                    // Asking for help is no mistake, and neither is naming a group of commands.
                    Err(error) if !error.use_stderr() || error.kind() == MissingPart => {}
                    Err(error) => wrong.push(format!("{document}: `{line}`\n{error}")),
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for expected in ["check", "jobs", "recover", "reconcile", "trigger", "users", "webhooks"] {
        assert!(
            taken.contains(expected),
            "no document speaks of `trueup {expected}`: is it still read as it is written? {taken:?}"
        );
    }
}

#[test]
fn a_command_line_is_found_wherever_it_stands() {
    let found = |line: &str| command_lines(line).iter().map(|words| words.join(" ")).collect::<Vec<_>>();
    assert_eq!(found("trueup users show a@b.c   # the timeline"), ["users show a@b.c"]);
    assert_eq!(found("DATABASE_URL=x target/release/trueup check --json | jq ."), ["check --json"]);
    assert_eq!(found("trueup migrate up && trueup serve; trueup check"), ["migrate up", "serve", "check"]);
    assert_eq!(found("docker compose exec trueup trueup check"), ["trueup check"]);
    assert_eq!(found("trueup users override x --reason \"a gift\""), ["users override x --reason a gift"]);
    assert!(found("systemctl status postgresql").is_empty());
}

#[test]
fn every_link_within_the_documents_leads_somewhere() {
    let documents = documents();
    let mut wrong = Vec::new();
    for (document, text) in &documents {
        let folder = root().join(document).parent().unwrap().to_owned();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (path, fragment) = link.split_once('#').map_or((link, None), |(path, fragment)| (path, Some(fragment)));
            let target = if path.is_empty() { root().join(document) } else { folder.join(path) };
            if !target.exists() {
                wrong.push(format!("{document}: there is no {path}"));
            } else if let Some(fragment) = fragment {
                let there = fs::read_to_string(&target).is_ok_and(|text| anchors(&text).contains(fragment));
                if !there {
                    wrong.push(format!("{document}: {link} has no such heading"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
