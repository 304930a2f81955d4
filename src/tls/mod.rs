pub mod certificate;
pub mod client;
pub mod policy;
pub mod server;
pub mod session;
