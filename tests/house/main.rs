//! What the sources and the pages keep to: read as text, or asked of the program.

mod flag_table;
mod layers;
mod log_table;
mod metric_table;
mod pages;
mod shape;
