//! Pages of what was found out. The parts that every kind of report is made of.
//!
//! Promise: a page is one file that fetches nothing, is light or dark as the reader wishes, and fit to print.
//! Not here: the figures and their text (`figures`).

pub mod compare;
pub mod hold;
pub mod plot;
pub mod ramp;
pub mod run;

use std::fmt::Write as _;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::failure::Failure;
use crate::host::files;
use crate::options::HtmlCommand;
use crate::pages::plot::{Plot, Tone};

/// Plots are drawn with text of 12 pixels, and shown no smaller than with 10.2.
const READABLE_SHARE: f64 = 0.85;

/// How the page looks, but for the colours, which `colours` adds.
const STYLE: &str = include_str!("style.css");

const ABOUT_TABLES: &str = "A table, which scrolls sideways where there is too little room";

/// Reads what another command wrote with `--json`, and prints its page. What it is shows by the
/// list that only it has.
pub fn from_json(command: &HtmlCommand) -> Result<bool, Failure> {
    let json = files::read(&command.json)?;
    let page = page_of(&json).map_err(|error| format!("{}: {error}", command.json.display()))?;
    print!("{page}");
    Ok(true)
}

fn page_of(json: &[u8]) -> Result<String, Failure> {
    let value: serde_json::Value = serde_json::from_slice(json)?;
    if value.get("workloads").is_some() {
        return Ok(compare::page(&serde_json::from_value(value)?));
    }
    if value.get("steps").is_some() {
        return Ok(ramp::page(&serde_json::from_value(value)?));
    }
    if value.get("per_session").is_some() {
        return Ok(hold::page(&serde_json::from_value(value)?));
    }
    if value.get("ledger").is_none() {
        return Err("no run, comparison, ramp or held connections".into());
    }
    Ok(run::page(&serde_json::from_value(value)?))
}

/// A command as it may be pasted into a shell.
pub fn shell_words(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| shell_word(word)).collect();
    words.join(" ")
}

fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@+%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_string()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

/// A page under way.
pub struct Page {
    title: String,
    body: String,
}

/// A figure in big type.
pub struct Tile {
    pub what: &'static str,
    pub value: String,
    pub unit: &'static str,
    pub detail: String,
    pub tone: Tone,
}

impl Page {
    /// `subtitle` stands below the title, smaller.
    pub fn new(title: &str, subtitle: &str) -> Self {
        let mut page = Self {
            title: title.to_string(),
            body: String::new(),
        };
        page.add(html! { header { h1 { (title) } p { (subtitle) } } });
        page
    }

    fn add(&mut self, part: Markup) {
        self.body.push_str(&part.into_string());
        self.body.push('\n');
    }

    /// All is well, or what is not.
    pub fn verdict(&mut self, good: &str, problems: &[String]) {
        self.add(html! {
            @if problems.is_empty() {
                p.verdict.good { (good) }
            } @else {
                div.verdict.bad {
                    p { "Not clean" }
                    ul { @for problem in problems { li { (problem) } } }
                }
            }
        });
    }

    pub fn tiles(&mut self, tiles: &[Tile]) {
        self.add(html! {
            div.tiles {
                @for tile in tiles {
                    div.tile.(class_of(tile.tone)) {
                        h3 { (tile.what) }
                        p.big { (tile.value) small { (tile.unit) } }
                        p { (tile.detail) }
                    }
                }
            }
        });
    }

    pub fn section(&mut self, title: &str) {
        self.add(html! { h2 { (title) } });
    }

    pub fn paragraph(&mut self, text: &str) {
        self.add(html! { p.text { (text) } });
    }

    /// Plots side by side where there is room. Those without data leave no trace.
    pub fn plots(&mut self, plots: &[Figure]) {
        let drawn: Vec<Markup> = plots.iter().filter_map(Figure::html).collect();
        if !drawn.is_empty() {
            self.add(html! { div.plots { @for figure in &drawn { (figure) } } });
        }
    }

    /// The first column is text, the others are numbers.
    pub fn table(&mut self, heads: &[impl AsRef<str>], rows: &[Vec<String>]) {
        if rows.is_empty() {
            return;
        }
        self.add(html! {
            div.table.scroll tabindex="0" role="region" aria-label=(ABOUT_TABLES) {
                table {
                    thead { tr { @for head in heads { th { (head.as_ref()) } } } }
                    tbody {
                        @for row in rows { tr { @for cell in row { td { (cell) } } } }
                    }
                }
            }
        });
    }

    /// Names and values; empty values are left out.
    pub fn list(&mut self, items: &[(String, String)]) {
        self.add(html! {
            dl {
                @for (name, value) in items.iter().filter(|(_, value)| !value.is_empty()) {
                    div { dt { (name) } dd { (value) } }
                }
            }
        });
    }

    pub fn code(&mut self, text: &str) {
        self.add(html! { pre { code { (text) } } });
    }

    pub fn finish(self) -> String {
        let style = format!("{}{STYLE}", colours());
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (self.title) }
                    style { (PreEscaped(style)) }
                }
                body { main { (PreEscaped(self.body)) } }
            }
        };
        page.into_string()
    }
}

/// A plot with its words.
pub struct Figure {
    pub title: String,
    /// What the y axis counts, and whatever else must be known to read it.
    pub caption: String,
    /// Takes the page's whole width.
    pub wide: bool,
    pub plot: Plot,
}

impl Figure {
    /// `None` if there is nothing to be seen.
    fn html(&self) -> Option<Markup> {
        let (title, caption) = (&self.title, &self.caption);
        let svg = titled(&self.plot.svg()?, &format!("{title}: {caption}"));
        // Text keeps its size, so that it can be read on a phone.
        let least = (f64::from(self.plot.width) * READABLE_SHARE).round();
        Some(html! {
            figure class=[self.wide.then_some("wide")] {
                figcaption { b { (title) } " " (caption) }
                div.scroll tabindex="0" {
                    div style={ "min-width:" (least) "px" } { (svg) }
                }
            }
        })
    }
}

/// A drawing with a name for those who cannot see it.
fn titled(svg: &str, title: &str) -> Markup {
    let Some((tag, drawing)) = svg.split_once('>') else {
        return PreEscaped(svg.to_string());
    };
    let tag = tag.replacen("<svg", "<svg role=\"img\"", 1);
    html! { (PreEscaped(tag)) (PreEscaped(">")) title { (title) } (PreEscaped(drawing)) }
}

fn class_of(tone: Tone) -> &'static str {
    match tone {
        Tone::In => "in",
        Tone::Out => "out",
        Tone::Relay => "relay",
        Tone::Queue => "queue",
        Tone::Problem => "problem",
        Tone::Ink => "ink",
        Tone::Muted => "muted",
        Tone::Grid => "grid",
    }
}

/// The tones as variables, and rules that give the drawn colours to them.
fn colours() -> String {
    let (mut light, mut dark, mut rules) = (String::new(), String::new(), String::new());
    for tone in Tone::ALL {
        let name = class_of(tone);
        let [on_white, on_black] = tone.light_and_dark().map(hex);
        let _ = write!(light, "--{name}:{on_white};");
        let _ = write!(dark, "--{name}:{on_black};");
        let _ = writeln!(
            rules,
            "svg [stroke=\"{on_white}\"]{{stroke:var(--{name})}} svg [fill=\"{on_white}\"]{{fill:var(--{name})}}"
        );
    }
    format!(
        ":root{{{light}--paper:#FFFFFF;--card:#F7F8FA}}\n\
         @media screen and (prefers-color-scheme:dark){{:root{{{dark}--paper:#14181D;--card:#1C2127}}}}\n{rules}"
    )
}

fn hex((red, green, blue): (u8, u8, u8)) -> String {
    format!("#{red:02X}{green:02X}{blue:02X}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages::plot::{Scale, Series};

    #[test]
    fn what_is_quoted_is_escaped() {
        let evil = "<script>alert('x')</script>&\"";
        let mut page = Page::new(evil, evil);
        page.verdict(evil, &[]);
        page.verdict("", &[evil.to_string()]);
        page.section(evil);
        page.paragraph(evil);
        page.table(&[evil], &[vec![evil.to_string()]]);
        page.list(&[(evil.to_string(), evil.to_string())]);
        page.code(evil);
        let html = page.finish();
        assert!(!html.contains("<script"), "{html}");
        assert_eq!(html.matches("&lt;script&gt;").count(), 12);
        assert_eq!(html.matches("&amp;&quot;").count(), 12);
    }

    #[test]
    fn every_drawing_has_a_name_a_role_and_a_size_that_can_be_read() {
        let plot = Plot {
            width: 1000,
            height: 200,
            x: Scale::time(1.0),
            y: Scale::time(1.0),
            series: vec![Series::line("a", Tone::In, vec![(0.0, 0.0), (1.0, 1.0)])],
            marks_x: Vec::new(),
            marks_y: Vec::new(),
        };
        let figure = Figure {
            title: "A & B".to_string(),
            caption: "by c".to_string(),
            wide: true,
            plot,
        };
        let html = figure.html().unwrap().into_string();
        assert!(html.contains("<svg role=\"img\""), "{html}");
        assert!(html.contains("><title>A &amp; B: by c</title>"), "{html}");
        assert!(html.contains("min-width:850px"), "{html}");
    }

    #[test]
    fn nothing_is_fetched() {
        let html = Page::new("a", "b").finish();
        for sign in ["http:", "https:", "src=", "@import", "url("] {
            assert!(!html.contains(sign), "{sign}");
        }
    }
}
