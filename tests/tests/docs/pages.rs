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
