//! File tests: each file of `bad/` makes one mistake in a built-in system file and holds the diagnostic.
//!
//! A file names the machine it starts from, the text to replace (its first occurrence), the replacement, and the
//! expected message. `ORRERY_BLESS=1 cargo test -p orrery-machine` rewrites the expectations.

use orrery_machine::System;
use orrery_machine::registry::BUILT_IN;
use std::path::Path;

struct Case {
    head: String,
    from: String,
    replace: String,
    with: String,
    expect: String,
}

fn split(text: &str) -> Case {
    let (head, rest) = text.split_once("--- replace\n").expect("a section `--- replace`");
    let (replace, rest) = rest.split_once("\n--- with\n").expect("a section `--- with`");
    let (with, expect) = rest.split_once("--- expect\n").expect("a section `--- expect`");
    let from = head.lines().find_map(|line| line.strip_prefix("from ")).expect("a line `from NAME`");
    Case {
        head: head.to_owned(),
        from: from.to_owned(),
        replace: replace.to_owned(),
        with: with.trim_end_matches('\n').to_owned(),
        expect: expect.to_owned(),
    }
}

fn bless() -> bool {
    std::env::var_os("ORRERY_BLESS").is_some()
}

#[test]
fn every_mistake_gets_its_diagnostic() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad");
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() > 20, "the file tests are gone");
    for path in files {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let case = split(&std::fs::read_to_string(&path).unwrap());
        let (_, good) =
            BUILT_IN.iter().find(|(file, _)| file.ends_with(&format!("/{}.toml", case.from))).unwrap();
        assert!(good.contains(&case.replace), "{name}: `{}` is not in {}", case.replace, case.from);
        let bad = good.replacen(&case.replace, &case.with, 1);
        let found = match System::parse("chip.toml", &bad) {
            Ok(_) => "no diagnostic\n".to_owned(),
            Err(error) => format!("{error}\n"),
        };
        if bless() {
            let Case { head, replace, with, .. } = case;
            let text = format!("{head}--- replace\n{replace}\n--- with\n{with}\n--- expect\n{found}");
            std::fs::write(&path, text).unwrap();
        } else {
            assert_eq!(found, case.expect, "{name}; ORRERY_BLESS=1 rewrites it");
        }
        assert!(found.starts_with("error[system-"), "{name}: {found}");
    }
}

#[test]
fn damaged_files_never_panic() {
    for (file, text) in BUILT_IN {
        let lines: Vec<&str> = text.lines().collect();
        let mut refused = 0;
        for line in 0..lines.len() {
            let mut without = lines.clone();
            without.remove(line);
            refused += usize::from(System::parse(file, &without.join("\n")).is_err());
            refused += usize::from(System::parse(file, &lines[..line].join("\n")).is_err());
        }
        assert!(refused > lines.len(), "{file}: only {refused} damaged copies were refused");
    }
}

#[test]
fn reference_in_the_manual_is_fresh() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/machines.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, rest) =
        text.split_once("<!-- reference: begin -->\n").expect("the mark where the reference begins");
    let (found, after) =
        rest.split_once("<!-- reference: end -->").expect("the mark where the reference ends");
    let wanted = orrery_machine::key_reference();
    if bless() {
        let text = format!("{before}<!-- reference: begin -->\n{wanted}<!-- reference: end -->{after}");
        std::fs::write(&path, text).unwrap();
    } else {
        assert_eq!(found, wanted, "docs/machines.md is stale; ORRERY_BLESS=1 rewrites it");
    }
}
