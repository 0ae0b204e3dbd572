//! The pages and their blocks of code.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use ai_limiter_tests::project_root;
use pulldown_cmark::{CodeBlockKind, Event, Parser, Tag, TagEnd};

pub struct Block {
    pub language: String,
    pub text: String,
    /// The place of the text in the page.
    pub range: Range<usize>,
    /// The place of the block, to know what follows directly.
    pub outer: Range<usize>,
}

pub fn blocks(page: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let mut open = false;
    for (event, range) in Parser::new(page).into_offset_iter() {
        match event {
            Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(language))) => {
                open = true;
                let (language, text) = (language.to_string(), String::new());
                found.push(Block { language, text, range: range.end..0, outer: range });
            }
            Event::Text(text) if open => {
                let block = found.last_mut().unwrap();
                block.text += &text;
                block.range = block.range.start.min(range.start)..range.end;
            }
            Event::End(TagEnd::CodeBlock) => open = false,
            _ => {}
        }
    }
    found
}

pub fn pages() -> Vec<PathBuf> {
    let mut pages = vec![project_root().join("README.md")];
    let mut folders = vec![project_root().join("docs")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "md") {
                pages.push(path);
            }
        }
    }
    pages.sort();
    pages
}

pub fn page_name(page: &Path) -> String {
    page.strip_prefix(project_root()).unwrap().display().to_string()
}

/// A heading's anchor, as the host of a repository makes it.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase().replace(' ', "-");
    kept.chars().filter(|c| c.is_alphanumeric() || "-_".contains(*c)).collect()
}

#[test]
fn every_link_between_pages_leads_somewhere() {
    let mut broken = Vec::new();
    for page in pages() {
        let text = fs::read_to_string(&page).unwrap();
        for event in Parser::new(&text) {
            let Event::Start(Tag::Link { dest_url, .. }) = event else { continue };
            if dest_url.contains("://") {
                continue;
            }
            let (file, heading) = dest_url.split_once('#').unwrap_or((&dest_url, ""));
            let target = match file {
                "" => page.clone(),
                file => page.parent().unwrap().join(file),
            };
            let leads = fs::read_to_string(&target).is_ok_and(|text| {
                let titles = text.lines().filter(|line| line.starts_with('#'));
                let mut titles = titles.map(|line| anchor(line.trim_start_matches('#').trim()));
                heading.is_empty() || titles.any(|title| title == heading)
            });
            if !leads {
                broken.push(format!("{}: {dest_url}", page_name(&page)));
            }
        }
    }
    assert_eq!(broken, [""; 0]);
}
