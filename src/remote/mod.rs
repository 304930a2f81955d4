pub mod connection;
pub mod resolve;
pub mod route;
