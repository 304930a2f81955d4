//! Flags that several commands have: the relay under test, the verdict, the output.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use crate::host::files;
use crate::options::sink::{SinkOptions, sink_settings};
use crate::options::source::{SourceOptions, source_settings};

#[derive(Args, Clone, Debug)]
pub struct RelayOptions {
    /// Command that starts the relay. Replaced in it: {listen} {listen_ip} {listen_port} {sink}
    /// {sink_ip} {sink_port} {spool}, and with --mx-hosts {dns} {dns_ip} {dns_port}. Words are
    /// split at blanks; quotes keep them together
    #[arg(long, value_name = "COMMAND")]
    pub relay_cmd: Option<String>,
    /// Directory for {spool} (otherwise a temporary one, removed after a clean run)
    #[arg(long, value_name = "DIR")]
    pub spool: Option<PathBuf>,
    /// Where the relay writes stdout and stderr (otherwise a file in the temporary directory)
    #[arg(long, value_name = "FILE")]
    pub relay_log: Option<PathBuf>,
    /// Address for {listen} (port 0: any free one)
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    pub relay_listen: SocketAddr,
    /// Seconds the relay may take to greet after its start
    #[arg(long, default_value_t = 20.0, value_name = "SECONDS")]
    pub relay_start: f64,
}

#[derive(Args, Clone, Debug)]
pub struct JudgeOptions {
    /// Seconds without any arrival after which what is still outstanding counts as lost
    #[arg(long, default_value_t = 30.0, value_name = "SECONDS")]
    pub settle: f64,
    /// Milliseconds of silence to wait for late duplicates once everything arrived
    #[arg(long, default_value_t = 500, value_name = "MS")]
    pub linger_ms: u64,
    /// Recipients that got a message twice are reported, but are no failure
    #[arg(long)]
    pub allow_duplicates: bool,
}

#[derive(Args, Clone, Debug, Default)]
pub struct OutputOptions {
    /// Write the figures as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write a page with plots, all in one file
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Words for JSON and page: what was tested, e.g. its version and commit
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    pub note: String,
    /// No progress
    #[arg(long)]
    pub quiet: bool,
}

impl OutputOptions {
    /// Before a test that would be for nothing.
    pub fn check_files(&self) -> std::io::Result<()> {
        let mut files = self.json.iter().chain(&self.html);
        files.try_for_each(|path| files::check_writable(path))
    }

    /// For commands that see one side only, and have no page.
    pub fn check_no_page(&self) -> Result<(), String> {
        if self.html.is_some() || !self.note.is_empty() {
            return Err("--html and --note are for run, kill-test, compare and ramp".into());
        }
        Ok(())
    }
}

/// What shaped the load, as names and values for a report.
pub fn settings(source: &SourceOptions, sink: &SinkOptions) -> Vec<(String, String)> {
    let mut settings = source_settings(source);
    settings.extend(sink_settings(sink));
    let texts = settings.into_iter();
    texts
        .map(|(name, value)| (name.to_string(), value))
        .collect()
}
