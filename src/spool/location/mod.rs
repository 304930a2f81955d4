//! Where a message lies, and what is known of its recipients there.

pub mod message_location;
pub mod place;
pub mod progress;
