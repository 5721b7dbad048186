//! Links between the documents: each leads to a file of the repository, and to a heading of it where it names one.

use std::path::Path;

use super::tools::{repository, text_of};

/// The documents that people read.
fn documents() -> Vec<String> {
    let pages = std::fs::read_dir(repository("docs")).unwrap().map(|page| page.unwrap().file_name());
    let pages = pages.map(|name| format!("docs/{}", name.to_str().unwrap()));
    pages.chain(["README.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(str::to_owned)).collect()
}

/// A document's lines outside of code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    text.lines().filter(move |line| {
        let is_fence = line.starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    })
}

/// What links lead to: `](target)`.
fn targets(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target)
}

/// The anchors of a document's headings, as GitHub makes them.
fn anchors(text: &str) -> Vec<String> {
    let headings = prose(text).filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let kept = |letter: &char| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_');
    headings.map(|heading| heading.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")).collect()
}

#[test]
fn every_link_leads_somewhere() {
    let mut broken = Vec::new();
    for document in documents() {
        let text = text_of(&document);
        for target in prose(&text).flat_map(targets).filter(|target| !target.contains("://")) {
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let there = match file {
                "" => repository(&document),
                file => repository(&document).parent().unwrap_or(Path::new("")).join(file),
            };
            let is_heading = |anchor: &str| {
                std::fs::read_to_string(&there).is_ok_and(|text| anchors(&text).iter().any(|known| known == anchor))
            };
            if !there.exists() || !anchor.is_empty() && !is_heading(anchor) {
                broken.push(format!("{document}: {target}"));
            }
        }
    }
    assert!(broken.is_empty(), "links that lead nowhere:\n{}", broken.join("\n"));
}
