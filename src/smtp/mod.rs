pub mod address;
pub mod client;
pub mod command;
pub mod data;
pub mod extension;
pub mod reply;
pub mod server;
pub mod trace;
