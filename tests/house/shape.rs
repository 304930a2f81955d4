//! Watches the shape of the sources: sizes, circles of files, and a head in every room.
//!
//! The lists of exceptions only shrink: what keeps to the rule must leave its list.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// From the line of its name to its closing brace.
const FUNCTION_LINES_MAX: usize = 70;

/// Without modules of tests.
const FILE_LINES_MAX: usize = 700;

/// Larger files, and how large they may be.
const LARGE_FILES: [(&str, usize); 0] = [];

/// Circles of the relay's files that are known. What is in none any more leaves the list. The load generator has none.
const CIRCLES: [&[&str]; 0] = [];

/// Words that a room's head has: what it promises, and what is not there.
const IN_HEADS: [&str; 2] = ["Promise: ", "Not here: "];

struct Source {
    /// Below the folder of sources: `spool/live/driver.rs`.
    path: String,
    text: String,
    syntax: syn::File,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn sources(folder: &str) -> Vec<Source> {
    let top = root().join(folder);
    let mut found = Vec::new();
    let mut folders = vec![top.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|it| it == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push(Source {
                    path: path.strip_prefix(&top).unwrap().display().to_string(),
                    syntax: parse(&path.display().to_string(), &text),
                    text,
                });
            }
        }
    }
    found.retain(|source| !source.is_of_tests());
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn parse(path: &str, text: &str) -> syn::File {
    syn::parse_file(text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

impl Source {
    fn is_of_tests(&self) -> bool {
        self.path
            .split('/')
            .any(|part| part == "tests" || part == "tests.rs")
            || self.syntax.attrs.iter().any(is_for_tests)
    }

    /// `spool::live::shared`, and `spool` for `spool/mod.rs`.
    fn module(&self) -> String {
        let path = self.path.trim_end_matches(".rs");
        path.trim_end_matches("/mod").replace('/', "::")
    }

    fn head(&self) -> String {
        let lines = self.text.lines().take_while(|line| line.starts_with("//!"));
        lines.map(|line| format!("{line}\n")).collect()
    }

    /// Lines besides modules of tests.
    fn lines(&self) -> usize {
        let of_tests = self.syntax.items.iter().filter_map(|item| match item {
            syn::Item::Mod(module) if module.attrs.iter().any(is_for_tests) => {
                Some(lines_of(module.span()))
            }
            _ => None,
        });
        self.text.lines().count() - of_tests.sum::<usize>()
    }
}

fn lines_of(span: proc_macro2::Span) -> usize {
    span.end().line - span.start().line + 1
}

fn is_for_tests(attribute: &syn::Attribute) -> bool {
    let is_test = |list: &syn::MetaList| {
        list.tokens
            .to_string()
            .split(' ')
            .any(|word| word == "test")
    };
    match &attribute.meta {
        syn::Meta::List(list) if list.path.is_ident("cfg") => is_test(list),
        syn::Meta::Path(path) => path.is_ident("test"),
        _ => false,
    }
}

/// Every function that is too long, as `name: lines`.
#[derive(Default)]
struct LongFunctions(Vec<String>);

impl LongFunctions {
    fn judge(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let lines = block.span().end().line - signature.fn_token.span.start().line + 1;
        if lines > FUNCTION_LINES_MAX {
            self.0.push(format!("{}: {lines} lines", signature.ident));
        }
    }
}

impl<'ast> Visit<'ast> for LongFunctions {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if !module.attrs.iter().any(is_for_tests) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        self.judge(&function.sig, &function.block);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast syn::ImplItemFn) {
        self.judge(&function.sig, &function.block);
        visit::visit_impl_item_fn(self, function);
    }
}

fn long_functions(syntax: &syn::File) -> Vec<String> {
    let mut long = LongFunctions::default();
    long.visit_file(syntax);
    long.0
}

/// Every path that begins with `crate`, `self` or `super`, groups of imports written out.
#[derive(Default)]
struct Paths(Vec<Vec<String>>);

impl<'ast> Visit<'ast> for Paths {
    fn visit_item_mod(&mut self, module: &'ast syn::ItemMod) {
        if !module.attrs.iter().any(is_for_tests) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_use(&mut self, import: &'ast syn::ItemUse) {
        if !import.attrs.iter().any(is_for_tests) {
            self.read_tree(&import.tree, &[]);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.0.push(
            path.segments
                .iter()
                .map(|it| it.ident.to_string())
                .collect(),
        );
        visit::visit_path(self, path);
    }
}

impl Paths {
    fn read_tree(&mut self, tree: &syn::UseTree, before: &[String]) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.read_tree(&path.tree, &with(&path.ident)),
            syn::UseTree::Name(name) => self.0.push(with(&name.ident)),
            syn::UseTree::Rename(rename) => self.0.push(with(&rename.ident)),
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.read_tree(tree, before);
                }
            }
            _ => self.0.push(before.to_vec()),
        }
    }
}

/// Which modules the paths of a module lead to, itself and those around it left out: a module may use what its
/// parents declare.
fn imports(module: &str, syntax: &syn::File, modules: &BTreeSet<String>) -> BTreeSet<String> {
    let mut paths = Paths::default();
    paths.visit_file(syntax);
    let named = paths.0.iter().filter_map(|path| absolute(module, path));
    let files = named.filter_map(|path| {
        (1..=path.len())
            .rev()
            .map(|parts| path[..parts].join("::"))
            .find(|name| modules.contains(name))
    });
    files
        .filter(|other| other != module && !module.starts_with(&format!("{other}::")))
        .collect()
}

/// A path from the crate's root; `None` if it begins elsewhere.
fn absolute(module: &str, path: &[String]) -> Option<Vec<String>> {
    let mut place: Vec<String> = module.split("::").map(str::to_owned).collect();
    let mut rest = path;
    match path.first()?.as_str() {
        "crate" => return Some(path[1..].to_vec()),
        "self" => rest = &rest[1..],
        "super" => {
            while rest.first().is_some_and(|name| name == "super") {
                place.pop();
                rest = &rest[1..];
            }
        }
        _ => return None,
    }
    place.extend(rest.iter().cloned());
    Some(place)
}

/// Groups of modules each of which leads to all others of its group.
fn circles(imports: &BTreeMap<String, BTreeSet<String>>) -> Vec<Vec<String>> {
    let reached: BTreeMap<&String, BTreeSet<&String>> = imports
        .keys()
        .map(|start| (start, all_behind(start, imports)))
        .collect();
    let mut found = BTreeSet::new();
    for (module, behind) in &reached {
        let back = |other: &&&String| reached.get(**other).is_some_and(|it| it.contains(module));
        let mut circle: BTreeSet<String> =
            behind.iter().filter(back).map(|it| (*it).clone()).collect();
        if !circle.is_empty() {
            circle.insert((*module).clone());
            found.insert(circle.into_iter().collect::<Vec<_>>());
        }
    }
    found.into_iter().collect()
}

fn all_behind<'a>(
    start: &'a String,
    imports: &'a BTreeMap<String, BTreeSet<String>>,
) -> BTreeSet<&'a String> {
    let mut behind = BTreeSet::new();
    let mut next = vec![start];
    while let Some(module) = next.pop() {
        for other in imports.get(module).into_iter().flatten() {
            if behind.insert(other) {
                next.push(other);
            }
        }
    }
    behind
}

fn circles_of(sources: &[Source]) -> Vec<Vec<String>> {
    let modules: BTreeSet<String> = sources.iter().map(Source::module).collect();
    let imports = sources
        .iter()
        .map(|it| (it.module(), imports(&it.module(), &it.syntax, &modules)))
        .collect();
    circles(&imports)
}

/// The same of rooms: all files of a folder are one.
fn circles_of_rooms(sources: &[Source]) -> Vec<Vec<String>> {
    let room = |module: &str| module.split("::").next().unwrap_or(module).to_owned();
    let modules: BTreeSet<String> = sources.iter().map(Source::module).collect();
    let mut rooms: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources {
        let here = room(&source.module());
        let others = imports(&source.module(), &source.syntax, &modules);
        let others = others.iter().map(|it| room(it)).filter(|it| *it != here);
        rooms.entry(here.clone()).or_default().extend(others);
    }
    circles(&rooms)
}

#[test]
fn no_function_is_long() {
    for folder in ["src", "loadtest/src"] {
        for source in sources(folder) {
            let long = long_functions(&source.syntax);
            assert!(long.is_empty(), "{folder}/{}: {long:?}", source.path);
        }
    }
}

#[test]
fn no_file_is_large() {
    let mut wrong = Vec::new();
    for folder in ["src", "loadtest/src"] {
        for source in sources(folder) {
            let path = format!("{folder}/{}", source.path);
            let listed = LARGE_FILES.iter().find(|(name, _)| *name == path);
            let most = listed.map_or(FILE_LINES_MAX, |(_, most)| *most);
            let lines = source.lines();
            if lines > most {
                wrong.push(format!("{path} has {lines} lines, at most {most}"));
            } else if listed.is_some() && lines <= FILE_LINES_MAX {
                wrong.push(format!("{path} has {lines} lines: take it off the list"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let known: BTreeSet<Vec<String>> = CIRCLES
        .iter()
        .map(|circle| circle.iter().map(|name| (*name).to_owned()).collect())
        .collect();
    let of_relay: BTreeSet<_> = circles_of(&sources("src")).into_iter().collect();
    assert_eq!(of_relay, known);
    let load_generator = sources("loadtest/src");
    assert_eq!(circles_of(&load_generator), [[""; 0]; 0]);
    assert_eq!(circles_of_rooms(&load_generator), [[""; 0]; 0]);
}

#[test]
fn every_room_says_what_it_promises_and_what_is_not_there() {
    let mut wrong = Vec::new();
    for folder in ["src", "loadtest/src"] {
        for source in sources(folder) {
            let path = format!("{folder}/{}", source.path);
            let is_room =
                !source.module().contains("::") && !["main", "lib"].contains(&&*source.module());
            if source.head().is_empty() {
                wrong.push(format!("{path} has no head"));
            }
            for word in IN_HEADS.iter().filter(|_| is_room) {
                if !source.head().contains(word) {
                    wrong.push(format!("the head of {path} has no \"{word}\""));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn planted_faults_are_found() {
    let long = format!("fn f() {{\n{}}}", "g();\n".repeat(FUNCTION_LINES_MAX));
    assert_eq!(long_functions(&parse("a", &long)).len(), 1);
    let of_tests = format!("#[cfg(test)]\nmod tests {{\n{long}\n}}");
    assert!(long_functions(&parse("a", &of_tests)).is_empty());

    let modules: BTreeSet<String> = ["a", "a::b", "a::c", "d"].map(str::to_owned).into();
    let of = |module: &str, text: &str| imports(module, &parse(module, text), &modules);
    assert_eq!(
        of("a::b", "use super::{c::X, Y}; use crate::d::Z;"),
        set(&["a::c", "d"])
    );
    assert_eq!(of("d", "fn f() { crate::a::b::g(); }"), set(&["a::b"]));
    assert_eq!(
        of("d", "#[cfg(test)]\nmod tests { use crate::a::b; }"),
        set(&[])
    );
    let edges = [
        ("a", &["b"][..]),
        ("b", &["c"]),
        ("c", &["a", "d"]),
        ("d", &[]),
    ];
    let edges = edges.map(|(from, to)| (from.to_owned(), set(to)));
    assert_eq!(circles(&edges.into()), [["a", "b", "c"]]);

    let rooms = [
        ("a/x.rs", "use crate::b::y;"),
        ("a/w.rs", ""),
        ("b/y.rs", ""),
        ("b/z.rs", "use crate::a::w;"),
    ];
    let rooms = rooms.map(|(path, text)| Source {
        path: path.to_owned(),
        text: text.to_owned(),
        syntax: parse(path, text),
    });
    assert_eq!(circles_of(&rooms), [[""; 0]; 0]);
    assert_eq!(circles_of_rooms(&rooms), [["a", "b"]]);
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}
