//! What a command leaves behind: JSON, page, ledger file.

use std::io;
use std::path::Path;

use serde::Serialize;

use crate::host::files;
use crate::ledger::Ledger;
use crate::options::shared::OutputOptions;

/// The figures as JSON and their page, where they were asked for.
pub fn write_files<F: Serialize>(
    output: &OutputOptions,
    figures: &F,
    page: impl FnOnce(&F) -> String,
) -> io::Result<()> {
    write_json(output.json.as_deref(), figures)?;
    if let Some(path) = &output.html {
        files::write(path, page(figures))?;
    }
    Ok(())
}

pub fn write_json(path: Option<&Path>, figures: &impl Serialize) -> io::Result<()> {
    if let Some(path) = path {
        files::write(path, serde_json::to_vec_pretty(figures)?)?;
    }
    Ok(())
}

/// Writes a source's ledger file.
pub fn write_ledger(ledger: &Ledger, messages: u64, path: &Path) -> io::Result<()> {
    let mut out = io::BufWriter::new(files::create(path)?);
    ledger.write_fates(messages, &mut out)?;
    io::Write::flush(&mut out)
}
